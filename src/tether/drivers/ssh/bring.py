"""Gets ``tether-guard`` to run on another host: sends it there, unless it is there from an earlier time, and executes it.

All in one session, by whatever shell the login has: that is asked for nothing but a POSIX sh, which reads the rest as one line from
its standard input. A mark that nobody can know stands before each word of ours: what a login prints besides is passed over.
"""

from __future__ import annotations

import asyncio
import secrets
import zlib
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from tether.errors import DriverUnavailable, ReaperError
from tether.guard import binary

if TYPE_CHECKING:
    import asyncssh

__all__ = ["Reader", "bring"]

_PIECE = 32 * 1024
_SAID = 4000

_ALIASES = {"x86_64": "x86_64|amd64", "aarch64": "aarch64|arm64", "armv7l": "armv7l|armv8l|armv7"}

# Neither backslashes nor exclamation marks, on one line: csh and fish read it as a POSIX shell does.
_FIRST = """exec /bin/sh -c 'printf "%s%s+" {0} {1}; read -r s; eval "$s"'"""

# The checksum is printed rather than tested there: a shell takes an empty file for a script, and that succeeds.
_SCRIPT = """
x=$PATH; PATH=$PATH:/usr/bin:/bin; export PATH;
u=$(id -u 2>/dev/null) || while read -r k v r; do case $k in Uid:) u=$v; break;; esac; done </proc/self/status;
m=$(uname -m 2>/dev/null) || read -r m </proc/sys/kernel/arch;
case $m in CASES *) echo "MARK=machine $m"; exit;; esac;
o=$(umask); umask 077; h=/tmp; [ -n "$HOME" ] && [ -d "$HOME" ] && h=$HOME/.local/state;
own() { w=$(mkdir -p "$1" 2>&1); chmod 700 "$1" 2>/dev/null; [ -d "$1" ] && [ ! -h "$1" ] && [ -O "$1" ] && [ -w "$1" ]; };
d=; for b in "$h" /tmp /var/tmp /dev/shm; do
if own "$b/tether-far-$u"; then d=$b/tether-far-$u; break; fi; e="$e $w"; done;
if [ -z "$d" ]; then echo "MARK=folder $e"; exit; fi;
serve() { [ "$("$1" hold --sum 2>/dev/null)" = $q ] && PATH=$x && exec "$1" hold --serve "$d" --mark "MARK#" --umask $o; };
for b in "$h" /tmp /var/tmp /dev/shm; do
f=$b/tether-guard-$u/$p; if [ -O "$f" ] && [ -x "$f" ]; then serve "$f"; fi; done;
if command -v head && command -v cat; then y=head; else y=read; fi >/dev/null 2>&1; e=;
for b in "$h" /tmp /var/tmp /dev/shm; do
g=$b/tether-guard-$u; t=$g/$p.$$; if own "$g" && (true >"$t") 2>/dev/null; then
echo "MARK=put $m $y";
if [ $y = head ]; then w=$(head -c $n | { cat >"$t" || cat >/dev/null; } 2>&1);
else w=$( (while read -r l && [ -n "$l" ]; do printf "$l"; done >"$t") 2>&1); fi;
w="$w $(chmod 700 "$t" 2>&1)"; v=$("$t" hold --sum 2>&1);
if [ "$v" = $q ] && mv -f "$t" "$g/$p"; then serve "$g/$p"; fi;
rm -f "$t"; w="$w $v"; fi; e="$e $b: $w;"; done; echo "MARK=nowhere $e"
"""


class Reader:
    """What comes from a session, behind marks.

    Attributes:
        heard: when anything last came, by the loop's clock: a slow connection is not a dead one.
    """

    def __init__(self, stdout: asyncssh.SSHReader[bytes], mark: bytes) -> None:
        self.heard = asyncio.get_running_loop().time()
        self._stdout = stdout
        self._mark = mark
        self._have = bytearray()

    async def _more(self) -> bool:
        data = await self._stdout.read(1 << 18)
        self.heard = asyncio.get_running_loop().time()
        self._have += data
        return bool(data)

    async def behind_mark(self) -> bytes:
        """Pass over all up to the next mark, and return the byte behind it; empty at the end."""
        while (at := self._have.find(self._mark)) < 0 or len(self._have) <= at + len(self._mark):
            if len(self._have) > len(self._mark) and at < 0:
                del self._have[: -len(self._mark)]
            if not await self._more():
                return b""
        kind = bytes(self._have[at + len(self._mark) : at + len(self._mark) + 1])
        del self._have[: at + len(self._mark) + 1]
        return kind

    async def line(self) -> str:
        """Return the rest of a line."""
        while (at := self._have.find(b"\n")) < 0 and len(self._have) < _SAID:
            if not await self._more():
                at = len(self._have)
                break
        at = at if at >= 0 else len(self._have)
        line = bytes(self._have[:at])
        del self._have[: at + 1]
        return line.decode(errors="replace").strip()

    async def exactly(self, size: int) -> bytes:
        """Return so many bytes. Raises ConnectionResetError if fewer come."""
        while len(self._have) < size:
            if not await self._more():
                raise ConnectionResetError("the session ended in the middle of a message")
        data = bytes(self._have[:size])
        del self._have[:size]
        return data


