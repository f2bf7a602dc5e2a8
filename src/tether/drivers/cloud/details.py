"""What is told of a machine, and of the providers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tether.drivers.cloud import keys
from tether.drivers.cloud.provider import provider_class, providers
from tether.drivers.cloud.watch import Held
from tether.model import Finding, Handle

__all__ = ["finding", "of"]


def of(handle: Handle, held: Held | None, address: str | None, state_dir: Path) -> dict[str, Any]:
    """Return what consumers look for: ready for JSON, no secrets.

    Args:
        handle: the machine's.
        held: what its owner knows of it; None for who only looks.
        address: where it is reached.
        state_dir: where the keys are that were made for it.
    """
    data = handle.data
    lease = held.lease if held is not None else None
    rate, made = data.get("cost_per_hour"), data.get("made")
    so_far = None if rate is None or made is None else round(rate * max(0.0, time.time() - made) / 3600, 6)
    known = keys.known_path(state_dir, handle.tag)
    return {
        "provider": data["provider"],
        "region": data["where"].get("region"),
        "instance_id": data.get("id"),
        "instance_type": data.get("type"),
        "gpu": data.get("gpu"),
        "gpu_count": data.get("gpu_count", 0),
        "spot": bool(data.get("spot")),
        "ssh_host": address,
        "ssh_port": held.seen.ssh_port if held is not None and held.seen is not None else data.get("ssh_port", 22),
        "ssh_user": data.get("ssh_user"),
        "ssh_key": str(keys.path(state_dir, handle.tag)) if data.get("key") else None,
        "ssh_known_hosts": str(known) if known.exists() else None,
        "provider_status": held.seen.word if held is not None and held.seen is not None else None,
        # Another process than its owner's has proved nothing.
        "lease": None if held is None else "reaper" if lease is None else lease.tier,
        "lease_seconds": data.get("lease"),
        "lease_error": lease.error or None if lease is not None else None,
        # A cap, not a lease: it can't be put off. What the provider was told and does not say is not believed.
        "provider_ends_at": held.seen.ends if held is not None and held.seen is not None else None,
        "parts": [f"{what} {name}" for what, name in data.get("parts", ())],
        "cost_per_hour": rate,
        "cost_so_far": so_far,
    }


def finding() -> Finding:
    """Say for ``tether doctor`` which providers are here, and how each was tested."""
    said, missing = [], []
    for name in providers():
        try:
            said.append(f"{name} ({provider_class(name).tested})")
        except ImportError as error:
            missing.append(f"{name} ({error})")
    found = ", ".join(said) or "none"
    return Finding(
        "cloud providers",
        not missing,
        found,
        f"can't be used: {', '.join(missing)}" if missing else "machines can be rented",
    )
