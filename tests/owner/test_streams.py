"""What a command reads and writes, as its resource shows it; its signals, and waiting for it alone."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from support import eventually
from tether import DeadlineExceeded, Owner, Process, Resource, SpecError, State
from tether.ledger import logs
from tether.linux import inotify, proc
from tether.owner.following import Splitter


def sh(script: str, **more: object) -> Process:
    """A shell's script."""
    return Process(["sh", "-c", script], **more)  # type: ignore[arg-type]


# -- lines -------------------------------------------------------------------------------------------------------------


def test_lines_are_followed_as_they_are_written_until_the_end(owner: Owner, tmp_path: Path) -> None:
    """Each is there at once, the last one without an end as well; the program waits for a file that this test makes."""
    gate = tmp_path / "gate"
    job = owner.start(sh(f"echo one; while [ ! -e {gate} ]; do sleep 0.05; done; echo two; printf 'three \\303\\244'"))
    lines = job.lines(follow=True)
    assert next(lines) == "one"
    assert job.state is State.READY
    gate.touch()
    assert list(lines) == ["two", "three ä"]
    assert job.wait(10) == 0
    assert list(job.lines(follow=True)) == list(job.lines()) == ["one", "two", "three ä"]
    assert list(job.lines(tail=1)) == ["three ä"]


def test_following_what_is_silent_ends_with_it(owner: Owner) -> None:
    """It waits in the kernel, and hears of an end by force."""
    job = owner.start(Process(["sleep", "100"]))
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(job.lines(follow=True)))
    reader.start()
    job.kill()
    reader.join(10)
    assert not reader.is_alive()
    assert found == []


def test_following_that_is_given_up_leaves_no_descriptor(owner: Owner) -> None:
    """Neither in the middle nor at the end."""
    job = owner.start(sh("echo one; sleep 100"))
    log = job.info()["log"]

    def held() -> list[str]:
        links = []
        for name in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                links.append(os.readlink(f"/proc/self/fd/{name}"))
        return [link for link in links if link == log or "eventfd" in link]

    before = held()
    for _ in range(3):
        lines = job.lines(follow=True)
        assert next(lines) == "one"
        assert len(held()) > len(before)
        lines.close()
        assert held() == before
    job.kill()
    assert list(job.lines(follow=True)) == ["one"]
    assert held() == before


def test_following_goes_on_over_a_rotation(owner: Owner) -> None:
    """No line is lost to the cap of a log."""
    count = 40_000
    job = owner.start(sh(f"for i in $(seq {count}); do echo line $i; done", log_max=1 << 16))
    seen = [int(line.split()[1]) for line in job.lines(follow=True) if line.startswith("line ")]
    assert seen == sorted(set(seen))
    assert seen[-1] == count
    assert job.wait(60) == 0


