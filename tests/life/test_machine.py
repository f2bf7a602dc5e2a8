"""The state machine, without a process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tether.life import machine as lifecycle
from tether.life.machine import (
    Adopted,
    AskedOutside,
    Continued,
    Created,
    End,
    Ended,
    Event,
    IllegalTransition,
    LeftOver,
    Life,
    MainExited,
    NotReady,
    Paused,
    Probed,
    Reached,
    Record,
    Refused,
    StopAsked,
    Stuck,
    Unreachable,
)
from tether.model import State


def live(*events: Event, stays_up: bool = False) -> Life:
    """A life after these events."""
    life = Life(stays_up=stays_up)
    for event in events:
        life, _ = lifecycle.advance(life, event)
    return life


READY = (Created(), Probed())


@pytest.mark.parametrize(
    ("events", "stays_up", "state", "reason"),
    [
        (READY, True, State.READY, ""),
        ((Refused("no such program"),), False, State.FAILED, "no such program"),
        ((*READY, StopAsked("asked"), Ended(-15, "asked")), True, State.GONE, "asked"),
        ((*READY, Ended(0, "ended by itself")), False, State.GONE, "finished with exit code 0"),
        ((*READY, Ended(0, "ended by itself")), True, State.FAILED, "ended by itself, exit code 0"),
        ((*READY, Ended(3, "ended by itself")), False, State.FAILED, "ended by itself, exit code 3"),
        ((*READY, Ended(-9, "ended by itself")), False, State.FAILED, "ended by itself, killed by SIGKILL"),
        ((*READY, Ended(None, "its shim was killed")), False, State.FAILED, "its shim was killed, its exit status is not known"),
        ((*READY, Ended(-15, "asked by signal", asked=True)), True, State.GONE, "asked by signal"),
        ((Created(), Ended(1, "ended by itself")), True, State.FAILED, "ended by itself, exit code 1"),
        ((Created(), NotReady("too slow"), Ended(-15, "x")), True, State.FAILED, "too slow"),
        ((*READY, MainExited(0), Ended(None, "ended by itself")), True, State.FAILED, "ended by itself, exit code 0"),
        ((StopAsked("early"),), False, State.STOPPING, "early"),
        ((StopAsked("early"), Refused("no such program")), False, State.GONE, "early"),
        ((StopAsked("early"), Created(), Ended(0, "early")), False, State.GONE, "early"),
        ((NotReady("half made"), Ended(None, "removed")), False, State.FAILED, "half made"),
        ((*READY, Unreachable("cut")), True, State.LOST, "cut"),
        ((*READY, Unreachable("cut"), Reached()), True, State.READY, ""),
        ((*READY, Reached(), Unreachable("cut"), Unreachable("again")), True, State.LOST, "cut"),
        ((Created(), Unreachable("cut"), Reached()), True, State.STARTING, ""),
        ((*READY, StopAsked("a"), Unreachable("cut"), Reached(), Ended(0, "a")), True, State.GONE, "a"),
        ((*READY, StopAsked("a"), Unreachable("cut"), MainExited(-15), Ended(-15, "a")), True, State.GONE, "a"),
        ((Created(), Unreachable("cut"), NotReady("slow"), Ended(0, "x")), True, State.FAILED, "slow"),
        ((*READY, StopAsked("a"), Stuck("in the kernel")), True, State.STOPPING, "in the kernel"),
    ],
)  # fmt: skip
def test_a_life_ends_where_it_should(events: tuple[Event, ...], stays_up: bool, state: State, reason: str) -> None:
    """State and reason after a course of events."""
    life = live(*events, stays_up=stays_up)
    assert (life.state, life.reason) == (state, reason)


@pytest.mark.parametrize(
    ("stays_up", "events", "code", "ends"),
    [
        (True, READY, 0, True),
        (True, READY, 1, True),
        (True, (Created(),), 0, False),
        (True, (Created(),), 1, True),
        (False, READY, 0, False),
        (False, READY, 1, True),
        (True, (*READY, StopAsked("x")), 0, False),
    ],
)
def test_what_a_command_leaves_behind_goes_on_or_ends(
    stays_up: bool, events: tuple[Event, ...], code: int, ends: bool
) -> None:
    """A daemon in the making, and helpers of a command, go on; what a dead server left does not."""
    _, instructions = lifecycle.advance(live(*events, stays_up=stays_up), MainExited(code))
    assert any(isinstance(each, End) for each in instructions) == ends


def test_an_end_is_idempotent() -> None:
    """Stopping what has ended does nothing."""
    life = live(*READY, StopAsked("a"), Ended(0, "b"))
    assert lifecycle.advance(life, StopAsked("again", force=True)) == (life, ())


@pytest.mark.parametrize(
    ("asked", "force"),
    [
        ((StopAsked("a"),), False),
        ((StopAsked("a", force=True),), True),
        ((StopAsked("a"), StopAsked("b", force=True)), True),
        ((StopAsked("a", force=True), StopAsked("b")), True),
    ],
)
def test_an_end_by_force_of_what_is_being_created_stays_one(asked: tuple[Event, ...], force: bool) -> None:
    """It is ended as it was asked for, as soon as there is something to end."""
    life = Life()
    for event in asked:
        life, _ = lifecycle.advance(life, event)
    assert lifecycle.advance(life, Created())[1][-1] == End("a", force=force)


def test_an_illegal_transition_tells_the_history() -> None:
    """A fault of ours is told with all that led to it."""
    with pytest.raises(
        IllegalTransition, match=r"Created can't come in state READY.*Created -> STARTING, Probed -> READY"
    ):
        lifecycle.advance(live(*READY), Created())


EVENTS: list[Event] = [
    Created(), Probed(), Refused("r"), NotReady("n"), MainExited(0), MainExited(1), Ended(0, "e"), Ended(None, "e"),
    StopAsked("s"), StopAsked("s", force=True), Stuck("k"), Unreachable("u"), Reached(), Adopted("o"), Paused(20),
]  # fmt: skip


@given(st.lists(st.sampled_from(EVENTS), max_size=30), st.booleans())
def test_every_course_of_events_keeps_the_invariants(events: list[Event], stays_up: bool) -> None:
    """Whatever comes: final is final, an illegal event changes nothing, and every change is recorded."""
    life = Life(stays_up=stays_up)
    for event in events:
        try:
            following, instructions = lifecycle.advance(life, event)
        except IllegalTransition:
            continue
        if life.state.is_final:
            assert following == life
        if following.state is not life.state:
            assert any(isinstance(each, Record) for each in instructions)
        if following.state is State.FAILED:
            assert following.reason
        if following.state is State.GONE and life.state not in (State.PENDING, State.GONE):
            assert isinstance(event, Ended | Refused)
        assert len(following.history) <= 32
        life = following


class Machine(RuleBasedStateMachine):
    """A resource that is started, ended and lost in any order always comes to an end that can be explained."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life(stays_up=True)

    def go(self, event: Event) -> None:
        self.life, _ = lifecycle.advance(self.life, event)

    @precondition(lambda self: self.life.state is State.PENDING)
    @rule()
    def create(self) -> None:
        self.go(Created())

    @precondition(lambda self: self.life.state is State.STARTING)
    @rule(passes=st.booleans())
    def probe(self, passes: bool) -> None:
        self.go(Probed() if passes else NotReady("slow"))

    @rule(force=st.booleans())
    def stop(self, force: bool) -> None:
        self.go(StopAsked("asked", force))

    @precondition(lambda self: self.life.state not in (State.PENDING, State.GONE, State.FAILED))
    @rule(code=st.sampled_from([0, 1, -9, None]))
    def end(self, code: int | None) -> None:
        self.go(Ended(code, "ended"))

    @precondition(lambda self: self.life.state in (State.STARTING, State.READY, State.STOPPING))
    @rule()
    def cut(self) -> None:
        self.go(Unreachable("cut"))

    @invariant()
    def an_end_has_a_reason(self) -> None:
        if self.life.state.is_final:
            assert self.life.reason

    @invariant()
    def a_doomed_one_never_counts_as_gone(self) -> None:
        if self.life.doomed:
            assert self.life.state is not State.GONE


