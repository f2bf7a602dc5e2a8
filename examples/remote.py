"""A server on another host, reached through a forwarded port, that ends with its owner.

python examples/remote.py user@host [known_hosts] [key]

Without a host it starts an sshd of its own on a loopback port, with keys that it makes.
"""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tether import Owner, Process, RemoteProcess, http, tcp


@contextmanager
def own_sshd() -> Iterator[dict[str, Any]]:
    """Start an sshd for this user, which ends with this program, and say how it is reached."""
    sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin")
    if sshd is None:
        sys.exit("this example needs an sshd: apt install openssh-server")
    with tempfile.TemporaryDirectory() as name, Owner("example-sshd") as owner:
        folder = Path(name)
        Path("/run/sshd").mkdir(exist_ok=True)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        settings = (
            f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nPidFile none\nUsePAM no\nStrictModes no\n"
        )
        (folder / "config").write_text(settings)
        argv = [sshd, "-D", "-e", "-f", str(folder / "config"), "-o", "ListenAddress=127.0.0.1:{port}"]
        server = owner.start(Process(argv, name="sshd", ready=tcp()))
        port = int((server.url or "").rpartition(":")[2])
        public = " ".join((folder / "host.pub").read_text().split()[:2])
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
        yield {
            "host": f"{getpass.getuser()}@127.0.0.1",
            "port": port,
            "known_hosts": folder / "known_hosts",
            "key": folder / "user",
        }


def use(where: dict[str, Any]) -> None:
    """Start a web server there, use it, and leave: nothing of it stays."""
    with Owner("example") as owner:
        argv = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "{port}"]
        began = time.monotonic()
        web = owner.start(
            RemoteProcess(argv=argv, name="web", cwd="/etc", ready=http("/"), lease=10, **where), on_progress=print
        )
        print(f"serving at {web.url} after {time.monotonic() - began:.1f} s: pid {web.details['far_pid']} there")
        with urlopen(f"{web.url}/hostname") as answer:
            print("its hostname is", answer.read().decode().strip())
    print("after the end:", web.state.value)


def main() -> None:
    """Use the given host, or one of its own."""
    if len(sys.argv) == 1:
        with own_sshd() as where:
            use(where)
    else:
        names = ("host", "known_hosts", "key")
        use(dict(zip(names, sys.argv[1:], strict=False)))


if __name__ == "__main__":
    main()
