"""What a resource runs in, an environment or a machine: started before it where only the spec was given, and ended after it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from tether.errors import SpecError, TetherError
from tether.life import registry
from tether.model import OnDeath, Spec
from tether.owner.resource import Resource

__all__ = ["alone", "name_of", "resolved"]

_log = logging.getLogger("tether")


def name_of(spec: Any) -> str | None:
    """Return the name of the resource that something runs in; None if there is none."""
    field = getattr(spec, "within", "")
    return getattr(getattr(spec, field), "name", None) if field else None


def resolved(
    spec: Any,
    on_death: OnDeath,
    resources: Callable[[], Sequence[Resource]],
    start: Callable[[Spec], Resource],
    one_at_a_time: AbstractContextManager[object],
) -> tuple[Any, Resource | None]:
    """Start what a resource runs in, where only its spec was given.

    An environment is for everybody: one of an equal spec is used again, and stays. What is rented is for this one alone.

    Args:
        spec: of the resource.
        on_death: the rule that holds for it.
        resources: returns those of its owner.
        start: starts another one.
        one_at_a_time: entered while one that is for everybody is looked for and started.

    Returns:
        The spec with a resource in place of that spec, and that resource if it was rented for this one alone.

    Raises:
        SpecError: it is to be kept, and what was rented for it would be ended.
        StartError: that could not be started.
    """
    field = getattr(spec, "within", "")
    wanted = getattr(spec, field) if field else None
    if wanted is None and spec.kind == "process":
        wanted = _made_by(spec, on_death)
    if wanted is None or not hasattr(wanted, "fingerprint"):
        return spec, None
    if not getattr(wanted, "rented", False):
        with one_at_a_time:
            found = next((resource for resource in resources() if resource.spec == wanted), None)
            return replace(spec, **{field: found or start(wanted)}), None
    if on_death == "keep":
        raise SpecError(
            f"{spec.name or spec.default_name} is to be kept, and {field}= rents something that ends with it; "
            f"start that by itself, and give the resource as {field}="
        )
    rented = start(wanted)
    return replace(spec, **{field: rented}), rented


def _made_by(spec: Any, on_death: OnDeath) -> Spec | None:
    """Return the spec of what its command makes and does not hold itself, such as the container of ``docker run``."""
    holder = registry.holder_of(str(spec.argv[0]))
    made: Spec | None = None if holder is None else holder.made_by(spec, on_death)
    return made


@contextmanager
def alone(rented: Resource | None) -> Iterator[None]:
    """End what was rented for a resource if that does not start."""
    try:
        yield
    except BaseException:
        if rented is not None:
            try:
                rented.kill()
            except TetherError as error:
                # It stays on record, and is tried again.
                _log.error("%s was rented for what did not start, and can't be ended now: %s", rented.name, error)
        raise
