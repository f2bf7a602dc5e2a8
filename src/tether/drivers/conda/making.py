"""Solves and installs, with py-rattler, which is imported when used."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from tether.drivers.conda.spec import CondaEnv
from tether.model import Progress

__all__ = ["install", "run", "solve"]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end in a thread of its own, since the caller's may run a loop; an interrupt cancels it."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    outcome: list[BaseException | Any] = []

    def run() -> None:
        try:
            outcome.append(loop.run_until_complete(task))
        except BaseException as error:
            outcome.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="tether-conda", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


async def solve(spec: CondaEnv, folder: Path, progress: Progress) -> list[Any]:
    """Return the records of the packages that make up the environment."""
    import rattler

    here = rattler.Subdir.current()
    if spec.lock is not None:
        environment = rattler.LockFile.from_path(Path(spec.lock)).default_environment()
        wanted = (
            next((each for each in environment.platforms() if each.name == str(here)), None) if environment else None
        )
        records = environment.conda_repodata_records_for_platform(wanted) if environment and wanted else None
        if records is None:
            raise ValueError(f"lock file {spec.lock} has no default environment for {here}")
        return records
    progress(f"solving {', '.join(spec.packages)} from {', '.join(spec.record()['channels'])}")
    return await rattler.solve(
        sources=list(spec.channels),
        specs=list(spec.packages),
        platforms=[str(here), "noarch"],  # type: ignore[list-item]
        gateway=rattler.Gateway(cache_dir=folder / "repodata"),
        virtual_packages=rattler.VirtualPackage.detect(),
    )


async def install(records: list[Any], prefix: Path, folder: Path, say: Progress) -> None:
    """Put packages into a prefix."""
    import rattler

    class Reporter(rattler.InstallerReporter):
        """Turns what rattler reports into lines."""

        fetched = -1
        linked = 0

        def on_download_progress(self, download_idx: int, progress: int, total: int | None) -> None:
            part = 10 * progress // total if total else 0
            if part != self.fetched:
                self.fetched = part
                say(f"fetching packages: {10 * part} %")

        def on_link_start(self, operation: int, package_name: str) -> int:
            self.linked += 1
            say(f"installing {package_name} ({self.linked} of {len(records)})")
            return operation

    await rattler.install(records, prefix, cache_dir=folder / "packages", show_progress=False, reporter=Reporter())  # type: ignore[abstract]
