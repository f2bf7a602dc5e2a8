"""The main job, on a real server: gunicorn with workers and a daemonised helper, whose owner is killed with SIGKILL.

    make demo

The owner is a process of its own, so that it can be killed. What is left of it afterwards is looked up in the process table.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tether.linux import proc, tree

WORKERS = 4
PATIENCE_S = 30.0

APP = """
import os, subprocess
if not os.path.exists("helper.pid"):
    # A helper that makes a daemon of itself: its own session, no parent, nothing in its environment.
    subprocess.run(["setsid", "-f", "env", "-i", "/bin/sh", "-c", "echo $$ > helper.pid; exec /bin/sleep 100"])
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello from worker %d\\n" % os.getpid()]
"""

OWNER = """
import json, signal, sys
from tether import Owner, Process, http
owner = Owner("demo")
argv = [sys.executable, "-m", "gunicorn", "--workers", sys.argv[1], "--bind", "127.0.0.1:{port}", "app:app"]
server = owner.start(Process(argv, name="gunicorn", cwd=sys.argv[2], ready=http("/")))
status = owner.status()
print(json.dumps({"url": server.url, "pids": server.pids(), "tier": status["tier"], "hub": status["hub"]}), flush=True)
signal.pause()
"""


def say(text: str = "") -> None:
    """Print at once."""
    print(text, flush=True)


def fetch(url: str) -> str:
    """Return what the server answers."""
    import urllib.request

    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode().strip())


def wait_for(path: Path) -> str:
    """Return the text of a file that is about to be there."""
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists() or not path.read_text().strip():
        if time.monotonic() > deadline:
            sys.exit(f"{path.name} did not appear")
        time.sleep(0.01)
    return path.read_text().strip()


def identities(pids: list[int]) -> dict[int, int]:
    """Return the start time of each pid: a pid alone may mean another process by the time it is looked at."""
    return {pid: start for pid in pids if (start := proc.start_time(pid)) is not None}


def alive(processes: dict[int, int]) -> list[int]:
    """Return those that still run."""
    return [pid for pid, start in processes.items() if proc.start_time(pid) == start and tree.is_running(pid)]


def main() -> None:
    """Start, show, kill, look."""
    with tempfile.TemporaryDirectory(prefix="tether-demo-") as folder:
        work = Path(folder)
        (work / "app.py").write_text(APP)
        environ = {**os.environ, "TETHER_STATE_DIR": str(work / "state")}
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(WORKERS), str(work)], stdout=subprocess.PIPE, text=True, env=environ
        )
        assert owner.stdout is not None
        try:
            said = json.loads(owner.stdout.readline())
            helper = int(wait_for(work / "helper.pid"))
            say(f"owner {owner.pid} started gunicorn (tier {said['tier']}); {said['url']} says: {fetch(said['url'])}")
            say(f"its helper {helper} is a daemon: session {os.getsid(helper)}, no terminal, empty environment")
            say()
            say(
                subprocess.run(
                    [sys.executable, "-m", "tether", "tree"], env=environ, capture_output=True, text=True, check=True
                ).stdout
            )
            # The guard is no child of the app, and goes on a moment to put the end on record.
            guard = identities([said["hub"]])
            processes = identities([owner.pid, *tree.descendants(said["hub"]), helper])
            say(f"{len(processes)} processes, beside the owner's guard. kill -9 {owner.pid}")
            began = time.monotonic()
            os.kill(owner.pid, signal.SIGKILL)
        finally:
            owner.kill()
            owner.wait()
            owner.stdout.close()
        while (left := alive(processes)) and time.monotonic() - began < PATIENCE_S:
            time.sleep(0.001)
        took_ms = (time.monotonic() - began) * 1000
        while alive(guard) and time.monotonic() - began < PATIENCE_S:
            time.sleep(0.005)
        table = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        found = [line for line in table.splitlines() if folder in line or "app:app" in line]
        if left or found:
            sys.exit(f"still there: {left} {found}")
        say(f"after {took_ms:.0f} ms none of them runs, and the process table has no trace of the server")
        say()
        say("what the ledger says:")
        say(
            subprocess.run(
                [sys.executable, "-m", "tether", "events", "-n", "3"],
                env=environ,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.rstrip()
        )


if __name__ == "__main__":
    main()
