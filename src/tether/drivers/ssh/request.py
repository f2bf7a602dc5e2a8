"""What the guard on another host is asked to hold."""

from __future__ import annotations

from typing import Any

from tether.drivers.ssh.spec import RemoteProcess
from tether.model import OnDeath
from tether.port import put_port

__all__ = ["build"]

_ON_DEATH: dict[OnDeath, int] = {"kill": 0, "stop": 1, "keep": 2}
_MOST_S = 1e9


def build(spec: RemoteProcess, port: int | None, on_death: OnDeath) -> dict[str, Any]:
    """Return the fields of a request.

    Args:
        spec: the resource's.
        port: what ``{port}`` stands for, there.
        on_death: the rule that holds.
    """
    return {
        "life": 1,
        "fence": 1,
        "lease_ms": _ms(spec.lease),
        "arg": [put_port(str(word), port) for word in spec.argv],
        # One without a value is unset.
        "env": [name if value is None else f"{name}={put_port(value, port)}" for name, value in spec.env.items()],
        "cwd": spec.cwd,
        "umask": spec.umask,
        "on_death": _ON_DEATH[on_death],
        "keep_ms": _ms(spec.keep_for),
        "to_main": int(spec.stop_to == "main"),
        "step_signal": int(spec.stop_signal),
        "step_ms": _ms(spec.stop_grace),
    }


def _ms(seconds: float) -> int:
    return int(min(seconds, _MOST_S) * 1000)
