"""What a shim is asked: a command with its environment and attributes, and the descriptors that it begins with."""

from __future__ import annotations

import errno
import os
import struct
from functools import lru_cache
from typing import Any

from tether.errors import SpecError
from tether.guard.wire import Encoded, encode_fields
from tether.linux import members
from tether.linux.attributes import Attributes
from tether.linux.sockets import free_port, listening_inodes
from tether.model import Inside, OnDeath, Terminal
from tether.port import put_port
from tether.spec import Process

__all__ = ["build", "check", "folder", "is_logged", "politely", "port"]

_OWNER, _RESOURCE = members.OWNER.encode(), members.RESOURCE.encode()
_ON_DEATH = {"kill": 0, "stop": 1, "keep": 2}


class _Own:
    """The app's own variables: encoded once for all starts that find the same ones."""

    def __init__(self) -> None:
        self._seen: tuple[dict[bytes, bytes], Encoded] = {}, Encoded()

    def read(self) -> tuple[dict[bytes, bytes], Encoded]:
        """Return them, and as they are sent: without the tags, which say whose this process is."""
        seen = self._seen
        # What os.environ keeps them in: to go through that itself takes longer than to send them, and fails if another thread
        # sets one meanwhile.
        now = vars(os.environb).get("_data", os.environb)
        if now != seen[0]:
            own = dict(now)
            sent = [b"%s=%s" % item for item in own.items() if item[0] not in (_OWNER, _RESOURCE)]
            seen = self._seen = own, encode_fields("env", sent)
        return seen


_own = _Own()


def _environment(spec: Process, tag: str, port: int | None) -> tuple[Encoded, bytes]:
    """Return the app's own variables unless the spec clears them, the spec's on top, and the tag; with the path for programs."""
    own, sent = _own.read()
    outer, marks = own.get(_RESOURCE), own.get(_OWNER)
    said: dict[bytes, bytes | None] = {}
    for name, value in spec.env.items():
        said[os.fsencode(name)] = None if value is None else os.fsencode(put_port(value, port))
    # A spec may have a copy of the app's environment. This is held by lineage: the owner's tag is for what plugins start by
    # themselves. A tree within another tree names both.
    if said.get(_OWNER) == marks:
        said.pop(_OWNER, None)
    said[_RESOURCE] = b"%s:%s" % (outer, tag.encode()) if outer else tag.encode()
    if spec.clear_env:
        own, sent = {}, Encoded()
    elif spec.env:
        rest = [b"%s=%s" % item for item in own.items() if item[0] not in said and item[0] != _OWNER]
        sent = encode_fields("env", rest)
    more = encode_fields("env", [b"%s=%s" % item for item in said.items() if item[1] is not None])
    path = said.get(b"PATH", own.get(b"PATH"))
    return Encoded(sent + more), os.defpath.encode() if path is None else path


@lru_cache(maxsize=256)
def _programs(program: bytes, cwd: bytes | None, path: bytes) -> Encoded:
    """Return where the program may be: execvp(3) with the path and folder of the command itself, which tries each."""
    return encode_fields("program", _candidates(program, cwd, path))


def _candidates(program: bytes, cwd: bytes | None, path: bytes) -> list[bytes]:
    if b"/" in program:
        return [program]
    return [os.path.join(cwd or b"", folder, program) for folder in path.split(b":")]


def _user(user: str | int | None) -> int | None:
    if user is None or isinstance(user, int):
        return user
    import pwd

    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise SpecError(f"user={user!r}: there is no such user here; nothing was started") from None


def _group(group: str | int) -> int:
    if isinstance(group, int):
        return group
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise SpecError(f"group {group!r}: there is no such group here; nothing was started") from None


