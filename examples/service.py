"""A server that somebody else runs: watched, lost, found again, and never ended.

python examples/service.py
"""

from __future__ import annotations

import subprocess
import sys
import time

from tether import Owner, Resource, Service, State
from tether.linux.sockets import free_port


def await_state(service: Resource, state: State) -> None:
    """Wait until the service is in a state, and say so."""
    while service.state is not state:
        time.sleep(0.05)
    print("now", service.state.value, service.reason)


def main() -> None:
    """Watch a server that is stopped and started again by its own people."""
    port = free_port()
    theirs = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    server = subprocess.Popen(theirs, stderr=subprocess.DEVNULL)
    try:
        with Owner("example") as owner:
            api = owner.start(Service(f"http://127.0.0.1:{port}", name="api", check_every=0.1))
            await_state(api, State.READY)
            server.kill()
            server.wait()
            await_state(api, State.LOST)
            server = subprocess.Popen(theirs, stderr=subprocess.DEVNULL)
            await_state(api, State.READY)
        print("let go of it; it is", "still there" if server.poll() is None else "gone")
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
