"""Solves and installs, with py-rattler, which is imported when used."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from tether.drivers.conda import lockfile
from tether.drivers.conda.access import Access
from tether.drivers.conda.lockfile import Locked
from tether.drivers.conda.spec import CondaEnv
from tether.life.addresses import hide
from tether.model import Progress

__all__ = ["install", "read_lock", "run", "solve", "virtual_packages"]

_OVERRIDES = "CONDA_OVERRIDE_"


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


def virtual_packages() -> list[str]:
    """Return what packages may ask of this machine (``__cuda``, ``__glibc``), as far as what is solved depends on it.

    Of the kernel the first two numbers: with every update of it all environments would be made anew.
    """
    shown = [str(each) for each in _detected(_overrides())]
    return sorted(".".join(each.split(".")[:2]) if each.startswith("__linux=") else each for each in shown)


def _overrides() -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(_OVERRIDES)))


@functools.cache
def _detected(_: tuple[tuple[str, str], ...]) -> list[Any]:
    """Look once: to ask for a GPU takes long. What is overridden by the environment is the key."""
    import rattler

    found = rattler.VirtualPackage.detect(rattler.VirtualPackageOverrides.from_env())
    return [each.into_generic() for each in found]


def read_lock(spec: CondaEnv) -> tuple[Locked, Access]:
    """Read what a lock file names, and what lets this process in there. Raises ValueError."""
    locked = lockfile.read(spec)
    access = Access(lockfile.addresses(locked))
    for record in locked.records:
        record.url = hide(str(record.url))
        if record.channel is not None:
            record.channel = hide(str(record.channel))
    return locked, access


async def solve(spec: CondaEnv, access: Access, folder: Path, progress: Progress) -> Locked:
    """Return what makes up the environment."""
    import rattler

    shown = spec.record()
    progress(f"solving {', '.join(shown['packages'])} from {', '.join(shown['channels'])}")
    client = access.client()
    gateway = rattler.Gateway(cache_dir=folder / "repodata", **({} if client is None else {"client": client}))
    here = spec.platform or str(rattler.Subdir.current())
    records = await rattler.solve(
        sources=shown["channels"],
        specs=shown["packages"],
        platforms=[here, "noarch"],  # type: ignore[list-item]
        gateway=gateway,
        virtual_packages=_detected(_overrides()),
    )
    return Locked(here, records, [])


async def install(locked: Locked, prefix: Path, folder: Path, access: Access, say: Progress, *, copies: bool) -> None:
    """Put packages into a prefix. What is broken in the cache of packages is fetched anew.

    Args:
        locked: what is to be in it.
        prefix: where.
        folder: where the cache of packages is.
        access: what lets this process in.
        say: told what is done.
        copies: whether it shares no file with the cache: through a hard link, a process in it would write into that, and so into
            every environment that is made of it.
    """
    import rattler
    from rattler.config import Config
    from rattler.package_cache import PackageCache, ValidationMode

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
            say(f"installing {package_name} ({self.linked} of {len(locked.records)})")
            return operation

    await rattler.install(
        locked.records,
        prefix,
        package_cache=PackageCache.new_layered([folder / "packages"], validation_mode=ValidationMode.full()),
        platform=rattler.Subdir(locked.platform),
        client=access.client() or rattler.Client.default_client(),
        config=Config.from_toml("allow-hard-links = false" if copies else ""),
        show_progress=False,
        reporter=Reporter(),  # type: ignore[abstract]
    )
