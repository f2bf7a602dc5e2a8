"""A program whose descendants try to outlive it, each in a way of its own.

usage: escape.py FOLDER [KIND ...]

Every descendant writes its pid and start time into FOLDER/KIND.pid; the one that re-forks all the time, whose pid is never
the same, holds a lock on FOLDER/refork.lock instead. When all have begun, FOLDER/all is made. Everything ends by itself
after LIFETIME seconds. Only the standard library, any Python from 3.8 on: this also runs on the far side of ssh.
"""

import ctypes
import fcntl
import os
import signal
import sys
import threading
import time

LIFETIME = 90
FOLDER = sys.argv[1] if len(sys.argv) > 1 else "."
END = time.time() + LIFETIME


def begun(kind, pid=None):
    pid = pid or os.getpid()
    with open(f"/proc/{pid}/stat", "rb") as file:
        start = file.read().rpartition(b")")[2].split()[19].decode()
    path = f"{FOLDER}/{kind}.pid"
    with open(path + ".new", "w") as file:
        file.write(f"{pid} {start}")
    os.rename(path + ".new", path)


def linger():
    while time.time() < END:
        time.sleep(max(0.0, min(5.0, END - time.time())))
    os._exit(0)


def stay(kind):
    begun(kind)
    linger()


def session(kind):
    os.setsid()
    stay(kind)


def daemon(kind):
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    stay(kind)


def empty_environment(kind):
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execve(sys.executable, [sys.executable, "-I", "-S", __file__, FOLDER, "--stay", kind], {})


def new_title(kind):
    os.setsid()
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    for first, last in ((45, 46), (47, 48)):
        begin, end = int(fields[first]), int(fields[last])
        ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(int(fields[45]), b"kworker/0:1", 11)
    stay(kind)


def ignore_signals(kind):
    for signum in range(1, 65):
        try:
            signal.signal(signum, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    stay(kind)


def stopped(kind):
    os.setsid()
    begun(kind)
    os.kill(os.getpid(), signal.SIGSTOP)
    linger()


def refork(kind):
    lock = os.open(f"{FOLDER}/{kind}.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    while time.time() < END:
        if os.fork():
            os._exit(0)
        os.setsid()


def closed_files(kind):
    os.setsid()
    if os.fork():
        os._exit(0)
    begun(kind)
    os.closerange(0, 1024)
    linger()


def from_thread(kind):
    def run():
        if os.fork() == 0:
            session(kind)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    linger()


def deep(kind):
    for _ in range(12):
        os.setsid()
        if os.fork():
            linger()
    stay(kind)


def respawning(kind):
    """A pair that watch each other: whoever sees the other gone starts another."""
    begun(kind)
    while time.time() < END:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            linger()
        os.waitpid(pid, 0)


def clone_parent(kind):
    libc = ctypes.CDLL(None, use_errno=True)
    # clone(CLONE_PARENT | SIGCHLD) gives the child our own parent.
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    if libc.syscall(number, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os.setsid()
        stay(kind)
    os._exit(0)


def dead_leader(kind):
    """Its first thread ends: the process table shows a zombie, which lives in another thread."""
    os.setsid()
    if os.fork():
        os._exit(0)
    begun(kind)
    threading.Thread(target=linger).start()
    ctypes.CDLL(None).pthread_exit(None)


KINDS = {
    "session": session,
    "daemon": daemon,
    "empty_environment": empty_environment,
    "new_title": new_title,
    "ignore_signals": ignore_signals,
    "stopped": stopped,
    "refork": refork,
    "closed_files": closed_files,
    "from_thread": from_thread,
    "deep": deep,
    "respawning": respawning,
    "clone_parent": clone_parent,
    "dead_leader": dead_leader,
}


def other_user(kind):
    begun(kind)
    os.setgid(65534)
    os.setuid(65534)
    linger()


def leave_cgroup(kind):
    for line in open("/proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            with open(left.split()[4] + "/cgroup.procs", "w") as file:
                file.write("0")
    os.setsid()
    stay(kind)


ROOT_KINDS = {"other_user": other_user, "leave_cgroup": leave_cgroup}


def main():
    if sys.argv[2:3] == ["--stay"]:
        stay(sys.argv[3])
    kinds = sys.argv[2:] or list(KINDS)
    for kind in kinds:
        if os.fork() == 0:
            try:
                {**KINDS, **ROOT_KINDS}[kind](kind)
            finally:
                os._exit(1)
    signs = [f"{FOLDER}/{kind}.{'lock' if kind == 'refork' else 'pid'}" for kind in kinds]
    while not all(map(os.path.exists, signs)) and time.time() < END:
        time.sleep(0.005)
    open(f"{FOLDER}/all", "w").close()
    linger()


if __name__ == "__main__":
    main()
