"""The key pair that is made for a machine: the private half is a file of the state directory, and goes with the machine."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tether.errors import DriverUnavailable
from tether.ledger import place

__all__ = ["make", "path", "remove"]

_KEYGEN_S = 20.0


def path(state_dir: Path, tag: str) -> Path:
    """Return where the private key of a machine is."""
    return state_dir / "run" / f"{tag}.key"


def make(state_dir: Path, tag: str) -> str:
    """Make a key pair, and return its public half.

    Raises:
        DriverUnavailable: there is no ssh-keygen here.
    """
    program = shutil.which("ssh-keygen")
    if program is None:
        raise DriverUnavailable(
            "there is no ssh-keygen here to make a key pair with; install OpenSSH's client, or use key=False or key='NAME'"
        )
    with tempfile.TemporaryDirectory(prefix="tether-key-") as folder:
        made = Path(folder) / "key"
        done = subprocess.run(
            [program, "-q", "-t", "ed25519", "-N", "", "-C", f"tether-{tag}", "-f", made],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_KEYGEN_S,
        )
        if done.returncode != 0:
            raise DriverUnavailable(f"ssh-keygen could not make a key pair: {done.stderr.strip()}")
        place.write_private(path(state_dir, tag), made.read_bytes())
        return made.with_suffix(".pub").read_text().strip()


def remove(state_dir: Path, tag: str) -> None:
    """Remove the private key, if there is one."""
    path(state_dir, tag).unlink(missing_ok=True)
