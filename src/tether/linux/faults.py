"""Named points where a test can kill, delay or fail a process; off, and without cost, in production.

``TETHER_FAULTS="start.spawned=kill,sweep.claimed=delay:0.5,stop.asked=fail"`` in the environment, when the process starts.

start.recorded   the row is committed, nothing was created
start.armed      a shim is at hand and has said that it is armed
start.making     a driver has made a part of the resource (a network, a folder, a container that does not run yet)
start.spawned    the command runs, its identity is not on record
start.created    the record has the handle
stop.asked       the end is on record as wanted, nothing was sent
stop.ended       the resource was seen to end, that is not on record
destroy.asked    as stop.asked, for an end by force
adopt.taken      the ledger names the new owner, the shim does not know it
adopt.met        the shim has the new owner's lifeline
sweep.claimed    an estate is claimed, nothing of it is settled
sweep.settled    a resource of it was ended, that is not on record
"""

from __future__ import annotations

import os
import signal
import time

from tether.errors import TetherError

__all__ = ["POINTS", "InjectedFault", "point"]

VARIABLE = "TETHER_FAULTS"
POINTS = (
    "start.recorded",
    "start.armed",
    "start.making",
    "start.spawned",
    "start.created",
    "stop.asked",
    "stop.ended",
    "destroy.asked",
    "adopt.taken",
    "adopt.met",
    "sweep.claimed",
    "sweep.settled",
)


class InjectedFault(TetherError):
    """A fault that a test asked for."""


def _act(name: str) -> None:
    action, _, value = _ARMED.get(name, "").partition(":")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "delay":
        time.sleep(float(value))
    elif action == "fail":
        raise InjectedFault(f"fault at {name}, as {VARIABLE} asks")


def _off(name: str) -> None:
    """Do nothing."""


_ARMED = dict(item.split("=", 1) for item in os.environ.get(VARIABLE, "").split(",") if "=" in item)
point = _act if _ARMED else _off