TestMachine = Machine.TestCase


@pytest.mark.parametrize(
    ("events", "stays_up", "state", "reason"),
    [
        ((*READY, AskedOutside("by x"), MainExited(137), Ended(137, "ended by itself")), True, State.GONE, "by x"),
        ((*READY, Unreachable("cut"), AskedOutside("by x"), Ended(137, "it ended")), True, State.GONE, "by x"),
        ((*READY, MainExited(0), LeftOver("ended", "in use")), False, State.STOPPING, "in use"),
        ((*READY, MainExited(0), LeftOver("ended", "in use"), Ended(None, "x")), False, State.GONE, "x"),
        ((*READY, MainExited(3), LeftOver("ended", "in use")), False, State.STOPPING, "in use"),
        (
            (*READY, MainExited(3), LeftOver("ended", "x"), Ended(None, "x")),
            False,
            State.FAILED,
            "ended by itself, exit code 3",
        ),
        (
            (*READY, MainExited(0), LeftOver("ended", "x"), Ended(None, "x")),
            True,
            State.FAILED,
            "ended by itself, exit code 0",
        ),
        ((*READY, Paused(None)), True, State.READY, "paused"),
        ((*READY, Paused(None), Continued()), True, State.READY, ""),
    ],
)
def test_ends_that_others_ask_for_or_hold_up(
    events: tuple[Event, ...], stays_up: bool, state: State, reason: str
) -> None:
    """Who asked is the reason; what can't be removed is said, and changes nothing of how it ended."""
    life = live(*events, stays_up=stays_up)
    assert (life.state, life.reason) == (state, reason)
    assert life.over == any(isinstance(event, LeftOver) for event in events)