@cache
def _known(path: Path, _changed_ns: int) -> tuple[str, int, str]:
    """The name by which a program is kept, its size, and its checksum."""
    data = path.read_bytes()
    return sha256(data).hexdigest()[:20], len(data), f"{zlib.crc32(data):08x}"


def _script(mark: str) -> str:
    cases = []
    for machine in binary.machines():
        path = binary.path_for(machine)
        name, size, total = _known(path, path.stat().st_mtime_ns)
        cases.append(f"{_ALIASES.get(machine, machine)}) p={name} n={size} q={total};;")
    script = _SCRIPT.replace("CASES", " ".join(cases)).replace("MARK", mark)
    return " ".join(script.split("\n")).strip() + "\n"


def _in_lines(data: bytes) -> bytes:
    """For a shell's own printf, where there is no tool: lines in octal, ended by an empty one."""
    octal = [b"\\%03o" % byte for byte in range(256)]
    return (
        b"\n".join(b"".join(octal[byte] for byte in data[at : at + 200]) for at in range(0, len(data), 200)) + b"\n\n"
    )


async def _send(process: asyncssh.SSHClientProcess[bytes], data: bytes, within: float) -> None:
    """Send much, with a time limit for each piece and not for the whole."""
    for at in range(0, len(data), _PIECE):
        process.stdin.write(data[at : at + _PIECE])
        await asyncio.wait_for(process.stdin.drain(), within)


async def bring(
    connection: asyncssh.SSHClientConnection, where: str, within: float
) -> tuple[asyncssh.SSHClientProcess[bytes], Reader]:
    """Have the guard run there.

    Args:
        connection: to the host.
        where: what the host is called in errors.
        within: seconds that it may take to say a word.

    Returns:
        The session, and what comes from it: its first message is to be read.

    Raises:
        DriverUnavailable: no program fits, or none can be executed there, or there is no folder, or no POSIX sh.
        OSError, TimeoutError: the connection broke.
    """
    one, two = secrets.token_hex(8), secrets.token_hex(8)
    # It is not whole in the command itself, which some logins print.
    process = await connection.create_process(_FIRST.format(one, two), encoding=None, request_pty=False)
    reader = Reader(process.stdout, (one + two).encode())
    try:
        if await asyncio.wait_for(reader.behind_mark(), within) != b"+":
            raise DriverUnavailable(f"host {where}: no POSIX sh answers there{await _complaint(process)}")
        process.stdin.write(_script(one + two).encode())
        while True:
            kind = await asyncio.wait_for(reader.behind_mark(), within)
            if kind == b"#":
                return process, reader
            if kind != b"=":
                raise DriverUnavailable(f"host {where}: tether-guard ended at once{await _complaint(process)}")
            word, _, rest = (await asyncio.wait_for(reader.line(), within)).partition(" ")
            if word != "put":
                raise _refusal(where, word, rest)
            machine, how = rest.split()
            program = binary.path_for(machine).read_bytes()
            await _send(process, program if how == "head" else _in_lines(program), within)
    except BaseException:
        process.close()
        raise


def _refusal(where: str, word: str, rest: str) -> DriverUnavailable:
    if word == "machine":
        try:
            binary.path_for(rest or "unknown")
        except ReaperError as error:
            return DriverUnavailable(f"host {where}: {error}")
    if word == "folder":
        return DriverUnavailable(f"host {where}: no folder can be written there: {rest}")
    return DriverUnavailable(
        f"host {where}: nothing can be executed there, which tether needs to hold what it starts; tried {rest.strip('; ')} "
        f"(a file system mounted with noexec, or full?)"
    )


async def _complaint(process: asyncssh.SSHClientProcess[bytes]) -> str:
    try:
        said = (await asyncio.wait_for(process.stderr.read(_SAID), 1.0)).decode(errors="replace").strip()
    except TimeoutError:
        return ""
    return f": {said}" if said else ""