def test_following_goes_on_where_the_kernel_tells_nobody(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit of such watches for each user; then it is looked at now and again."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inotify, "once_written", full)
    job = owner.start(sh("echo one; sleep 0.3; echo two"))
    assert list(job.lines(follow=True)) == ["one", "two"]


def test_pieces_make_lines() -> None:
    """Wherever they are cut."""
    splitter = Splitter()
    cut = [splitter.take(each) for each in (b"a", b"b\nc\n\nd\xc3", b"\xa4\n", b"e")]
    assert [*cut, splitter.end(), splitter.end()] == [[], ["ab", "c", ""], ["dä"], [], ["e"], []]


# -- apart -------------------------------------------------------------------------------------------------------------


def test_errors_have_a_log_of_their_own_where_asked_for(owner: Owner, private_state: Path) -> None:
    """Together standard error comes last; pruning knows all files."""
    job = owner.start(sh("echo out 1; echo err 1 >&2; echo out 2; echo err 2 >&2", stderr="own-log"))
    assert job.wait(10) == 0
    assert job.logs(stream="stdout") == "out 1\nout 2\n"
    assert job.logs(stream="stderr") == "err 1\nerr 2\n"
    assert job.logs(1, stream="stderr") == "err 2\n"
    assert job.logs() == "out 1\nout 2\nerr 1\nerr 2"
    assert job.logs(3) == "out 2\nerr 1\nerr 2"
    assert job.logs(0) == ""
    assert sorted(job.lines(follow=True)) == ["err 1", "err 2", "out 1", "out 2"]
    written = set((private_state / "logs").iterdir())
    assert written <= set(logs.files(private_state, job.id))
    assert len(written) == 2


def test_it_is_said_where_they_are_not_apart(owner: Owner) -> None:
    """What was not asked for can't be had later; what makes no sense is refused."""
    job = owner.start(sh("echo both >&2"))
    job.wait(10)
    with pytest.raises(SpecError, match="not kept apart: start it with stderr='own-log'"):
        job.logs(stream="stderr")
    for stdout in ("null", "pipe", "inherit"):
        with pytest.raises(SpecError, match="own-log"):
            sh("true", stdout=stdout, stderr="own-log")
    piped = owner.start(sh("echo piped", stdout="pipe"))
    with pytest.raises(SpecError, match="goes to a pipe: read its stdout"):
        piped.lines()


# -- text --------------------------------------------------------------------------------------------------------------


def test_pipes_are_text_where_asked_for(owner: Owner) -> None:
    """As in subprocess: what is written is there at once, line ends are one character."""
    job = owner.start(Process(["cat"], stdin="pipe", stdout="pipe", encoding="latin-1"))
    assert isinstance(job.stdin, io.TextIOWrapper)
    assert isinstance(job.stdout, io.TextIOWrapper)
    job.stdin.write("grün\r\n")
    job.stdin.flush()
    assert job.stdout.readline() == "grün\n"
    job.stdin.close()
    assert job.wait(10) == 0
    job.stdout.close()
    bad = owner.start(sh(r"printf '\377'", stdout="pipe", encoding="utf-8", errors="backslashreplace"))
    assert bad.communicate() == ("\\xff", None)


def test_a_terminal_can_be_text(owner: Owner) -> None:
    """Its pipes are those of any terminal."""
    job = owner.start(sh("read line; echo got $line", terminal="pty", text=True))
    assert job.stdin is not None
    assert job.stdout is not None
    job.stdin.write("hello\n")
    job.stdin.flush()
    assert job.stdout.readline() == "hello\n"
    assert job.stdout.readline() == "got hello\n"
    job.wait(10)


# -- communicate -------------------------------------------------------------------------------------------------------


def test_communicate_sends_and_receives_at_once(owner: Owner) -> None:
    """Much more than a pipe holds, in all three; pipes are closed then, and a second call tells the same."""
    code = "import sys; d = sys.stdin.buffer.read(); sys.stderr.buffer.write(d[::-1]); sys.stdout.buffer.write(d)"
    job = owner.start(Process([sys.executable, "-c", code], stdin="pipe", stdout="pipe", stderr="pipe"))
    said = bytes(range(256)) * 4096
    assert job.communicate(said) == (said, said[::-1])
    assert job.poll() == 0
    assert [stream.closed for stream in (job.stdin, job.stdout, job.stderr) if stream] == [True] * 3
    assert job.communicate() == (said, said[::-1])


def test_communicate_goes_on_after_its_time_limit(owner: Owner, tmp_path: Path) -> None:
    """Nothing is lost, nothing can be said twice, and the command is not ended."""
    gate = tmp_path / "gate"
    job = owner.start(
        sh(f"cat; while [ ! -e {gate} ]; do sleep 0.05; done; echo two", stdin="pipe", stdout="pipe", text=True)
    )
    with pytest.raises(DeadlineExceeded, match="the output of sh has not ended after 0.1 s"):
        job.communicate("one\n", timeout=0.1)
    with pytest.raises(ValueError, match="begun already"):
        job.communicate("once more\n")
    assert job.state is State.READY
    gate.touch()
    assert owner.resource("sh").communicate(timeout=20) == ("one\ntwo\n", None)


def test_communicate_is_as_with_subprocess_at_the_edges(owner: Owner) -> None:
    """Nothing to say, nobody who listens, no pipes, and what is no text."""
    assert owner.start(Process(["cat"], stdin="pipe", stdout="pipe")).communicate() == (b"", None)
    assert owner.start(Process(["true"], stdin="pipe")).communicate(b"x" * 1_000_000) == (None, None)
    assert owner.start(Process(["true"])).communicate() == (None, None)
    with pytest.raises(SpecError, match="no pipe to say it to"):
        owner.start(Process(["true"])).communicate(b"something")
    job = owner.start(Process(["cat"], stdin="pipe"))
    with pytest.raises(TypeError, match="must be bytes"):
        job.communicate("text")
    job.kill()


def test_a_restarted_one_begins_a_conversation_of_its_own(owner: Owner) -> None:
    """What was heard in an earlier life is not told in the next."""
    job = owner.start(Process(["cat"], stdin="pipe", stdout="pipe"))
    assert job.communicate(b"first") == (b"first", None)
    job.restart()
    assert job.communicate(b"second") == (b"second", None)


# -- signals and waiting -----------------------------------------------------------------------------------------------


def test_signals_reach_whom_they_are_for(owner: Owner, tmp_path: Path) -> None:
    """The command alone, its group, or all that it started; what has ended is left alone."""
    script = "trap 'echo {0}' USR1; echo {0} ready; while :; do sleep 0.05; done"
    main, apart = script.format("main"), script.format("apart")
    job = owner.start(sh(f'sh -c "{script.format("group")}" & setsid sh -c "{apart}" & {main}', stderr="null"))
    eventually(lambda: sorted(job.logs().split()) == ["apart", "group", "main", *["ready"] * 3])

    def heard() -> list[str]:
        return sorted(line for line in job.lines() if not line.endswith("ready"))

    job.send_signal(signal.SIGUSR1)
    eventually(lambda: heard() == ["main"])
    job.send_signal(signal.SIGUSR1, to="group")
    eventually(lambda: heard() == ["group", "main", "main"])
    # Every process: the sleeps of the shells, which know no such signal, die of it, and are replaced.
    job.send_signal(signal.SIGUSR1, to="tree")
    eventually(lambda: heard() == ["apart", "group", "group", "main", "main", "main"])
    job.kill()
    job.send_signal(signal.SIGUSR1)
    with pytest.raises(SpecError, match="to='all' is not known"):
        job.send_signal(signal.SIGUSR1, to="all")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="999 is no signal"):
        job.send_signal(999)


