"""Kernels under the provisioner: real ipykernels, and clients that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager, start_new_kernel

from support import ESCAPE, Runner, eventually, is_alive, survivors
from tether.errors import SpecError
from tether.integrations.jupyter import TetherProvisioner
from tether.linux import members, proc, tree

pytestmark = pytest.mark.slow  # a kernel takes half a second to start

CLIENT = """
import sys, time
from jupyter_client.manager import start_new_kernel

folder, escape, independent = sys.argv[1:]
manager, client = start_new_kernel(independent=bool(independent))
client.execute_interactive(
    f"import subprocess, sys; helper = subprocess.Popen([sys.executable, {escape!r}, {folder!r}])", timeout=60
)
print("kernel", manager.provisioner.pid, flush=True)
time.sleep(100)
"""


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of this very Python, which every client finds, and no folder of the user's."""
    folder = tmp_path / "jupyter"
    spec = folder / "kernels/python3"
    spec.mkdir(parents=True)
    kernel = {
        "argv": [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python",
        "language": "python",
        "metadata": {"kernel_provisioner": {"provisioner_name": "tether-provisioner"}},
    }
    (spec / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(folder))
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        monkeypatch.setenv(f"JUPYTER_{name}", str(tmp_path / name))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


def kernel_of(client: subprocess.Popen[str], folder: Path) -> tuple[int, int]:
    """Return who a client's kernel is, when all that tries to outlive it has begun."""
    assert client.stdout is not None
    # A kernel may print something too.
    pid = next(int(line.split()[1]) for line in client.stdout if line.startswith("kernel "))
    eventually((folder / "all").exists, 60.0)
    return pid, proc.start_time(pid) or 0


class Running:
    """A kernel with its client."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel()

    def run(self, code: str) -> str:
        """Execute code, and return what it printed."""
        printed = []
        done = self.client.execute_interactive(
            code, timeout=60, output_hook=lambda message: printed.append(message["content"].get("text", ""))
        )
        assert done["content"]["status"] == "ok", done["content"]
        return "".join(printed)

    def escape(self, folder: Path) -> None:
        """Have the kernel start what tries to outlive it."""
        self.run(
            f"import subprocess, sys; helper = subprocess.Popen([sys.executable, {str(ESCAPE)!r}, {str(folder)!r}])"
        )
        eventually((folder / "all").exists, 60.0)
        assert len(survivors(folder)) == 13


@pytest.fixture
def kernel() -> Iterator[Running]:
    """A kernel, ended at the end."""
    running = Running()
    yield running
    running.client.stop_channels()
    if running.manager.has_kernel:
        running.manager.shutdown_kernel(now=True)


def test_it_is_found_by_its_entry_point() -> None:
    """As jupyter_client looks for it."""
    found = metadata.entry_points(group="jupyter_client.kernel_provisioners", name="tether-provisioner")
    assert {entry.load() for entry in found} == {TetherProvisioner}


def test_a_restart_leaves_no_helper(kernel: Running, tmp_path: Path) -> None:
    """Of twelve that try; and the kernel is there again, with another pid."""
    kernel.escape(tmp_path)
    before = kernel.run("import os; print(os.getpid())")
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=60)
    assert survivors(tmp_path) == []
    assert kernel.run("import os; print(os.getpid())") != before


@pytest.mark.parametrize("now", [False, True], ids=["politely", "at once"])
def test_a_shutdown_leaves_no_helper(kernel: Running, tmp_path: Path, now: bool) -> None:
    """Nor the guard, when it was the last kernel."""
    kernel.escape(tmp_path)
    shim = proc.read_stat(kernel.manager.provisioner.pid).ppid  # type: ignore[union-attr]
    hub = proc.read_stat(shim).ppid  # type: ignore[union-attr]
    assert hub > 1
    kernel.manager.shutdown_kernel(now=now)
    assert survivors(tmp_path) == []
    assert not kernel.manager.has_kernel
    eventually(lambda: not tree.is_running(hub), 10.0)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_kernels_of_a_killed_client_end(runner: Runner, tmp_path: Path, signum: int) -> None:
    """With all that they started."""
    with runner.popen(CLIENT, tmp_path, ESCAPE, "") as client:
        pid, start = kernel_of(client, tmp_path)
        client.send_signal(signum)
    eventually(lambda: survivors(tmp_path) == [] and not is_alive(pid, start), 10.0)


def test_an_independent_kernel_outlives_its_client(runner: Runner, tmp_path: Path) -> None:
    """As jupyter_client promises; ``tether kill`` ends it with its helpers."""
    with runner.popen(CLIENT, tmp_path, ESCAPE, "independent") as client:
        pid, start = kernel_of(client, tmp_path)
        client.kill()
    assert is_alive(pid, start)
    subprocess.run([sys.executable, "-m", "tether", "kill", "jupyter/"], check=True, timeout=60)
    assert not is_alive(pid, start)
    assert survivors(tmp_path) == []


def test_an_interrupt_reaches_what_the_kernel_waits_for(kernel: Running) -> None:
    """A command in its process group, as from a terminal; the kernel goes on."""
    asked = kernel.client.execute("import os; code = os.system('echo up; exec sleep 60'); print('ended by', code)")

    def next_text() -> str:
        message = kernel.client.get_iopub_msg(timeout=60)
        return str(message["content"].get("text", "")) if message["parent_header"].get("msg_id") == asked else ""

    pid = kernel.manager.provisioner.pid  # type: ignore[union-attr]
    eventually(
        lambda: b"sleep" in {stat.name for each in tree.descendants(pid) if (stat := proc.read_stat(each))}, 30.0
    )
    kernel.manager.interrupt_kernel()
    eventually(lambda: f"ended by {signal.SIGINT.value}" in next_text(), 30.0)
    assert kernel.run("print('goes on')") == "goes on\n"


def test_a_kernel_that_dies_is_seen(kernel: Running) -> None:
    """With the code that a restarter sees, and not before its helpers are gone."""
    pid = int(
        kernel.run(
            "import subprocess; helper = subprocess.Popen(['sleep', '60'], start_new_session=True); print(helper.pid)"
        )
    )
    kernel.client.execute("import os; os._exit(3)")
    eventually(lambda: not kernel.manager.is_alive(), 10.0)
    assert not tree.is_running(pid)
    provisioner = kernel.manager.provisioner
    assert isinstance(provisioner, TetherProvisioner)
    assert provisioner.resource is not None
    assert provisioner.resource.exit_code == 3


def test_it_is_shown_with_its_kernels_name(kernel: Running) -> None:
    """And the beginning of its id; nothing of its environment is on record."""
    shown = subprocess.run(
        [sys.executable, "-m", "tether", "ps", "--json"], capture_output=True, text=True, check=True, timeout=60
    )
    (entry,) = json.loads(shown.stdout)
    assert (entry["owner"], entry["name"]) == ("jupyter", f"python3-{kernel.manager.kernel_id[:8]}")


def test_text_with_braces_is_passed_on_as_it_is(kernel: Running) -> None:
    """What tether would replace elsewhere."""
    kernel.manager.restart_kernel(env={**os.environ, "BRACES": "{port} {{port}}"})
    kernel.client.wait_for_ready(timeout=60)
    assert kernel.run("import os; print(os.environ['BRACES'])") == "{port} {{port}}\n"


def test_a_program_that_is_not_there_is_said_as_subprocess_says_it() -> None:
    """Nothing is left of the try."""
    manager = KernelManager()
    manager._kernel_spec = KernelSpec(
        argv=["/no/such/kernel"], metadata={"kernel_provisioner": {"provisioner_name": "tether-provisioner"}}
    )
    with pytest.raises(FileNotFoundError):
        manager.start_kernel()
    assert not manager.has_kernel
    assert members.OWNER not in os.environ


def test_an_argument_that_only_subprocess_knows_is_refused() -> None:
    """By name, before anything is created."""
    with pytest.raises(SpecError, match="preexec_fn can't be passed on"):
        KernelManager().start_kernel(preexec_fn=os.getpid)
