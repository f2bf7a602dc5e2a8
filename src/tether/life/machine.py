"""The life of a resource as a pure state machine: an event in, the next state and the instructions out.

Nothing here acts, waits or looks at a clock. The supervisor carries the instructions out and decides nothing. So
starting, stopping, adoption and settling are tested without a process.

    PENDING -> STARTING -> READY -> STOPPING -> GONE
       |           |         |          |
       +-----------+---------+----------+---> FAILED        READY, STARTING, STOPPING <-> LOST
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tether.errors import TetherError
from tether.model import State, altered

__all__ = [
    "Adopted",
    "AskedOutside",
    "Continued",
    "Created",
    "End",
    "Ended",
    "Event",
    "IllegalTransition",
    "Instruction",
    "LeftOver",
    "Life",
    "MainExited",
    "NotReady",
    "Paused",
    "Probe",
    "Probed",
    "Reached",
    "Record",
    "Refused",
    "StopAsked",
    "Stuck",
    "Unreachable",
    "advance",
]


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Created:
    """The driver created the resource and it has a handle."""


@dataclass(frozen=True)
class Probed:
    """The readiness probe passed."""


@dataclass(frozen=True)
class Refused:
    """The driver could not create it, and nothing is left of the attempt."""

    reason: str


@dataclass(frozen=True)
class NotReady:
    """The readiness probe failed or its time limit passed; or it could not be created, and something of the attempt may be left."""

    reason: str


@dataclass(frozen=True)
class MainExited:
    """The command itself ended; others of its tree may live on, unless they are being ended already."""

    exit_code: int
    ending: bool = False


@dataclass(frozen=True)
class Ended:
    """It was seen to be gone, all of it.

    ``asked`` says that somebody other than its owner asked for it; ``why`` says it in words, ``proof`` how that is known.
    """

    exit_code: int | None
    why: str
    asked: bool = False
    proof: str = ""


@dataclass(frozen=True)
class Paused:
    """The command was stopped by a signal (SIGTSTP of a terminal, SIGSTOP; None: frozen by its engine), and is not ended."""

    signum: int | None


@dataclass(frozen=True)
class Continued:
    """What an engine had frozen goes on."""


@dataclass(frozen=True)
class StopAsked:
    """Its owner wants it to end."""

    why: str
    force: bool = False


@dataclass(frozen=True)
class AskedOutside:
    """Somebody other than its owner asked for its end, which is on record: how it ends now is not its own fault."""

    who: str


@dataclass(frozen=True)
class Stuck:
    """It was killed and is still there, or can't be ended now.

    ``over`` says that nothing of it runs any more, ``hopeless`` that waiting changes nothing.
    """

    reason: str
    over: bool = False
    hopeless: bool = False


@dataclass(frozen=True)
class LeftOver:
    """It ended by itself, as ``why`` says, but something that was made for it can't be removed now, as ``reason`` says."""

    why: str
    reason: str


@dataclass(frozen=True)
class Unreachable:
    """It can't be seen any more, which says nothing about whether it lives."""

    reason: str


@dataclass(frozen=True)
class Reached:
    """It can be seen again."""


@dataclass(frozen=True)
class Adopted:
    """A new owner took it over."""

    by: str


Event = (
    Created
    | Probed
    | Refused
    | NotReady
    | MainExited
    | Ended
    | Paused
    | Continued
    | StopAsked
    | AskedOutside
    | Stuck
    | LeftOver
    | Unreachable
    | Reached
    | Adopted
)


# -- instructions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """Write the new state to the ledger, with this event."""

    what: str
    detail: str = ""


@dataclass(frozen=True)
class Probe:
    """Wait for readiness."""


@dataclass(frozen=True)
class End:
    """End the resource: politely within its grace, or by force."""

    why: str
    force: bool = False


Instruction = Record | Probe | End


