"""What runs on a host without Python: POSIX sh. The lease holds there too, but what leaves the command's process group escapes.

Each request is a script on the standard input of a shell of its own, so that no value is to be seen in the process table. A
watcher, a shell that stays, waits for the command and ends its process group when the lease is over.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from tether.drivers.ssh.agent import FarError
from tether.errors import DriverUnavailable

if TYPE_CHECKING:
    import asyncssh

__all__ = ["FarShell"]

_COMMON = """
umask 077
h=${HOME:-/tmp}/.local/state/tether-far-sh
mkdir -p "$h" || exit 28
t=%(tag)s
d=$h/$t
alive() { [ -s "$d/who" ] && kill -0 "$(cat "$d/who")" 2>/dev/null; }
"""

_SPAWN = """
mkdir "$d" || exit 17
echo %(lease_whole)s > "$d/begun" && [ -s "$d/begun" ] || { rm -rf "$d"; exit 28; }
cd -- %(cwd)s 2>/dev/null || { rm -rf "$d"; echo %(cwd)s; exit 2; }
%(env)s
command -v %(program)s >/dev/null 2>&1 || { rm -rf "$d"; echo %(program)s; exit 2; }
echo "$(($(date +%%s) + %(lease_whole)s))" > "$d/lease"
export TETHER_RESOURCE=$t
(
trap '' HUP
%(umask)s
# A process group of its own, by the program that some systems have or the shell's job control; else the command alone is held.
if command -v setsid >/dev/null 2>&1; then
  setsid %(argv)s >"$d/log" 2>&1 </dev/null &
  main=$!
else
  set -m 2>/dev/null
  %(argv)s >"$d/log" 2>&1 </dev/null &
  main=$!
  set +m 2>/dev/null
fi
n=0
while ! kill -0 "-$main" 2>/dev/null && kill -0 "$main" 2>/dev/null && [ $n -lt 10 ]; do
  n=$((n + 1)); sleep 0.02 2>/dev/null || sleep 1
done
if kill -0 "-$main" 2>/dev/null; then who=-$main; else who=$main; fi
echo "$who" > "$d/who"
echo "$main" > "$d/main.new" && mv "$d/main.new" "$d/main"
( while kill -0 "$who" 2>/dev/null || kill -0 "$main" 2>/dev/null; do
    over=$(cat "$d/lease" 2>/dev/null || echo 0)
    kept=$((over + %(keep)s))
    if [ "$(date +%%s)" -ge "$kept" ]; then echo "its lease was over" > "$d/why"; kill -9 "$who" 2>/dev/null; fi
    sleep 1
  done ) &
wait "$main"
echo $? > "$d/status.new" && mv "$d/status.new" "$d/status"
wait
: > "$d/ended"
) >/dev/null 2>&1 </dev/null &
n=0
while [ ! -s "$d/main" ] && [ $n -lt 100 ]; do n=$((n + 1)); sleep 0.05 2>/dev/null || sleep 1; done
cat "$d/main"
"""

_LOOK = """
[ -d "$d" ] || { echo unknown; exit 0; }
if alive; then echo alive; else echo dead; fi
cat "$d/main" 2>/dev/null || echo 0
cat "$d/status" 2>/dev/null || echo none
cat "$d/why" 2>/dev/null || echo ended by itself
"""

_STOP = """
[ -d "$d" ] || { echo gone; exit 0; }
alive || { echo gone; exit 0; }
[ -s "$d/why" ] || echo %(why)s > "$d/why"
who=$(cat "$d/who")
kill -%(signal)s "$who" 2>/dev/null
kill -CONT "$who" 2>/dev/null
n=0
while alive && [ $n -lt %(rounds)s ]; do n=$((n + 1)); sleep 0.1 2>/dev/null || { sleep 1; n=$((n + 9)); }; done
n=0
while alive && [ $n -lt 100 ]; do kill -9 "$who" 2>/dev/null; n=$((n + 1)); sleep 0.1 2>/dev/null || sleep 1; done
n=0
while [ ! -e "$d/ended" ] && [ $n -lt 30 ]; do n=$((n + 1)); sleep 0.1 2>/dev/null || sleep 1; done
echo gone
"""

# Two may clear at once: an rm that another one is ahead of fails.
_CLEAR = """
alive && exit 16
n=0
while [ -e "$d" ] && [ $n -lt 10 ]; do rm -rf "$d" 2>/dev/null; n=$((n + 1)); done
[ ! -e "$d" ] || rm -rf "$d"
"""


def _bytes(said: bytes | str | None) -> bytes:
    return said if isinstance(said, bytes) else b""


class FarShell:
    """Answers the same requests as far.py's agent, without events: what ends is seen at the next renewal."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection

    async def _run(self, script: str, tag: str = "none") -> str:
        done = await self._connection.run(
            "exec sh -s",
            input=(_COMMON % {"tag": shlex.quote(tag)} + script).encode(errors="surrogateescape"),
            encoding=None,
        )
        said = _bytes(done.stdout).decode("latin-1")
        if done.exit_status:
            wrong = _bytes(done.stderr).decode(errors="replace").strip()
            raise FarError(done.exit_status, wrong or "it was refused", said.strip())
        return said

    async def greet(self) -> dict[str, Any]:
        """Say what is there. Raises DriverUnavailable if not even sh is."""
        try:
            boot = await self._run("cat /proc/sys/kernel/random/boot_id 2>/dev/null || uname -n")
        except Exception as error:
            raise DriverUnavailable(f"there is neither Python nor a POSIX sh: {error}") from error
        return {"boot": boot.strip(), "python": None, "home": "~/.local/state/tether-far-sh"}

    async def call(self, request: dict[str, Any]) -> Any:
        """See `tether.drivers.ssh.agent.Far`."""
        return await getattr(self, "_" + request["do"])(request)

    async def _spawn(self, request: dict[str, Any]) -> dict[str, Any]:
        env = "\n".join(
            f"unset {name}" if value is None else f"{name}={shlex.quote(value)}; export {name}"
            for name, value in request["env"].items()
        )
        said = await self._run(
            _SPAWN
            % {
                "lease_whole": max(1, round(request["lease"])),
                "keep": round(request["keep_for"]) if request["on_death"] == "keep" else 0,
                "cwd": shlex.quote(request["cwd"]) if request["cwd"] else '"$HOME"',
                "env": env,
                "program": shlex.quote(request["argv"][0]),
                "argv": " ".join(map(shlex.quote, request["argv"])),
                "umask": "" if request["umask"] is None else f"umask {request['umask']:o}",
            },
            request["tag"],
        )
        boot = (await self.greet())["boot"]
        return {"shim": [0, 0], "main": [int(said), 0], "boot": boot}

    async def _renew(self, request: dict[str, Any]) -> dict[str, bool]:
        lines = [
            f't={shlex.quote(tag)}; d=$h/$t; alive && echo "$(($(date +%s) + {max(1, round(lease))}))" > "$d/lease" && echo "$t"'
            for tag, (lease, _) in request["tags"].items()
        ]
        there = (await self._run("\n".join([*lines, "true"]))).split()
        return {tag: tag in there for tag in request["tags"]}

    async def _look(self, request: dict[str, Any]) -> dict[str, Any]:
        lines = (await self._run(_LOOK, request["tag"])).splitlines()
        if lines == ["unknown"]:
            return {"known": False}
        alive, main = lines[0] == "alive", int(lines[1])
        status = None if lines[2] == "none" else int(lines[2])
        # A shell says 128 and the number for a signal.
        status = 128 - status if status is not None and status > 128 else status
        receipt = {"status": status, "why": lines[3], "said": "the shell there saw its process group end"}
        return {
            "known": True,
            "who": {"shim": [0, 0], "main": [main, 0]},
            "alive": alive,
            "pids": [main] if alive else [],
            "cpu_s": None,
            "memory": None,
            "exited": status,
            "ended": None if alive or not main else receipt,
        }

    async def _stop(self, request: dict[str, Any]) -> str:
        values = {
            "why": shlex.quote(request["why"]),
            "signal": request["signal"] if request["grace"] > 0 else 9,
            "rounds": round(10 * request["grace"]),
        }
        return (await self._run(_STOP % values, request["tag"])).strip()

    async def _log(self, request: dict[str, Any]) -> dict[str, Any]:
        offset = request["offset"]
        part = f"tail -c {-offset}" if offset < 0 else f"tail -c +{offset + 1}"
        said = await self._run(
            f'[ -e "$d/log" ] || {{ echo 0; exit 0; }}; wc -c < "$d/log"; {part} < "$d/log" | head -c {request["size"]}',
            request["tag"],
        )
        size, _, data = said.partition("\n")
        return {"offset": max(0, int(size) + offset) if offset < 0 else offset, "data": data, "size": int(size)}

    async def _clear(self, request: dict[str, Any]) -> bool:
        await self._run(_CLEAR, request["tag"])
        return True

    async def _port(self, _: dict[str, Any]) -> int:
        import random

        return random.SystemRandom().randrange(20000, 60000)

    async def _listens(self, _: dict[str, Any]) -> str:
        # Whose the socket is can't be told from here.
        return ""

    async def _diagnose(self, _: dict[str, Any]) -> dict[str, Any]:
        free = (await self._run('df -Pk "$h" | tail -1')).split()
        running = (
            await self._run(
                'for each in "$h"/*; do [ -d "$each" ] && [ ! -e "$each/ended" ] && basename "$each"; done; true'
            )
        ).split()
        return {"children": False, "free": int(free[3]) * 1024, "running": running}
