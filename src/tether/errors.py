"""One tree of errors. Each message says what happened, to which resource, and what to do next."""

from __future__ import annotations

import errno
import os
from typing import Any

__all__ = [
    "Busy",
    "DeadlineExceeded",
    "DriverUnavailable",
    "ExecError",
    "Gone",
    "GuardLost",
    "LedgerError",
    "NotCreated",
    "NotFound",
    "NotRemoved",
    "PluginError",
    "ReaperError",
    "SpecError",
    "StartError",
    "StateDirError",
    "TetherError",
    "UnknownField",
    "exec_error",
    "require_extra",
]


_TAIL_LINES = 10
_LINE_LENGTH = 200


def without_escapes(text: str) -> str:
    """Return text without the control sequences of terminals. Source: ECMA-48, 5.4 and 8.3."""
    import re

    csi, string = r"\[[0-?]*[ -/]*[@-~]", r"[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"
    return re.sub(rf"\x1b(?:{csi}|{string}|[ -/]*[0-~])?|\x9b[0-?]*[ -/]*[@-~]", "", text)


def _shown(log: str) -> str:
    """Return the end of a log as a message shows it: few lines, none of them long, none that acts on a terminal."""
    shown = []
    for line in log.rstrip().split("\n")[-_TAIL_LINES:]:
        # What a progress bar wrote last is what a terminal would show.
        text = "".join(each if each.isprintable() else " " for each in without_escapes(line.rpartition("\r")[2]))
        shown.append(text if len(text) <= _LINE_LENGTH else f"{text[: _LINE_LENGTH - 1]}…")
    return "\n".join(shown)


class TetherError(Exception):
    """Above every error that tether raises of its own accord."""


class SpecError(TetherError, ValueError):
    """A spec, name or option that can't be right; refused before anything was created."""


class UnknownField(SpecError, TypeError):
    """A spec was given what it has no field for; a `TypeError` too, as from any other call."""


class StartError(TetherError):
    """A resource could not be started; nothing of it is left running.

    Attributes:
        resource: its name.
        exit_code: as in `subprocess`, negative for a signal; None if it did not end by itself.
        log_tail: the last lines that it wrote, possibly empty.
    """

    def __init__(self, message: str, *, resource: str = "", exit_code: int | None = None, log_tail: str = "") -> None:
        super().__init__(message)
        self.resource = resource
        self.exit_code = exit_code
        self.log_tail = log_tail

    def __str__(self) -> str:
        message = str(self.args[0]) if self.args else ""
        tail = _shown(self.log_tail)
        return f"{message}\n--- last lines of its log ---\n{tail}" if tail else message


class NotCreated(StartError):
    """A resource could not be started, and nothing of it was created or asked for yet."""


class GuardLost(StartError):
    """The shim of a resource was killed while it was being started; what it may have started was ended. It may be tried again."""


class ExecError(StartError, OSError):
    """The kernel refused to execute the command. Also an `OSError` with ``errno`` and ``filename``.

    Attributes:
        attribute: the field of the spec that was refused, such as "cwd" or "affinity"; empty if it was the program itself.
        given: what that field held, as it is shown.
        here: whether it was to run on this machine, with the app's own view of files.
    """

    attribute = ""
    given = ""
    here = True

    def __str__(self) -> str:
        """Say the kernel's words, for which resource, and what to do next."""
        from tether.refusal import in_words  # What it needs is looked up for who reads it.

        return in_words(self)


class ProgramNotFound(ExecError, FileNotFoundError):
    """There is no such program, or no such working directory."""


class ProgramNotPermitted(ExecError, PermissionError):
    """The program may not be executed, or is a directory."""


class ProgramNotDirectory(ExecError, NotADirectoryError):
    """A part of the path, or the working directory, is not a directory."""


class AttributeRefused(ExecError):
    """The kernel refused something that the command was to have, and not the command: ``attribute`` says what."""


class AttributeNotPermitted(AttributeRefused, PermissionError):
    """The app may not give the command what its spec says."""


_EXEC_ERRORS: dict[int, type[ExecError]] = {
    errno.ENOENT: ProgramNotFound,
    errno.EACCES: ProgramNotPermitted,
    errno.EPERM: ProgramNotPermitted,
    errno.ENOTDIR: ProgramNotDirectory,
}


def exec_error(
    number: int, filename: str | None, resource: str, *, attribute: str = "", given: object = None, here: bool = True
) -> ExecError:
    """Make the error that `subprocess` would raise for this errno, as a `StartError` too.

    Args:
        number: the errno.
        filename: the program or folder; None if it was neither that was refused.
        resource: its name.
        attribute: the field of the spec that was refused; empty for the program itself.
        given: what that field holds.
        here: whether it was to run on this machine, with the app's own view of files.
    """
    kind = _EXEC_ERRORS.get(number, ExecError)
    if filename is None:
        kind = AttributeNotPermitted if number in (errno.EPERM, errno.EACCES) else AttributeRefused
    said = (number, os.strerror(number)) if filename is None else (number, os.strerror(number), filename)
    error = kind.__new__(kind, *said)
    OSError.__init__(error, *said)
    error.resource, error.exit_code, error.log_tail = resource, None, ""
    error.attribute, error.given, error.here = attribute, "" if given is None else repr(given), here
    return error


class NotFound(TetherError, LookupError):
    """Nothing of this name or id is on record."""


class Busy(TetherError):
    """The name or the resource is in use by somebody else."""


class Gone(TetherError):
    """The resource has ended, so that what was asked of it makes no sense any more."""


class DriverUnavailable(TetherError):
    """A driver's client library or service is missing."""


class NotRemoved(DriverUnavailable):
    """Nothing of a resource runs any more, but something that was made for it can't be removed now; tried again."""


class LedgerError(TetherError):
    """The ledger can't be read or written."""


class StateDirError(LedgerError):
    """The state directory can't be used safely."""


class ReaperError(TetherError):
    """The reaper could not be started, so that nothing would be guarded; nothing was started."""


class DeadlineExceeded(TetherError, TimeoutError):
    """A time limit passed; the resource goes on as it was."""


class PluginError(TetherError):
    """A plugin's method raised or returned what the protocol does not allow.

    Attributes:
        plugin: the name of the plugin's type.
        method: the name of the method.
    """

    def __init__(self, message: str, *, plugin: str = "", method: str = "") -> None:
        super().__init__(message)
        self.plugin = plugin
        self.method = method

    @classmethod
    def in_method(cls, plugin: Any, method: str, error: BaseException) -> PluginError:
        """Say that ``plugin.method()`` raised ``error``."""
        name = type(plugin).__name__
        several = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
        return cls(
            f"plugin {name}: {method}() raised {type(error).__name__}: {'; '.join(map(in_words, several))}; "
            f"mend the plugin, or check it with 'tether check MODULE:{name}'",
            plugin=name,
            method=method,
        )


def in_words(error: BaseException) -> str:
    """Return the text of somebody else's error, whose own ``__str__`` may raise."""
    try:
        return str(error)
    except Exception as another:
        return f"(its text can't be had: its __str__() raises {type(another).__name__})"


def require_extra(module: str, extra: str, what: str) -> None:
    """Raise DriverUnavailable, with the command that mends it, if ``module`` is not installed."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise DriverUnavailable(
            f"{what} needs the extra '{extra}', which is not installed; run: pip install 'tether[{extra}]'"
        )
