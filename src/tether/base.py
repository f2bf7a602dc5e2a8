"""What specs have in common: how their fields are checked, how they are shown, and their fingerprint."""

from __future__ import annotations

import signal as _signal
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from os import PathLike
from typing import Any, ClassVar, Literal, Self

from tether.errors import SpecError
from tether.fitting import check_fields, check_names, is_list, is_path, shown
from tether.model import Inside, OnDeath, Ready, check_name
from tether.port import has_port
from tether.redaction import redact, redact_text

__all__ = ["SIGNALS", "CommandBase", "SpecBase", "checked_env", "checked_text", "checked_words"]

SIGNALS = frozenset(map(int, _signal.valid_signals()))
"""The numbers that are signals here."""


def checked_text(value: Any, what: str) -> str:
    """Return text or a path as text; ``what`` it is stands in the SpecError for what can be none."""
    given = value
    if isinstance(value, PathLike):
        value = value.__fspath__()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise SpecError(f"{what} must be text or a path, not {type(value).__name__}: {shown(value)}")
    if "\0" in value:
        raise SpecError(f"embedded null byte in {what}: {redact([value])[0]!r}")
    if not is_path(given):
        raise SpecError(f"{what} can't be encoded: {redact([value])[0]!r}")
    return value


def checked_env(env: Mapping[str, Any]) -> dict[str, str | None]:
    """Return a copy of variables to set, or raise SpecError. Values are never shown: they may be secrets."""
    if not isinstance(env, Mapping):
        raise SpecError(f"env must be a mapping, like {{'NAME': 'value'}}, not {type(env).__name__}")
    checked: dict[str, str | None] = {}
    for key, value in env.items():
        name = checked_text(key, "a variable's name")
        if not name or "=" in name:
            raise SpecError(f"{name!r} can't be the name of an environment variable")
        if value is not None and (not isinstance(value, str | bytes | PathLike)):
            raise SpecError(f"the value of variable {name} must be text, not {type(value).__name__}")
        if value is not None and not is_path(value):
            raise SpecError(f"embedded null byte in the value of variable {name}, or it can't be encoded")
        checked[name] = None if value is None else checked_text(value, f"the value of variable {name}")
    return checked


def checked_words(value: Sequence[str] | None, what: str) -> tuple[str, ...] | None:
    """Return arguments as a tuple, or None; `what` they are stands in the SpecError for what can be none."""
    if value is None:
        return None
    if isinstance(value, str | bytes):
        raise SpecError(
            f"{what} must be a list of arguments, not one string: {shown(value)}; split it, or write ['sh', '-c', ...]"
        )
    if not is_list(value):
        raise SpecError(f"{what} must be a list of texts, not {type(value).__name__}")
    words = tuple(value)
    for word in words:
        if not isinstance(word, str) or not is_path(word):
            raise SpecError(f"{what} must be texts without NUL, not {shown(word)}")
    return words


