"""How long an engine is given, in seconds: all of it in one place."""

from __future__ import annotations

__all__ = [
    "EVENTS_S",
    "FIRST_PAUSE_S",
    "GLANCE_S",
    "LEAVE_S",
    "LONGEST_PAUSE_S",
    "LOOK_S",
    "PACE_S",
    "PACE_WITHOUT_EVENTS_S",
    "PULL_S",
    "REMOVAL_ROUNDS",
    "ROUND_PAUSE_S",
    "SUBSCRIBE_S",
    "WORK_S",
]

GLANCE_S = 2.0
"""To say how all containers are, for ``status()``: what is not known by then is said as unknown."""

LOOK_S = 8.0
"""To answer a question. A watched container is LOST when its engine takes longer."""

WORK_S = 45.0
"""To create, start or remove something; to stop a container it has the grace besides."""

LEAVE_S = 15.0
"""To the containers of a network's owner, which end at the same time, before the network is taken from under them."""

PULL_S = 120.0
"""To say the next word while an image is fetched."""

EVENTS_S = 4.0
"""To begin to tell events; where that takes longer, and all else is answered, it goes on without them."""

SUBSCRIBE_S = 10.0
"""To answer at all, before something is started."""

PACE_S = 10.0
"""Between two looks at what is watched, should the engine say nothing: an event stream can go silent."""

PACE_WITHOUT_EVENTS_S = 1.0
"""The same where the engine's events may not be heard (a proxy in front of it refuses them)."""

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
"""Between two attempts to reach an engine that is lost: the first pause, and what it grows to."""

REMOVAL_ROUNDS = 8
ROUND_PAUSE_S = 0.1
"""How often, and with which pauses, a removal is asked for before it is said to be refused; then it is tried again later."""
