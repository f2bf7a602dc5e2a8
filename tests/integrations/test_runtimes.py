"""Apps whose Python is not as usual: gevent and eventlet have replaced its waiting, freezegun its clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from support import Runner, eventually, is_alive
from tether.linux import proc, sockets

WORK = """
import json, os, sys, time
from pathlib import Path
from tether import Owner, Process

folder = Path(sys.argv[1])

def after(name):
    "Somebody else of this process: he makes a file once the other one waits, and never if he is held up."
    sleep(0.2)
    (folder / name).touch()

def until(name):
    return f"until [ -e {folder / name} ]; do sleep 0.02; done"

with Owner("green", state_dir=folder / "state") as owner:
    job = owner.start(Process(["sh", "-c", until("wait") + "; exit 4"], name="job"))
    spawn(after, "wait")
    waited = job.wait(60)
    deaf = owner.start(Process(["sh", "-c", f"trap '{until('stop')}; exit 5' TERM; touch {folder}/up; while :; do sleep 0.02; done"],
                               name="deaf", stop_grace=60))
    while not (folder / "up").exists():
        sleep(0.02)
    spawn(after, "stop")
    deaf.stop()
    many = [spawn(lambda number: owner.start(Process(["sh", "-c", f"exit {number}"])).wait(60), each) for each in range(10)]
    codes = [join(each) for each in many]
    left = owner.start(Process(["sleep", "110"]))
    pid = left.pid
    shown = owner.status()["resources"][0]["state"]
print(json.dumps([waited, deaf.exit_code, codes, shown, left.state, Path(f"/proc/{pid}").exists()]))
"""

GEVENT = """
import gevent.monkey; gevent.monkey.patch_all()
import gevent
spawn, sleep = gevent.spawn, gevent.sleep
join = lambda each: each.get(timeout=60)
"""

EVENTLET = """
import os, warnings; warnings.simplefilter("ignore"); os.environ["EVENTLET_NO_GREENDNS"] = "yes"
import eventlet; eventlet.monkey_patch()
spawn, sleep = eventlet.spawn, eventlet.sleep
join = lambda each: each.wait()
"""

FREEZEGUN = """
from concurrent.futures import ThreadPoolExecutor
from threading import Event
import freezegun
pool = ThreadPoolExecutor(20)
spawn, join = pool.submit, lambda each: each.result(60)
sleep = Event().wait
freezegun.freeze_time("2012-01-14").start()
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", [GEVENT, EVENTLET, FREEZEGUN], ids=["gevent", "eventlet", "freezegun"])
def test_everything_works_and_nobody_is_held_up(runner: Runner, before: str) -> None:
    """Start, wait, stop, status and shutdown: others of the process go on meanwhile. Slow: it waits for others."""
    with runner.popen(before + WORK, runner.new_folder()) as app:
        said, _ = app.communicate(timeout=100)
    assert json.loads(said) == [4, 5, list(range(10)), "ready", "gone", False]


APP = """
import os
from tether import Owner, Process

owner = None

def app(environ, start_response):
    global owner
    if owner is None:
        owner = Owner("worker")
    if environ["PATH_INFO"] == "/wait":
        said = owner.start(Process(["sh", "-c", "exit 3"])).wait(30)
    elif environ["PATH_INFO"] == "/block":
        # Until somebody else asks for /go: another greenlet of this one worker.
        said = owner.start(Process(["sh", "-c", f"until [ -e {os.environ['FOLDER']}/go ]; do sleep 0.05; done; exit 6"])).wait(60)
    elif environ["PATH_INFO"] == "/go":
        open(os.path.join(os.environ["FOLDER"], "go"), "w").close()
        said = "gone"
    else:
        said = f"{os.getpid()} {owner.start(Process(['sleep', '110'])).pid}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(said).encode()]
"""


@pytest.mark.slow
def test_a_worker_of_gunicorn_with_gevent(tmp_path: Path, private_state: Path) -> None:
    """One worker, which serves others while it waits; killed, it leaves nothing. Slow: a server with workers."""
    (tmp_path / "app.py").write_text(APP)
    port = sockets.free_port()
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-k",
        "gevent",
        "--workers",
        "1",
        "--bind",
        f"127.0.0.1:{port}",
        "--timeout",
        "60",
    ]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            ["timeout", "110", *command, "app:app"],
            cwd=tmp_path,
            stderr=log,
            env={**os.environ, "FOLDER": str(tmp_path)},
        )

    def ask(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    def answers() -> bool:
        try:
            return ask("/go") == "gone"
        except OSError:
            return False

    try:
        eventually(answers, 40, (tmp_path / "log").read_text())
        (tmp_path / "go").unlink()
        assert ask("/wait") == "3"
        blocked = subprocess.Popen(["curl", "-s", f"http://127.0.0.1:{port}/block"], stdout=subprocess.PIPE, text=True)
        worker, pid = map(int, ask("/start").split())
        stat = proc.read_stat(pid)
        assert stat is not None
        assert ask("/go") == "gone"
        assert blocked.communicate(timeout=60)[0] == "6"
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: not is_alive(pid, stat.start), 20)
        # A signal that comes before the next worker has its handlers is lost on it, and gunicorn then waits.
        eventually(answers, 40)
    finally:
        server.terminate()
        server.wait(60)