class SpecBase:
    """What specs of every kind have in common: how their fields are checked, and the fingerprint."""

    name: str | None
    kind: str
    needs: Sequence[str] | None
    on_death: OnDeath | None
    keep_for: float
    stop_grace: float
    within: ClassVar[str] = ""
    """The field that says in what it runs: a resource, or the spec of one, which is started first. Empty if there is none."""
    checked_apart: ClassVar[tuple[str, ...]] = ("env",)
    """Fields that take more than their annotation says, and are checked by the class itself."""

    def __new__(cls, *_: Any, **given: Any) -> Self:
        """Refuse what it has no field for, with what may have been meant. Raises UnknownField."""
        if given:
            check_names(cls, given)
        return object.__new__(cls)

    def __init_subclass__(cls) -> None:
        """Have the fields of each kind compared with their annotations before its own checks, which then may rely on them."""
        own = vars(cls).get("__post_init__")
        if own is not None:

            @wraps(own)
            def checked(self: Any) -> None:
                check_fields(self)
                own(self)

            cls.__post_init__ = checked  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Refuse what is of another type than its field."""
        check_fields(self)

    @property
    def default_name(self) -> str:
        """What a name is made of if there is none."""
        return self.kind

    def _check_common(self) -> None:
        if self.name is not None:
            check_name(self.name, "a resource")
        if self.needs is not None:
            object.__setattr__(self, "needs", tuple(check_name(each, "a resource") for each in self.needs))
        if not self.stop_grace >= 0:
            raise SpecError(f"stop_grace={self.stop_grace!r} must be 0 or more seconds")
        if not self.keep_for > 0:
            raise SpecError(f"keep_for={self.keep_for!r} must be more than 0 seconds")

    def __repr__(self) -> str:
        """Show what is not as by default, and no secrets."""
        given = []
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            default = each.default if each.default_factory is MISSING else each.default_factory()
            if not each.init or not each.repr or value == default:
                continue
            if each.name in ("argv", "command", "args", "entrypoint"):
                value = redact([str(argument) for argument in value or ()])
            given.append(f"{each.name}={redact_text(value) if isinstance(value, str) else value!r}")
        return f"{type(self).__name__}({', '.join(given)})"

    def fingerprint(self, key: bytes) -> str:
        """Return what is equal for equal specs, and tells nothing of their values to who has not the key."""
        values = [(each.name, _plain(getattr(self, each.name))) for each in fields(self) if each.name != "name"]  # type: ignore[arg-type]
        import hmac  # Only what is kept is compared with what was.

        return hmac.new(key, repr(values).encode("utf-8", "surrogateescape"), "sha256").hexdigest()


class CommandBase(SpecBase):
    """What specs of commands have in common, wherever they run."""

    argv: Sequence[str | PathLike[str]]
    env: Mapping[str, str | None]
    ready: Ready | None
    stop_signal: int
    stop_to: Literal["group", "main"]
    umask: int | None

    @property
    def default_name(self) -> str:
        """The program's name."""
        return str(self.argv[0]).rpartition("/")[2]

    @property
    def uses_port(self) -> bool:
        """Whether it has a port: there is a ``{port}`` in its arguments or environment."""
        values = (*self.argv, *(value for value in self.env.values() if value is not None))
        return any(has_port(str(value)) for value in values)

    @property
    def stays_up(self) -> bool:
        """Whether it is a server (it has a readiness probe or a port): to end by itself is then to fail."""
        return self.ready is not None or self.uses_port

    def _check_command(self) -> None:
        if isinstance(self.argv, str | bytes):
            raise SpecError(
                f"argv must be a list of arguments, not one string: {redact([str(self.argv)])[0]!r}; "
                "split it, or write ['sh', '-c', ...] if you mean a shell"
            )
        if not is_list(self.argv):
            raise SpecError(f"argv must be a list of arguments, not {type(self.argv).__name__}")
        argv = tuple(checked_text(argument, "an argument") for argument in self.argv)
        if not argv or not argv[0]:
            raise SpecError("argv is empty: there is no program to run")
        object.__setattr__(self, "argv", argv)
        object.__setattr__(self, "env", checked_env(self.env))
        if self.stop_signal not in SIGNALS:
            raise SpecError(f"stop_signal={self.stop_signal!r} is no signal")
        if self.umask is not None and not 0 <= self.umask <= 0o777:
            raise SpecError(f"umask={self.umask!r} is no file mode mask")
        if self.ready is not None and self.ready.first_of("health"):
            raise SpecError("ready=healthy() is for containers, whose image may have a health check; use another probe")


def _plain(value: Any) -> Any:
    """A value whose repr is the same in another process."""
    if isinstance(value, Mapping):
        return sorted(value.items())
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Ready):
        return (value.kind, _plain_target(value.target), float(value.timeout))
    if isinstance(value, SpecBase) and is_dataclass(value):
        return [_plain(getattr(value, each.name)) for each in fields(value)]
    if isinstance(value, Inside):
        return value.name
    return value


def _plain_target(target: Any) -> Any:
    """The same for what a probe looks for."""
    if isinstance(target, Ready):
        return _plain(target)
    if isinstance(target, tuple):
        return [_plain_target(each) for each in target]
    if isinstance(target, frozenset):
        return sorted(target)
    if is_dataclass(target):
        return [_plain_target(getattr(target, each.name)) for each in fields(target)]
    return getattr(target, "pattern", getattr(target, "__qualname__", target))
