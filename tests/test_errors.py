"""What errors say."""

from __future__ import annotations

from tether.errors import StartError, without_escapes


def test_the_log_in_an_error_is_short_and_acts_on_nothing() -> None:
    """Few lines, none of them long, without escape sequences; the attribute has all of it."""
    log = "\n".join(
        [*(f"line {number}" for number in range(30)), "x" * 5000, "\x1b[1;31mred\x1b[0m\x07", "10%\r100%", ""]
    )
    error = StartError("cannot start it", resource="it", log_tail=log)
    message, mark, *lines = str(error).splitlines()
    assert (message, mark) == ("cannot start it", "--- last lines of its log ---")
    assert len(lines) == 10
    assert (lines[0], lines[-2:]) == ("line 23", ["red ", "100%"])
    assert max(map(len, lines)) == 200
    assert error.log_tail == log
    assert str(StartError("cannot start it", log_tail="\x1b[0m\n")) == "cannot start it"


def test_control_sequences_of_all_kinds_are_left_out() -> None:
    """Colours, titles, links, character sets, 8-bit ones, and half a sequence at the end."""
    text = "a\x1b[31mb\x1b]0;title\x07c\x1b]8;;http://x\x1b\\d\x1b(Be\x9b2Jf\x1bPdata\x1b\\g\x1b"
    assert without_escapes(text) == "abcdefg"
