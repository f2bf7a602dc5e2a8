"""The command line: argparse, and of tether only what a command needs, so that it answers at once.

commands.py    which commands there are, and what is meant by a word that is none
arguments.py   how they read their arguments
text.py        what they print: text from outside made harmless, tables that fit
records.py     what they read of the ledger, and how resources are named
look.py        resources as they are now
ps.py  tree.py  logs.py  events.py  tell.py  envs.py    what there is, and what happened
end.py  estates.py                             what ends things, or gives them up
run.py  asked.py  execute.py  exec.py  check.py  costs.py  doctor.py  completion.py     the rest
"""

from __future__ import annotations

import gc
import os
import sys

__all__ = ["main"]

_GARBAGE = 50_000
_INTERRUPT = 2
_OWN_FAILURE = 1
_RUN_FAILURE = 125


def main() -> None:
    """Run the command line; the entry point ``tether``."""
    # What is imported stays to the end: to search it for garbage, on the way and at the end, takes a fifth of a command's time.
    gc.set_threshold(_GARBAGE)
    argv = sys.argv[1:]
    runs = argv[:1] == ["run"]
    _end_quietly_if_interrupted()
    _have_standard_streams()
    code = _code_of(argv, _RUN_FAILURE if runs or argv[:1] == ["exec"] else _OWN_FAILURE)
    gc.freeze()
    sys.exit(code)


def _code_of(argv: list[str], failure: int) -> int | str | None:
    """Do what is asked and return the exit code; what can't be done is said, without a traceback."""
    from tether.cli import commands, text

    try:
        try:
            code: int | str | None = commands.dispatch(argv)
        except SystemExit as asked:
            code = asked.code
        text.flush()
    except text.OutputError as error:
        text.warn(f"can't write the output: {error}")
        # The interpreter would try it once more at its end.
        os._exit(failure)
    except KeyboardInterrupt:
        text.die_of(_INTERRUPT)
    except Exception as error:
        if _is_expected(error):
            text.warn(text.plain(str(error)))
        else:
            sys.excepthook(type(error), error, error.__traceback__)
        return failure
    return code


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
    """Put something in the place of a standard descriptor that is closed, so that no file of ours gets its number.

    It is not inherited: what `tether run` starts has the descriptors as they were, closed ones too.
    """
    for fd, how in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            # Nothing can be read from it, or written to it; what is said to a closed standard error is said to nobody.
            os.open(os.devnull, how)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
