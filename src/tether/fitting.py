"""What a field of a spec may hold, by its annotation: anything else is refused before anything is created."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, BinaryIO, Literal, NamedTuple, Union, get_args, get_origin

from tether.errors import SpecError, UnknownField
from tether.redaction import redact_text

__all__ = ["check_fields", "check_names", "checked_spec", "is_list", "is_path", "shown"]

_MOST = 1 << 63
"""No whole number of a spec is as large: the ledger and the guard's wire have 64 bits for one."""

_MOST_NUMBER = 1e9
"""No other number is larger. As seconds this is 31 years, and a date that far can still be written."""

_LONGEST = 120


class _Wanted(NamedTuple):
    """What an annotation allows.

    Attributes:
        fits: whether a value is one.
        said: what it is, in words.
        words: those of a Literal.
        inner: says which part of a value does not fit; empty if it is the value as a whole.
    """

    fits: Callable[[Any], bool]
    said: str
    words: tuple[Any, ...] = ()
    inner: Callable[[Any], str] = lambda _: ""


def _is_text(value: Any) -> bool:
    """Whether it is a text that the kernel can be given: without NUL, and encodable."""
    if not isinstance(value, str) or "\0" in value:
        return False
    if not value.isascii():
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            return False
    return True


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_MOST <= value < _MOST


def _is_number(value: Any) -> bool:
    # Also false for what is no number at all (nan).
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST_NUMBER


def is_path(value: Any) -> bool:
    """Whether it is a path that the kernel can be given, as text, bytes or an object."""
    if isinstance(value, os.PathLike):
        try:
            value = os.fspath(value)
        except TypeError:
            return False
    return _is_text(value) or (isinstance(value, bytes) and b"\0" not in value)


_ANYTHING = _Wanted(lambda _: True, "anything")

_PLAIN: dict[Any, _Wanted] = {
    None: _Wanted(lambda value: value is None, "None"),
    type(None): _Wanted(lambda value: value is None, "None"),
    bool: _Wanted(lambda value: isinstance(value, bool), "True or False"),
    int: _Wanted(_is_whole, "a whole number"),
    float: _Wanted(_is_number, f"a number up to {_MOST_NUMBER:,.0f}"),
    str: _Wanted(_is_text, "a text without NUL"),
    bytes: _Wanted(lambda value: isinstance(value, bytes), "bytes"),
    os.PathLike: _Wanted(is_path, "a path"),
    BinaryIO: _Wanted(lambda value: hasattr(value, "fileno") and not isinstance(value, type), "an open file"),
    Any: _ANYTHING,
    object: _ANYTHING,
}

_SAID = {
    "Ready": "a readiness probe, made by http('/health'), tcp(), log('...') or call(...)",
    "Inside": "a resource that commands can run in",
    "Reachable": "a started Machine",
    "Spec": "a spec",
}


def is_list(value: Any) -> bool:
    """Whether it has parts in some order, and is no text, mapping, class or open file."""
    no_list = isinstance(value, str | bytes | bytearray | Mapping | type) or hasattr(value, "fileno")
    return not no_list and hasattr(value, "__iter__")


def _sequence(of: Any) -> _Wanted:
    each = _wanted(of)

    def which(value: Any) -> str:
        return next((shown(item) for item in value if not each.fits(item)), "") if is_list(value) else ""

    return _Wanted(
        lambda value: is_list(value) and all(map(each.fits, value)), f"a list, each of it {each.said}", (), which
    )


def _mapping(key: Any, of: Any) -> _Wanted:
    name, each = _wanted(key), _wanted(of)

    def which(value: Any) -> str:
        if not isinstance(value, Mapping):
            return ""
        # A value may be a secret: its type says enough.
        wrong = (
            shown(one) if not name.fits(one) else f"{shown(one)}: {_a(other)}"
            for one, other in value.items()
            if not (name.fits(one) and each.fits(other))
        )
        return next(wrong, "")

    return _Wanted(
        lambda value: isinstance(value, Mapping) and all(name.fits(a) and each.fits(b) for a, b in value.items()),
        f"a mapping, each key {name.said} and each value {each.said}",
        (),
        which,
    )


def _tuple(parts: tuple[Any, ...]) -> _Wanted:
    if len(parts) == 2 and parts[1] is ...:
        return _sequence(parts[0])
    each = [_wanted(part) for part in parts]
    return _Wanted(
        lambda value: (
            isinstance(value, tuple | list)
            and len(value) == len(each)
            and all(one.fits(item) for one, item in zip(each, value, strict=True))
        ),
        f"({', '.join(one.said for one in each)})",
    )


def _union(parts: tuple[Any, ...]) -> _Wanted:
    each = [_wanted(part) for part in parts]

    def which(value: Any) -> str:
        return next((found for one in each if (found := one.inner(value))), "")

    said = list(dict.fromkeys(one.said for one in each))
    return _Wanted(
        lambda value: any(one.fits(value) for one in each),
        ", or ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said),
        tuple(word for one in each for word in one.words),
        which,
    )


def _literal(words: tuple[Any, ...]) -> _Wanted:
    kinds = [(type(word), word) for word in words]
    said = " or ".join(repr(word) for word in words)
    return _Wanted(lambda value: any(type(value) is kind and value == word for kind, word in kinds), said, words)