def test_the_command_alone_can_be_waited_for(owner: Owner) -> None:
    """What it left behind goes on; by default all of it is waited for."""
    job = owner.start(sh("sleep 100 & exit 0"))
    assert job.wait(10, of="main") == 0
    assert job.poll() == 0
    with pytest.raises(DeadlineExceeded):
        job.wait(0.1)
    assert job.state is State.READY
    job.kill()
    assert job.wait(10) == 0
    with pytest.raises(SpecError, match="of='group' is not known"):
        job.wait(of="group")  # type: ignore[arg-type]


@pytest.mark.parametrize(("ends", "goes_on"), [("tree", False), ("last", True), ("main", False)])
def test_a_command_that_fails_takes_the_rest_along_or_not(owner: Owner, ends: str, goes_on: bool) -> None:
    """As the spec says: with "last" what it left behind goes on, as with subprocess."""
    job = owner.start(sh("sleep 100 & echo $!; exit 3", ends=ends))
    assert job.wait(10, of="main") == 3
    helper = int(job.logs())
    if goes_on:
        assert proc.start_time(helper) is not None
        assert job.state is State.READY
        job.kill()
    assert job.wait(10) == 3
    assert proc.start_time(helper) is None


def test_poll_does_not_wait(owner: Owner) -> None:
    """None while it runs, its exit code after that; negative for a signal."""
    job: Resource = owner.start(Process(["sleep", "100"]))
    assert job.poll() is None
    job.send_signal(signal.SIGTERM)
    assert job.wait(10) == job.poll() == -signal.SIGTERM


def test_signals_can_be_ignored_or_blocked_from_the_beginning(owner: Owner) -> None:
    """As nohup(1) does."""
    code = "import signal; print(signal.getsignal(signal.SIGHUP).name, *signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    spec = Process([sys.executable, "-c", code], ignored_signals=["HUP"], blocked_signals=[signal.SIGUSR2])
    job = owner.start(spec)
    job.wait(20)
    assert job.logs().split() == ["SIG_IGN", str(int(signal.SIGUSR2))]
    with pytest.raises(SpecError, match="ignored_signals: 'NONE' is the name of no signal"):
        Process(["true"], ignored_signals=["NONE"])
    with pytest.raises(SpecError, match="blocked_signals: SIGKILL and SIGSTOP can be neither ignored nor blocked"):
        Process(["true"], blocked_signals=["STOP"])


def test_a_command_can_share_the_session_of_the_app(owner: Owner) -> None:
    """Also beside others of the same owner, which have sessions of their own."""
    code = "import os; print(os.getsid(0), os.getpgrp())"
    said = {}
    for terminal in ("own", "share", "own"):
        job = owner.start(Process([sys.executable, "-c", code], terminal=terminal))
        assert job.wait(20) == 0
        said[terminal] = [int(each) for each in job.logs().split()]
    assert said["share"] == [os.getsid(0), os.getpgrp()]
    assert said["own"][0] != os.getsid(0)


def test_a_copy_of_the_apps_environment_keeps_the_tag(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app within another tree has variables of that, and of its own owner; neither replaces the resource's."""
    monkeypatch.setenv("TETHER_RESOURCE", "outer")
    job = owner.start(sh("echo $TETHER_RESOURCE; echo ${TETHER_OWNER-none}", env=dict(os.environ)))
    job.wait(10)
    assert job.logs().split() == [f"outer:{job.id}", "none"]
