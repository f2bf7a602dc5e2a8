"""The command line: argparse, and of tether only what a command needs, so that it answers at once.

commands.py    which commands there are, and what is meant by a word that is none
arguments.py   how they read their arguments
text.py        what they print: text from outside made harmless, tables that fit
records.py     what they read of the ledger, and how resources are named
look.py        resources as they are now
ps.py  tree.py  logs.py  events.py  tell.py    what there is, and what happened
end.py  estates.py                             what ends things, or gives them up
run.py  asked.py  check.py  doctor.py  completion.py     the rest
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

_INTERRUPT = 2
_OWN_FAILURE = 1
_RUN_FAILURE = 125


def main() -> None:
    """Run the command line; the entry point ``tether``."""
    argv = sys.argv[1:]
    runs = argv[:1] == ["run"]
    _end_quietly_if_interrupted()
    if not runs:
        # What `tether run` starts gets the descriptors as they are, closed ones too.
        _have_standard_streams()
    from tether.cli import commands, text

    try:
        code = commands.dispatch(argv)
        text.flush()
    except text.OutputError as error:
        text.warn(f"can't write the output: {error}")
        # The interpreter would try it once more at its end.
        os._exit(_OWN_FAILURE)
    except KeyboardInterrupt:
        text.die_of(_INTERRUPT)
    except Exception as error:
        if _is_expected(error):
            text.warn(text.plain(str(error)))
        else:
            sys.excepthook(type(error), error, error.__traceback__)
        code = _RUN_FAILURE if runs else _OWN_FAILURE
    sys.exit(code)


def _is_expected(error: Exception) -> bool:
    """Whether an error says what is wrong with the world, not with tether."""
    from tether.errors import TetherError

    return isinstance(error, TetherError | OSError)


def _end_quietly_if_interrupted() -> None:
    """Let Ctrl-C end this process at once and without a word, unless whoever started it has it ignored."""
    # The module signal costs more than all the rest here.
    import _signal  # type: ignore[import-not-found]

    if _signal.getsignal(_INTERRUPT) is _signal.default_int_handler:
        _signal.signal(_INTERRUPT, _signal.SIG_DFL)


def _have_standard_streams() -> None:
    """Put something that can't be used where a standard descriptor is closed, so that no file of ours gets its number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if fd == 0 else os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
