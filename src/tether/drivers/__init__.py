"""The kinds of resources: one folder a kind, found by the entry point group ``tether.drivers``.

What every driver is, and what some can do besides, stands in `tether.life.driver`; authors of drivers find it here.
"""

from __future__ import annotations

from tether.life.driver import (
    CanAdopt,
    CanAttach,
    CanCompare,
    CanCopy,
    CanDiagnose,
    CanExecute,
    CanInsist,
    CanLook,
    CanPause,
    CanSignal,
    Context,
    Driver,
    HasConnections,
    HasDetails,
    HasGuard,
    HasInside,
    HasLine,
    HasLog,
    HasMarks,
    HasOutput,
    HasPids,
    HasPlan,
    HasPort,
    HasRemains,
    HasReserve,
    HasStreams,
    HasStreamsApart,
    HasTarget,
    HasUrl,
)
from tether.life.drivers import Drivers
from tether.life.registry import register

__all__ = [
    "CanAdopt",
    "CanAttach",
    "CanCompare",
    "CanCopy",
    "CanDiagnose",
    "CanExecute",
    "CanInsist",
    "CanLook",
    "CanPause",
    "CanSignal",
    "Context",
    "Driver",
    "Drivers",
    "HasConnections",
    "HasDetails",
    "HasGuard",
    "HasInside",
    "HasLine",
    "HasLog",
    "HasMarks",
    "HasOutput",
    "HasPids",
    "HasPlan",
    "HasPort",
    "HasRemains",
    "HasReserve",
    "HasStreams",
    "HasStreamsApart",
    "HasTarget",
    "HasUrl",
    "register",
]
