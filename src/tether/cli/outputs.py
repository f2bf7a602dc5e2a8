"""Where the output of resources is, and how it is read: a file of the state directory, or what an engine or a host keeps."""

from __future__ import annotations

import time
from pathlib import Path

from tether.cli import text
from tether.errors import NotFound, TetherError
from tether.ledger import logs as files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tether.cli.records import Entry, Records
    from tether.ledger.rows import ResourceRow
    from tether.life.driver import HasOutput
    from tether.model import Handle

__all__ = ["Output", "follow", "log_file", "output_of"]

_PAUSE_S = 0.2


class Output:
    """The output of one resource.

    Attributes:
        tag: the resource's id.
        number: which of those that are printed it is.
    """

    def __init__(self, tag: str, number: int) -> None:
        self.tag = tag
        self.number = number

    @property
    def written(self) -> float | None:
        """When something was last written, in seconds since the epoch; None if that is not known."""
        return None

    def begin(self, lines: int | None) -> Iterable[bytes]:
        """Return what was written until now: the last lines of it, or all for None."""
        raise NotImplementedError

    def skip(self) -> None:
        """Leave out what was written until now."""

    def news(self) -> Callable[[], bytes | None]:
        """Return a function that returns what was written since, at once; None when nothing will come any more."""
        raise NotImplementedError


class _File(Output):
    """A log of the state directory."""

    def __init__(self, tag: str, number: int, path: Path) -> None:
        super().__init__(tag, number)
        try:
            self._file = files.Log(path)
        except OSError as error:
            raise TetherError(f"log {path} can't be read: {error.strerror}") from error

    @property
    def written(self) -> float | None:
        return self._file.written

    def begin(self, lines: int | None) -> Iterable[bytes]:
        return self._file.last(lines)

    def skip(self) -> None:
        self._file.position = self._file.look()

    def news(self) -> Callable[[], bytes | None]:
        return self._file.news


class _Apart(_File):
    """The log of a resource whose standard error has one of its own, which comes last."""

    def __init__(self, tag: str, number: int, path: Path, errors: Path) -> None:
        super().__init__(tag, number, path)
        self._errors = _File(tag, number, errors)

    @property
    def written(self) -> float | None:
        return max(super().written or 0.0, self._errors.written or 0.0)

    def begin(self, lines: int | None) -> Iterable[bytes]:
        both = b"".join([*super().begin(lines), *self._errors.begin(lines)])
        return [files.last_lines(both, lines)]

    def skip(self) -> None:
        super().skip()
        self._errors.skip()

    def news(self) -> Callable[[], bytes | None]:
        take, take_errors = super().news(), self._errors.news()
        return lambda: (take() or b"") + (take_errors() or b"")


class _Kept(Output):
    """What an engine or a host keeps."""

    def __init__(self, tag: str, number: int, driver: HasOutput, handle: Handle) -> None:
        super().__init__(tag, number)
        self._driver = driver
        self._handle = handle

    def begin(self, lines: int | None) -> Iterable[bytes]:
        return [self._driver.read_log(self._handle, lines)]

    def news(self) -> Callable[[], bytes | None]:
        import queue
        import threading

        arrived: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

        def read() -> None:
            try:
                for data in self._driver.follow_log(self._handle):
                    arrived.put(data)
            except Exception as error:
                text.warn(f"resource {self.tag}: its output can't be followed any more: {error}")
            arrived.put(None)

        def take() -> bytes | None:
            try:
                return arrived.get_nowait()
            except queue.Empty:
                return b""

        threading.Thread(target=read, daemon=True).start()
        return take


def log_file(row: ResourceRow, records: Records) -> Path | None:
    """Return the file that a resource's output goes to, or was saved in; None if there is none."""
    data = row.handle.data if row.handle is not None else {}
    path = Path(str(data["log"])) if data.get("log") else files.path(records.state_dir, row.id)
    return path if path.exists() else None


def output_of(entry: Entry, records: Records, number: int) -> Output:
    """Return where a resource's output is. Raises NotFound if it went elsewhere."""
    row = entry.row
    if row.handle is not None and row.kind != "process":
        from tether.life.driver import HasOutput

        driver = records.drivers.of(row.kind)
        if isinstance(driver, HasOutput):
            return _Kept(row.id, number, driver, row.handle)
    path = log_file(row, records)
    if path is None:
        raise NotFound(f"resource {entry.full_name} has no log here: its output goes elsewhere")
    errors = row.handle.data.get("error_log") if row.handle is not None else None
    return _File(row.id, number, path) if errors is None else _Apart(row.id, number, path, Path(str(errors)))


def follow(outputs: list[Output], records: Records) -> Iterator[tuple[Output, bytes]]:
    """Yield what is written, until all have ended."""
    waiting = {output: output.news() for output in outputs}
    while waiting:
        records.refresh()
        ended = {output for output in waiting if _has_ended(output, records)}
        news = False
        for output, take in list(waiting.items()):
            data = take()
            if data:
                news = True
                yield output, data
            elif data is None or (output in ended and isinstance(output, _File)):
                del waiting[output]
        if waiting and not news:
            text.flush()
            time.sleep(_PAUSE_S)


def _has_ended(output: Output, records: Records) -> bool:
    row = records.reading.resource(output.tag)
    return row is None or row.state.is_final
