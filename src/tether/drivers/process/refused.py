"""What a shim says that the kernel refused of a command, as the field of the spec that asked for it."""

from __future__ import annotations

import os
from typing import Any

from tether.errors import ExecError, exec_error
from tether.guard.wire import REFUSED_AT
from tether.spec import Process

__all__ = ["error"]

_FIELDS = {
    REFUSED_AT["group"]: "process_group",
    REFUSED_AT["nice"]: "nice",
    REFUSED_AT["affinity"]: "affinity",
    REFUSED_AT["oom"]: "oom_score_adj",
    REFUSED_AT["descriptors"]: "pass_fds",
    REFUSED_AT["terminal"]: "terminal",
    REFUSED_AT["groups"]: "extra_groups",
    REFUSED_AT["gid"]: "group",
    REFUSED_AT["uid"]: "user",
}


def error(spec: Process, asked: dict[str, Any], number: int, at: int, name: str) -> ExecError:
    """Return the error for a command that was refused.

    Args:
        spec: its spec.
        asked: what its shim was asked.
        number: the errno.
        at: what was refused, as in `REFUSED_AT`; what is not known is the program.
        name: the resource's.
    """
    if at == REFUSED_AT["cwd"]:
        return exec_error(number, os.fsdecode(asked["cwd"] or b"."), name, attribute="cwd")
    if at == REFUSED_AT["request"]:
        return exec_error(number, None, name)
    if REFUSED_AT["limit"] <= at < REFUSED_AT["most"]:
        which = at - REFUSED_AT["limit"]
        return exec_error(number, None, name, attribute="rlimits", given={which: spec.rlimits.get(which)})
    if at in _FIELDS:
        return exec_error(number, None, name, attribute=_FIELDS[at], given=getattr(spec, _FIELDS[at]))
    return exec_error(number, os.fsdecode(asked["arg"][0]), name)
