"""What the kernel's refusal of a command means, in words: to which resource, and what to do next."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tether.errors import ExecError

__all__ = ["in_words"]

_MOST_PROGRAMS = 20_000
_NEAR = 0.75


def in_words(error: ExecError) -> str:
    """Return the text of an error: the resource, the kernel's own words, and what helps."""
    said = OSError.__str__(error)
    if error.filename is None:
        return f"cannot start {error.resource}: {_of_attribute(error)}: {said}; nothing was started"
    hint = _of_folder(error) if error.attribute == "cwd" else _of_program(error) if error.here else ""
    return f"cannot start {error.resource}: {said}{hint}"


_MEANT = {
    "user": "only root can give another user; see id(1)",
    "group": "only root can give another group; see id(1)",
    "extra_groups": "only root can give other groups; see id(1)",
    "nice": "only root can lower it below the app's own",
    "oom_score_adj": "only root can lower it below the app's own",
    "affinity": "this machine, or the app's own set of processors, has none of these; see nproc(1) and taskset(1)",
    "rlimits": "only root can raise a hard limit, and a soft limit is at most the hard one; see ulimit(1)",
    "process_group": "it must be a group of this session, whose leader lives",
    "terminal": "the terminal can't be the command's own",
    "pass_fds": "see ulimit -n, and which descriptors are open",
}


def _of_attribute(error: ExecError) -> str:
    if not error.attribute:
        return "the guard could not begin its command; see ulimit -u and 'tether doctor'"
    given = "" if not error.given or error.given == "None" else f"={error.given}"
    return f"{error.attribute}{given} was refused, not the program: {_MEANT[error.attribute]}"


def _of_folder(error: ExecError) -> str:
    if error.errno == errno.ENOENT:
        return ": its working directory (cwd=) is not there; make it first"
    if error.errno == errno.ENOTDIR:
        return ": its working directory (cwd=) is no directory"
    return ": its working directory (cwd=) can't be entered"


def _of_program(error: ExecError) -> str:
    name = str(error.filename)
    path = name if "/" in name else ""
    if error.errno == errno.ENOENT:
        if path and os.path.lexists(path):
            return (
                ": the file is there, and the interpreter that its first line names is not (or what a link points to)"
            )
        return (
            f": there is no such file; {_where(path)}" if path else f": there is no such program in PATH; {_near(name)}"
        )
    if error.errno == errno.ENOEXEC:
        return (
            ": it has no first line '#!' that names its interpreter, or is for another machine; run it as ['sh', FILE]"
        )
    if error.errno == errno.EACCES and path:
        return ": it is a directory" if Path(path).is_dir() else _not_executable(path)
    if error.errno == errno.E2BIG:
        return ": its arguments and environment are too long; hand them over in a file, or by stdin='pipe'"
    return ""


def _where(path: str) -> str:
    if Path(path).is_absolute():
        return "is it installed here?"
    return f"the path is relative to the command's folder (cwd=, else {os.path.curdir!r} of the app)"


def _not_executable(path: str) -> str:
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return ""
    return "" if mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH) else ": it is not executable; see chmod +x"


def _near(name: str) -> str:
    """Say a program of about this name, where there is one."""
    import difflib

    programs: set[str] = set()
    for folder in os.get_exec_path():
        try:
            programs.update(each.name for each in Path(folder).iterdir())
        except OSError:
            continue
        if len(programs) > _MOST_PROGRAMS:
            break
    # Two that were swapped or one left out; what begins with another letter is another program.
    alike = [each for each in programs if each[:1] == name[:1] and abs(len(each) - len(name)) < 3]
    near = difflib.get_close_matches(name, sorted(alike), 1, _NEAR)
    return f"did you mean {near[0]!r}?" if near else "is it installed in this environment?"