def _attributes(spec: Process, born: Attributes, now: Attributes) -> dict[str, Any]:
    """What the command is to have and would not inherit from its shim: the app's own by now, and what the spec says."""
    # A shim lifts the number of descriptors for itself, so that is always said.
    limits = {each[0]: each[1:] for each in now.limits if each[0] == _NOFILE or each not in born.limits}
    limits.update(spec.rlimits)
    affinity = now.affinity if now.affinity != born.affinity else None
    if spec.affinity is not None:
        mask = sum(1 << each for each in set(spec.affinity))
        affinity = mask.to_bytes(max(8, (mask.bit_length() + 63) // 64 * 8), "little")
    nice = now.nice if spec.nice is None else now.nice + spec.nice
    oom = now.oom_score_adj if spec.oom_score_adj is None else spec.oom_score_adj
    groups = None if spec.extra_groups is None else [_group(each) for each in spec.extra_groups]
    return {
        "uid": _user(spec.user),
        "gid": None if spec.group is None else _group(spec.group),
        "groups": None if groups is None else struct.pack(f"<{len(groups)}q", *groups),
        "rlimit": [struct.pack("<3q", limit, *map(_signed, pair)) for limit, pair in sorted(limits.items())],
        "nice": None if nice == born.nice else nice,
        "affinity": affinity,
        "oom": None if oom == born.oom_score_adj else oom,
        "umask": now.umask if spec.umask is None else spec.umask,
    }


_NOFILE = 7  # RLIMIT_NOFILE on every architecture but a few that tether is not built for; a test compares it


def _signed(limit: int) -> int:
    """RLIM_INFINITY is all bits set, which Python says as -1."""
    return limit if limit < 1 << 63 else limit - (1 << 64)


def _ladder(spec: Process) -> dict[str, Any]:
    """The signals of a polite end, each with its time."""
    ladder = spec.stop or [(spec.stop_signal, spec.stop_grace)]
    return {
        "step_signal": [int(signum) for signum, _ in ladder],
        "step_ms": [int(min(seconds, 1e9) * 1000) for _, seconds in ladder],
        "again": int(bool(spec.stop_again)),
    }


def _lead(spec: Process, terminal: Terminal | None) -> dict[str, int | None]:
    """Whose session and process group the command is in."""
    if terminal is not None or spec.terminal == "share":
        group = spec.process_group
        if group is None:
            group = terminal.group if terminal is not None else os.getpgrp()
        return {"session": 0, "group": group}
    return {"session": 1, "terminal": 1 if spec.terminal == "pty" else None}


def folder(spec: Process) -> bytes | None:
    """Return the working directory that the spec names; None for the app's own."""
    return None if spec.cwd is None else os.path.abspath(os.fsencode(spec.cwd))


def check(spec: Process) -> None:
    """Raise the OSError with which the kernel would refuse the command, as far as directory and program tell."""
    cwd = folder(spec)
    if cwd is not None and not os.path.isdir(cwd):
        number = errno.ENOTDIR if os.path.lexists(cwd) else errno.ENOENT
        raise OSError(number, os.strerror(number), cwd)
    if spec.env_in is not None or not (spec.executable or spec.argv):
        return
    program = os.fsencode(put_port(str(spec.executable or spec.argv[0]), spec.port))
    path = _environment(spec, "", spec.port)[1]
    # One that only its own user may execute is for that user's kernel to judge.
    if not any(os.path.exists(os.path.join(cwd or b"", each)) for each in _candidates(program, cwd, path)):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), program)


def build(
    spec: Process,
    tag: str,
    life: int,
    on_death: OnDeath,
    port: int | None,
    log: str | None,
    terminal: Terminal | None,
    run_dir: str,
    attributes: tuple[Attributes, Attributes],
    targets: list[int],
) -> dict[str, Any]:
    """Return what a shim is told of a command: all that it needs until its tree has ended.

    Args:
        spec: the resource's.
        tag: its id.
        life: the number of its life.
        on_death: the rule that holds.
        port: what ``{port}`` stands for.
        log: the file for its output, if it has one.
        terminal: how it shares the app's terminal; None if it does not.
        run_dir: where a kept tree is adopted.
        attributes: what the shim was born with, and what the app has now.
        targets: the numbers of the descriptors that are sent, in that order.
    """
    # Without one it is the app's own, whose descriptor is sent: that works in a folder that was removed as well.
    cwd = folder(spec)
    words = [str(argument) for argument in spec.argv]
    if spec.env_in is not None and isinstance(spec.env_in, Inside):
        words = spec.env_in.inside(words, spec.env)
    argv = [os.fsencode(put_port(word, port)) for word in words]
    env, path = _environment(spec, tag, port)
    program = os.fsencode(spec.executable) if spec.executable is not None else argv[0]
    return {
        "tag": tag,
        "life": life,
        "arg": argv,
        "program": _programs(program, cwd, path),
        "env": env,
        "cwd": cwd,
        "target": targets,
        "ignored": list(terminal.ignored) if terminal else [int(each) for each in spec.ignored_signals],
        "mask": terminal.mask if terminal else _signed(sum(1 << (int(each) - 1) for each in set(spec.blocked_signals))),
        # As a shell takes a script without a first line that names its interpreter.
        "shell": 1 if terminal else None,
        "on_death": _ON_DEATH[on_death],
        "keep_ms": int(min(spec.keep_for, 1e9) * 1000),
        "to_main": int(spec.stop_to == "main"),
        "ends_with_main": int(spec.ends == "main"),
        "log": log,
        "run_dir": run_dir,
        **_ladder(spec),
        **_lead(spec, terminal),
        **_attributes(spec, *attributes),
    }


def port(spec: Process, former: int | None) -> int | None:
    """What ``{port}`` stands for: after a restart what it stood for before, unless somebody else listens there by now."""
    if not spec.uses_port:
        return None
    if spec.port is None and former is not None and not listening_inodes(former):
        return former
    return spec.port or free_port()


def is_logged(spec: Process) -> bool:
    """Whether any of its output goes to its log."""
    streams = [] if spec.terminal == "pty" else [spec.stdout, spec.stderr]
    return any(isinstance(stream, str) and stream == "log" for stream in streams)


def politely(grace: float, *, again: bool) -> dict[str, Any]:
    """What is sent for a polite end within ``grace`` seconds, with the signal sent ``again`` while they run."""
    asked = {"step_ms": _ms(grace), "why": "stopped by its owner"}
    return {**asked, "again": 1} if again else asked


def _ms(seconds: float) -> int:
    return int(min(seconds, 1e9) * 1000)