# -- the machine -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """Where a resource is in its life.

    Attributes:
        stays_up: whether it is a server, so that to end by itself is to fail.
        rest_goes_on: whether what its command leaves behind goes on, however that ended.
        state: the state.
        reason: why it is in this state, in words; empty where that goes without saying.
        exit_code: of the command, once it is known.
        doomed: the failure that made it stop; it will be FAILED when it has ended.
        created: whether there is, or was, something to end.
        was_ready: whether it ever was.
        over: whether nothing of it runs any more, though something that was made for it may be left.
        hopeless: whether it was killed, and waiting for its end changes nothing.
        forced: whether its end by force was asked for before there was something to end.
        asked: who else than its owner asked for its end, if somebody did.
        before: the state in which it was lost, to which it comes back.
        history: the names of the events so far, each with the state that it led to.
    """

    stays_up: bool = False
    rest_goes_on: bool = False
    state: State = State.PENDING
    reason: str = ""
    exit_code: int | None = None
    doomed: str = ""
    created: bool = False
    was_ready: bool = False
    over: bool = False
    hopeless: bool = False
    forced: bool = False
    asked: str = ""
    before: State = State.READY
    history: tuple[str, ...] = ()


class IllegalTransition(TetherError):
    """An event that can't come in this state: a fault of tether's. The message has the resource's history."""

    def __init__(self, life: Life, event: Event) -> None:
        past = ", ".join(life.history) or "none"
        super().__init__(
            f"{type(event).__name__} can't come in state {life.state.name} (events so far: {past}); "
            f"this is a fault in tether, please report it"
        )


def describe_exit(exit_code: int | None) -> str:
    """Say an exit code in words, as in `subprocess`: negative for a signal, None for unknown."""
    if exit_code is None:
        return "its exit status is not known"
    if exit_code < 0:
        import signal

        try:
            return f"killed by {signal.Signals(-exit_code).name}"
        except ValueError:
            return f"killed by signal {-exit_code}"
    return f"exit code {exit_code}"


_Outcome = tuple[Life, tuple[Instruction, ...]]


def _is_stopping(life: Life) -> bool:
    """Whether its end was asked for, also of one that was lost after that."""
    return life.state is State.STOPPING or (life.state is State.LOST and life.before is State.STOPPING)


def _created(life: Life, _: Created) -> _Outcome:
    if life.state is State.STOPPING:
        return altered(life, created=True), (Record("created"), End(life.reason, force=life.forced))
    return altered(life, state=State.STARTING, created=True), (Record("created"), Probe())


def _probed(life: Life, _: Probed) -> _Outcome:
    return altered(life, state=State.READY, reason="", was_ready=True), (Record("ready"),)


def _refused(life: Life, event: Refused) -> _Outcome:
    if life.state is State.STOPPING and not life.doomed:
        return altered(life, state=State.GONE), (Record("gone", f"{life.reason}, before it was created"),)
    return altered(life, state=State.FAILED, reason=event.reason), (Record("failed", event.reason),)


def _not_ready(life: Life, event: NotReady) -> _Outcome:
    doomed = altered(life, state=State.STOPPING, reason=event.reason, doomed=event.reason)
    return doomed, (Record("not ready", event.reason), End(event.reason))


def _main_exited(life: Life, event: MainExited) -> _Outcome:
    """Decide whether what the command leaves behind may go on.

    A command that ends with 0 before it is ready may have made a daemon of itself, and one that is no server may have
    left helpers: the tree is the unit, and goes on. A server that was ready, or a failure, takes the rest along.
    """
    life = altered(life, exit_code=event.exit_code)
    said = describe_exit(event.exit_code)
    goes_on = event.exit_code == 0 and (life.state is State.STARTING or not life.stays_up)
    goes_on = goes_on or life.rest_goes_on
    if _is_stopping(life) or event.ending or goes_on:
        return life, (Record("exited", said),)
    reason = f"ended by itself, {said}"
    doomed = altered(life, state=State.STOPPING, reason=reason, doomed=reason)
    return doomed, (Record("exited", said), End("its command ended by itself"))


def _ended(life: Life, event: Ended) -> _Outcome:
    code = life.exit_code if event.exit_code is None else event.exit_code
    life = altered(life, exit_code=code)
    if life.doomed:
        final = altered(life, state=State.FAILED, reason=life.doomed)
    elif _is_stopping(life) or event.asked:
        final = altered(life, state=State.GONE, reason=life.asked or event.why)
    elif code == 0 and life.state is State.READY and not life.stays_up:
        final = altered(life, state=State.GONE, reason="finished with exit code 0")
    else:
        reason = f"{event.why}, {describe_exit(code)}"
        final = altered(life, state=State.FAILED, reason=reason)
    detail = f"{final.reason} [{event.proof}]" if event.proof else final.reason
    return final, (Record("gone" if final.state is State.GONE else "failed", detail),)


def _paused(life: Life, event: Paused) -> _Outcome:
    if event.signum is None:
        return (life if life.reason else altered(life, reason=_PAUSED)), (Record("paused", "by its engine"),)
    return life, (Record("paused", f"signal {event.signum}"),)