_MADE: dict[Any, Callable[[tuple[Any, ...]], _Wanted]] = {
    Union: _union,
    types.UnionType: _union,
    Literal: _literal,
    tuple: _tuple,
    Mapping: lambda parts: _mapping(*parts),
    Sequence: lambda parts: _sequence(parts[0]),
    list: lambda parts: _sequence(parts[0]),
    dict: lambda parts: _mapping(*parts),
}


def _wanted(annotation: Any) -> _Wanted:
    origin = get_origin(annotation)
    if origin in _MADE:
        return _MADE[origin](get_args(annotation))
    kind = annotation if origin is None else origin
    if kind in _PLAIN:
        return _PLAIN[kind]
    if not isinstance(kind, type):
        return _ANYTHING
    said = _SAID.get(kind.__name__) or f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
    # A class has what its objects have, and is none of them.
    return _Wanted(lambda value: isinstance(value, kind) and not isinstance(value, type), said)


@cache
def _wanted_of(kind: type[object], name: str) -> _Wanted:
    """Return what a field's annotation allows; one that can't be evaluated allows anything."""
    for each in kind.__mro__:
        annotation = vars(each).get("__annotations__", {}).get(name)
        if annotation is None:
            continue
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, vars(sys.modules[each.__module__]))  # noqa: S307 - the class's own words
            except NameError:
                return _ANYTHING
        return _wanted(annotation)
    return _ANYTHING


def _a(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def shown(value: Any) -> str:
    """Show a value as far as it helps, whatever its own repr does."""
    try:
        text = redact_text(repr(value))
    except Exception:
        return _a(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


@cache
def _to_check(kind: Any) -> tuple[tuple[str, Any, bool], ...]:
    """Return the fields that are given, each with its default, and whether it may be shown."""
    apart = getattr(kind, "checked_apart", ())
    return tuple((each.name, each.default, each.repr) for each in fields(kind) if each.init and each.name not in apart)


def check_fields(spec: Any) -> None:
    """See that every field that was given holds what its annotation allows; of an iterator a tuple is made.

    Args:
        spec: of a dataclass, whose ``checked_apart`` names the fields that it checks itself.

    Raises:
        SpecError: one does not: which, what was given, and what is wanted.
    """
    values = vars(spec)
    kind: Any = type(spec)
    for name, default, is_shown in _to_check(kind):
        value = values[name]
        if value is default and default is not MISSING:
            continue
        if isinstance(value, Iterator) and not hasattr(value, "fileno"):
            value = tuple(value)
            object.__setattr__(spec, name, value)
        wanted = _wanted_of(kind, name)
        if not wanted.fits(value):
            called = f" {spec.name}" if name != "name" and _is_text(values.get("name")) else ""
            raise SpecError(f"{type(spec).__name__}{called}: {_refusal(name, value, wanted, is_shown)}")


def _refusal(name: str, value: Any, wanted: _Wanted, is_shown: bool) -> str:
    which = wanted.inner(value)
    if which:
        return f"{name} has {which} in it, and must be {wanted.said}"
    if isinstance(value, str) and wanted.words:
        return f"{name}={shown(value)} is not known; use one of {', '.join(map(repr, wanted.words))}"
    if not is_shown or value is None:
        return f"{name} must be {wanted.said}, not {_a(value)}"
    kind = "" if type(value) in (int, float, bool) else f", not {_a(value)}"
    return f"{name}={shown(value)} must be {wanted.said}{kind}"


_MEANT = {
    "shell": "a shell is a program like others: argv=['sh', '-c', '...']",
    "timeout": "say ready=http('/health', timeout=...) for a start, wait(timeout=...) for its end",
    "args": "the program and its arguments are argv=[...]",
    "cmd": "the program and its arguments are argv=[...]",
    "command": "the program and its arguments are argv=[...]",
    "preexec_fn": "say it by the fields, such as umask=, nice= and user=",
    "start_new_session": "it has a session of its own unless you say terminal='share'",
    "grace": "it is called stop_grace=",
    "host": "a process runs here; on another host it is a RemoteProcess",
}


def check_names(kind: type, given: Mapping[str, Any]) -> None:
    """See that a spec has the fields that are given. Raises UnknownField, with what may have been meant."""
    known = [each.name for each in fields(kind) if each.init]
    for name in given:
        if name in known:
            continue
        import difflib

        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}=?" if near else f"it has {', '.join(known)}"
        if "argv" in known and name in _MEANT:
            hint = _MEANT[name]
        raise UnknownField(f"a {kind.__name__} has no {name}=: {hint}")


def checked_spec(value: Any) -> Any:
    """Return what can be started: a spec. Raises SpecError for anything else, with what may have been meant."""
    if hasattr(value, "fingerprint") and not isinstance(value, type):
        return value
    hint = "write start(Process([...])), or another spec"
    if isinstance(value, type):
        hint = f"that is the class: write {value.__name__}(...)"
    elif isinstance(value, list | tuple) and all(isinstance(each, str | os.PathLike) for each in value):
        hint = f"write start(Process({shown(value)}))"
    elif isinstance(value, str):
        hint = f"write start(Process([{shown(value)}]))"
    elif hasattr(value, "poll") and hasattr(value, "pid"):
        hint = "what runs already is held by owner.watch(popen)"
    elif hasattr(value, "force_cleanup"):
        hint = "a plugin is registered: owner.register(plugin)"
    elif hasattr(value, "restart"):
        hint = "that is a resource, which was started; its restart() starts it again"
    raise SpecError(f"{_a(value)} is no spec, so nothing was started: {hint}")
