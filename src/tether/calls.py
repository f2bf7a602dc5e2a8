"""The one place that calls a plugin's method, and checks what it returns.

Plugins are written by anybody: a method may raise, leave the interpreter, return a coroutine or nonsense. All of that becomes one
`PluginError` that names plugin and method, so that it harms nobody else.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from itertools import islice
from typing import Any

from tether.errors import PluginError

__all__ = [
    "TimedOut",
    "ask",
    "blaming",
    "has_methods",
    "mode_value",
    "own_pids",
    "plain",
    "resources",
    "run",
    "shown",
    "within",
]

_MOST_PIDS = 100_000
_DEEPEST = 20
_MOST_VALUES = 20_000
_LONGEST_INT = 1024


def has_methods(plugin: Any, names: Iterable[str]) -> bool:
    """Whether ``plugin`` is an object (not a class) that can be called by all of these names.

    A property that raises is no method.
    """
    if isinstance(plugin, type):
        return False
    try:
        return all(callable(getattr(plugin, name, None)) for name in names)
    except Exception:
        return False


@contextmanager
def blaming(plugin: Any, method: str) -> Iterator[None]:
    """Within this, what is raised is the method's error: by the call itself, and by reading what it returned.

    Raises:
        PluginError: it raised, also what is no `Exception`.
        KeyboardInterrupt: somebody pressed Ctrl-C meanwhile.
    """
    try:
        yield
    except (KeyboardInterrupt, PluginError):
        raise
    except BaseException as error:
        raise PluginError.in_method(plugin, method, error) from error


def run(plugin: Any, method: str, *arguments: Any) -> Any:
    """Call a method and return what it returns, unchecked.

    Raises:
        PluginError: it raised, also what is no `Exception` (``sys.exit()``, a cancellation), or it is a coroutine function.
        KeyboardInterrupt: somebody pressed Ctrl-C meanwhile.
    """
    with blaming(plugin, method):
        value = getattr(plugin, method)(*arguments)
    if inspect.isawaitable(value):
        close = getattr(value, "close", None)
        if callable(close):
            close()
        raise _returned(
            plugin, method, "a coroutine", "it must be a plain function, which does its work before it returns"
        )
    return value


def within(
    limit_s: float,
    plugin: Any,
    method: str,
    call: Callable[[], Any],
    begun: Callable[[threading.Thread], object] = lambda _: None,
) -> Any:
    """Return what ``call()`` returns, which calls this method of the plugin in a thread of its own.

    Where no thread can be made (the limit of processes is reached, the interpreter is ending), it is called in this one.
    ``begun`` is told the thread, in which the call may go on after a time limit or an interrupt.

    Raises:
        PluginError: it did not return within ``limit_s`` seconds, and goes on in its thread; or it raised.
    """
    said: list[tuple[Any, BaseException | None]] = []

    def ask() -> None:
        try:
            said.append((call(), None))
        except BaseException as error:
            said.append((None, error))

    name = type(plugin).__name__
    thread = threading.Thread(target=ask, name=f"tether-{name}-{method}", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        ask()
    else:
        begun(thread)
        thread.join(limit_s)
    if not said:
        raise TimedOut(f"plugin {name}: {method}() did not return within {limit_s:g} s", plugin=name, method=method)
    value, error = said[0]
    if isinstance(error, PluginError):
        raise error
    if error is not None:
        raise PluginError.in_method(plugin, method, error) from error
    return value


class TimedOut(PluginError):
    """A method did not return in time; it goes on in its thread."""


def shown(value: Any) -> str:
    """A value's repr, at most a line of it."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"a {type(value).__name__} whose repr() raises {type(error).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}..."


def _returned(plugin: Any, method: str, what: str, wanted: str) -> PluginError:
    name = type(plugin).__name__
    return PluginError(
        f"plugin {name}: {method}() returned {what}; {wanted}; check it with 'tether check MODULE:{name}'",
        plugin=name,
        method=method,
    )


def mode_value(plugin: Any) -> str:
    """Return the value of the plugin's execution mode.

    An enum of another package counts by its value, and so does the value itself as text. Raises PluginError.
    """
    from tether.protocol import PluginExecutionMode

    returned = run(plugin, "get_execution_mode")
    value = getattr(returned, "value", None) if isinstance(returned, Enum) else returned
    known = [mode.value for mode in PluginExecutionMode]
    if not isinstance(value, str) or value not in known:
        raise _returned(plugin, "get_execution_mode", shown(returned), f"it must be a mode: {', '.join(known)}")
    return str(value)


def own_pids(plugin: Any) -> tuple[list[int], list[Any]]:
    """Return the pids that the plugin names, each once and in its order, and what it named that can't be one.

    Raises PluginError: it raised, or returned what is no list.
    """
    returned = run(plugin, "get_child_pids")
    if isinstance(returned, str | bytes | Mapping):
        raise _returned(plugin, "get_child_pids", shown(returned), "it must be a list of int")
    with blaming(plugin, "get_child_pids"):
        named = list(islice(iter(returned), _MOST_PIDS))
    # Not by isinstance(): True is no pid.
    return list(dict.fromkeys(each for each in named if type(each) is int)), [
        each for each in named if type(each) is not int
    ]


def resources(plugin: Any) -> dict[str, Any]:
    """Return what the plugin says it manages, ready for JSON. Raises PluginError: it raised, or returned no dict."""
    returned = run(plugin, "get_managed_resources")
    if not isinstance(returned, Mapping):
        raise _returned(plugin, "get_managed_resources", shown(returned), "it must be a dict")
    ready: dict[str, Any] = plain(returned)
    return ready


def ask(plugin: Any, method: str, *arguments: Any, wanted: type | tuple[type, ...], what: str) -> Any:
    """Call a method that must return a value of a type; ``what`` is that type in words. Raises PluginError."""
    value = run(plugin, method, *arguments)
    if not isinstance(value, wanted):
        raise _returned(plugin, method, shown(value), f"it must be {what}")
    return value


def plain(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: what it can't hold is shown as text, what contains itself as "(itself)".

    Keys become text, "not a number" and infinities as well, since JSON has none of them; what is too deep or too much is cut.
    """
    return _plain(value, (), [_MOST_VALUES])


def _plain(value: Any, above: tuple[int, ...], left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0 or len(above) > _DEEPEST:
        return "..."
    if isinstance(value, Enum):
        return _plain(value.value, above, left)
    if value is None or isinstance(value, bool | int | float | str):
        return _scalar(value)
    if id(value) in above:
        return "(itself)"
    try:
        return _container(value, (*above, id(value)), left)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return f"(can't be shown: {type(error).__name__})"


def _scalar(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, int) and value.bit_length() > _LONGEST_INT:
        # Python turns no int of thousands of digits into decimal text.
        return hex(value)
    return value


def _container(value: Any, above: tuple[int, ...], left: list[int]) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items = islice(value.items(), max(0, left[0]))
        return {key if type(key) is str else _text(key): _plain(item, above, left) for key, item in items}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, above, left) for item in islice(value, max(0, left[0]))]
    return _text(value)


def _text(value: Any) -> str:
    """Any object as text. It may raise what it likes, which the caller catches."""
    return str(value.value if isinstance(value, Enum) else value)