def _continued(life: Life, _: Continued) -> _Outcome:
    return (altered(life, reason="") if life.reason == _PAUSED else life), (Record("continued"),)


def _stop_asked(life: Life, event: StopAsked) -> _Outcome:
    if life.state is State.PENDING:
        # Somebody is just creating it, and ends it as soon as there is something to end.
        pending = altered(life, state=State.STOPPING, reason=event.why, forced=event.force)
        return pending, (Record("kill" if event.force else "stop", event.why),)
    if life.state is State.STOPPING:
        # Another attempt: what was hopeless before may have changed.
        return altered(life, forced=life.forced or event.force, hopeless=False), (End(event.why, force=event.force),)
    stopping = altered(life, state=State.STOPPING, reason=event.why)
    return stopping, (Record("kill" if event.force else "stop", event.why), End(event.why, force=event.force))


def _asked_outside(life: Life, event: AskedOutside) -> _Outcome:
    if _is_stopping(life):
        return life, ()
    stopping = State.LOST if life.state is State.LOST else State.STOPPING
    return altered(life, state=stopping, before=State.STOPPING, reason=event.who, asked=event.who), (
        Record("stop", event.who),
    )


def _stuck(life: Life, event: Stuck) -> _Outcome:
    stuck = altered(life, reason=event.reason, over=life.over or event.over, hopeless=event.hopeless)
    return stuck, (Record("stuck", event.reason),)


def _left_over(life: Life, event: LeftOver) -> _Outcome:
    """Its command has ended, so nobody waits for that any more; what is left is ended as if its owner had asked."""
    life = altered(life, over=True)
    if _is_stopping(life):
        return altered(life, reason=event.reason), (Record("stuck", event.reason),)
    finished = life.exit_code == 0 and life.state is State.READY and not life.stays_up
    why = "finished with exit code 0" if finished else f"{event.why}, {describe_exit(life.exit_code)}"
    stopping = altered(life, state=State.STOPPING, reason=event.reason, doomed="" if finished else why)
    return stopping, (Record("stuck", event.reason), End(why))


def _unreachable(life: Life, event: Unreachable) -> _Outcome:
    if life.state is State.LOST:
        return life, ()
    return altered(life, state=State.LOST, before=life.state, reason=event.reason), (Record("lost", event.reason),)


def _reached(life: Life, _: Reached) -> _Outcome:
    if life.state is not State.LOST:
        return life, ()
    reason = "stopped before it was lost" if life.before is State.STOPPING else ""
    return altered(life, state=life.before, reason=reason), (Record("found again"),)


def _adopted(life: Life, event: Adopted) -> _Outcome:
    return altered(life, created=True), (Record("adopted", event.by),)


_PAUSED = "paused"
_LIVE = (State.STARTING, State.READY, State.STOPPING, State.LOST)

_TABLE: dict[type, tuple[tuple[State, ...], Callable[..., _Outcome]]] = {
    Created: ((State.PENDING, State.STOPPING), _created),
    Probed: ((State.STARTING,), _probed),
    Refused: ((State.PENDING, State.STOPPING), _refused),
    NotReady: ((State.PENDING, State.STARTING, State.LOST), _not_ready),
    MainExited: (_LIVE, _main_exited),
    Ended: (_LIVE, _ended),
    Paused: (_LIVE, _paused),
    Continued: (_LIVE, _continued),
    StopAsked: ((State.PENDING, *_LIVE), _stop_asked),
    AskedOutside: (_LIVE, _asked_outside),
    Stuck: ((State.STOPPING,), _stuck),
    LeftOver: (_LIVE, _left_over),
    Unreachable: (_LIVE, _unreachable),
    Reached: (_LIVE, _reached),
    Adopted: (_LIVE, _adopted),
}


def advance(life: Life, event: Event) -> tuple[Life, tuple[Instruction, ...]]:
    """Return the life after ``event``, and what is to be done now.

    A resource that has ended takes a further stop without effect: ends are idempotent.

    Raises:
        IllegalTransition: the event can't come in this state.
    """
    if life.state.is_final and isinstance(event, StopAsked):
        return life, ()
    states, step = _TABLE[type(event)]
    if life.state not in states or (life.created and isinstance(event, Created | Refused)):
        raise IllegalTransition(life, event)
    following, instructions = step(life, event)
    entry = f"{type(event).__name__} -> {following.state.name}"
    return altered(following, history=(*life.history[-31:], entry)), instructions
