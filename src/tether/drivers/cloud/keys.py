"""The two key pairs that are made for a machine: one to log in with, and the machine's own, by which it is known.

Of the first the private half is a file of the state directory, of the second the public one. Both go with the machine, and not
before: where the file of the second is gone, the machine was seen to be gone.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tether.errors import DriverUnavailable
from tether.ledger import place

__all__ = ["known_path", "make", "make_host_key", "path", "remove"]

_KEYGEN_S = 20.0


def path(state_dir: Path, tag: str) -> Path:
    """Return where the private key of a machine is."""
    return state_dir / "run" / f"{tag}.key"


def known_path(state_dir: Path, tag: str) -> Path:
    """Return where the host key of a machine is, in the form of a known_hosts file, whatever the machine's address."""
    return state_dir / "run" / f"{tag}.known"


def make(state_dir: Path, tag: str) -> str:
    """Make a key pair to log in with, and return its public half. Raises DriverUnavailable if there is no ssh-keygen here."""
    private, public = _pair(f"tether-{tag}")
    place.write_private(path(state_dir, tag), private)
    return public


def make_host_key(state_dir: Path, tag: str) -> tuple[bytes, str]:
    """Make the host key of a machine, to be installed there, and return both halves. Raises as `make`."""
    private, public = _pair("")
    place.write_private(known_path(state_dir, tag), f"* {public}\n".encode())
    return private, public


def _pair(comment: str) -> tuple[bytes, str]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise DriverUnavailable(
            "there is no ssh-keygen here to make a key pair with; install OpenSSH's client, or use key=False or key='NAME'"
        )
    with tempfile.TemporaryDirectory(prefix="tether-key-") as folder:
        made = Path(folder) / "key"
        done = subprocess.run(
            [program, "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", made],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_KEYGEN_S,
        )
        if done.returncode != 0:
            raise DriverUnavailable(f"ssh-keygen could not make a key pair: {done.stderr.strip()}")
        return made.read_bytes(), made.with_suffix(".pub").read_text().strip()


def remove(state_dir: Path, tag: str) -> None:
    """Remove both, if they are there."""
    path(state_dir, tag).unlink(missing_ok=True)
    known_path(state_dir, tag).unlink(missing_ok=True)
