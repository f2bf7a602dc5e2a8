"""The ready-made plugins: lifecycle-aware, and what consumers look for is there."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import channel
from engine import IMAGE, Engine
from support import eventually
from tether import (
    CondaEnv,
    Container,
    ContainerRef,
    Gone,
    Owner,
    PluginExecutionMode,
    Process,
    Service,
    SpecError,
    StartError,
    get_all_managed_pids,
    is_lifecycle_aware,
    tcp,
)
from tether.linux import devices
from tether.owner.plugin import problems
from tether.plugins import (
    CondaPlugin,
    ContainerPlugin,
    HttpServer,
    LlamaServer,
    ServerPlugin,
    ServicePlugin,
    VLLMServer,
)
from tether.plugins.single import SinglePlugin

# A stand-in for a model server, since no model and no GPU can be had here: it writes the log lines of the real ones, takes a while to be
# ready under /health, and has a worker of its own.
SERVER = """#!{python}
import http.server, os, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1])
if os.fork() == 0:
    time.sleep(100)
    os._exit(0)
for line in {lines}:
    print(line, flush=True)
    time.sleep(0.02)
ready = time.monotonic() + 0.2
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if time.monotonic() > ready else 503)
        self.end_headers()
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
LLAMA_LINES = [
    "srv    load_model: loading model 'tiny.gguf'",
    "load_tensors: loading model tensors, this can take a while... (mmap = true)",
    "load_tensors: offloaded 33/33 layers to GPU",
    "common_init_from_params: warming up the model with an empty run - please wait ...",
    "srv    load_model: initializing, n_slots = 4, n_ctx_slot = 4096, kv_unified = 'true'",
    "main: llama_server: model loaded",
    "main: server is listening on http://127.0.0.1:8080",
]
VLLM_LINES = [
    "INFO [utils.py:299]  version 0.32.0",
    "INFO [model.py:514] Resolved architecture: Qwen2ForCausalLM",
    "INFO [core.py:93] Initializing a V1 LLM engine (v0.32.0) with config: model='x'",
    "Loading safetensors checkpoint shards:  50% Completed | 1/2",
    "INFO default_loader.py:267] Loading weights took 3.41 seconds",
    "INFO [kv_cache_utils.py:1229] GPU KV cache size: 12,345 tokens",
    "INFO [backends.py:321] torch.compile took 6.50 s in total",
    "INFO [core.py:210] init engine (profile, create kv cache, warmup model) took 12.81 s",
    "INFO [api_server.py:1099] Starting vLLM server on http://127.0.0.1:8000",
    "INFO:     Application startup complete.",
]


def program(folder: Path, lines: list[str]) -> str:
    """A program that says these lines and then serves."""
    path = folder / "serve"
    path.write_text(SERVER.format(python=sys.executable, lines=lines))
    path.chmod(0o755)
    return str(path)


def checked(plugin: SinglePlugin, owner: Owner, mode: PluginExecutionMode) -> dict[str, Any]:
    """Run a plugin through its life, and return what it managed while it ran."""
    assert problems(plugin) == []
    assert plugin.get_execution_mode() is mode
    assert (plugin.get_child_pids(), plugin.get_managed_resources()["is_running"]) == ([], False)
    owner.register(plugin)
    with pytest.raises(Gone):
        plugin.resource  # noqa: B018
    plugin.begin()
    assert plugin.begin().id == plugin.resource.id
    assert is_lifecycle_aware(plugin)
    assert problems(plugin) == []
    assert plugin.get_execution_mode() is mode
    shown = plugin.get_managed_resources()
    assert json.loads(json.dumps(shown)) == shown
    assert shown["is_running"]
    (registered,) = owner.status()["plugins"]
    assert registered["mode"] == mode.value
    return shown


def test_a_llama_server(owner: Owner, tmp_path: Path) -> None:
    """Its arguments, its readiness, and its log as progress."""
    said: list[str] = []
    plugin = ServerPlugin(
        LlamaServer("tiny.gguf", context=512, gpu_layers=33, api_key="xyzzy", program=program(tmp_path, LLAMA_LINES))
    )
    plugin.on_progress = said.append
    shown = checked(plugin, owner, PluginExecutionMode.SUBPROCESS)
    assert [line for line in said if "port" not in line and line != "ready"] == [
        "loading the model",
        "loading weights",
        "33 of 33 layers on the GPU",
        "warming up",
        "making room for requests",
        "model loaded",
        "listening",
    ]
    assert re.fullmatch(r"http://127.0.0.1:\d+", shown["server_url"])
    assert shown["pid"] == plugin.get_child_pids()[0]
    assert shown["gpu_pids"] == []
    assert len(get_all_managed_pids(plugin)) == 2
    argv = shown["resources"]["llama"]["spec"]["argv"]
    assert argv[1:3] == ["-m", "tiny.gguf"]
    assert argv[-4:] == ["--ctx-size", "512", "--n-gpu-layers", "33"]
    assert "xyzzy" not in json.dumps(shown)
    plugin.force_cleanup()
    plugin.force_cleanup()
    assert not plugin.get_managed_resources()["is_running"]


def test_a_vllm_server(owner: Owner, tmp_path: Path) -> None:
    """Its arguments, its readiness, and its log as progress."""
    said: list[str] = []
    plugin = ServerPlugin(VLLMServer("Qwen/Qwen2-0.5B", gpu_memory=0.5, python=program(tmp_path, VLLM_LINES)))
    plugin.on_progress = said.append
    shown = checked(plugin, owner, PluginExecutionMode.SUBPROCESS)
    assert [line for line in said if "port" not in line and line != "ready"] == [
        "vLLM 0.32.0",
        "architecture Qwen2ForCausalLM",
        "starting the engine",
        "loading weights: 50 %",
        "weights loaded in 3.41 s",
        "room for 12,345 tokens",
        "compiled in 6.50 s",
        "engine ready after 12.81 s",
        "starting the server",
        "started",
    ]
    argv = shown["resources"]["vllm"]["spec"]["argv"]
    assert argv[1:5] == ["-m", "vllm.entrypoints.cli.main", "serve", "Qwen/Qwen2-0.5B"]
    assert argv[-2:] == ["--gpu-memory-utilization", "0.5"]
    plugin.end(grace=1)


def test_model_servers_are_asked_politely_and_alone() -> None:
    """The signal goes to the server, not to its engine; the grace is above what it may drain, however that was said."""
    for server in (LlamaServer("x").process(), VLLMServer("x").process()):
        assert server.stop_to == "main"
    assert VLLMServer("x").process().stop_grace == 30
    drained = VLLMServer("x", drain=40).process()
    assert drained.argv[-2:] == ("--shutdown-timeout", "40")
    for server in (drained, VLLMServer("x", args=["--shutdown-timeout", "40"]).process()):
        assert server.stop_grace == 60
    assert VLLMServer("x", args=["--shutdown-timeout=100"]).process().stop_grace == 120
    assert VLLMServer("x", drain=40, stop_grace=1).process().stop_grace == 1


def test_a_model_may_be_a_path() -> None:
    """A path object is a file, whatever it is called; a name is a name."""
    assert LlamaServer(Path("models/tiny")).process().argv[1:3] == ("-m", "models/tiny")
    assert LlamaServer("org/tiny:Q4").process().argv[1:3] == ("-hf", "org/tiny:Q4")
    assert VLLMServer(Path("/models/tiny")).process().argv[3:5] == ("serve", "/models/tiny")


def test_every_field_of_a_process_can_be_given() -> None:
    """To the settings of every server; what is given wins over what they would choose."""
    wanted: dict[str, Any] = {
        "cwd": "/", "umask": 0o77, "stdin": "pipe", "stdout": "null", "stderr": "log", "pass_fds": (7,), "port": 4711,
        "ready": tcp(timeout=3), "stop_signal": 2, "stop_to": "main", "on_death": "keep", "keep_for": 5.0, "needs": ("db",),
    }  # fmt: skip
    settings: list[Any] = [HttpServer(["x"], **wanted), LlamaServer("x", **wanted), VLLMServer("x", **wanted)]
    for each in settings:
        names = {field.name for field in fields(each)}
        assert {field.name for field in fields(Process)} - names <= {"argv", "kind"}, "add the field to ProcessOptions"
        process = each.process()
        assert {name: getattr(process, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    "make",
    [
        lambda: LlamaServer("").process(),
        lambda: VLLMServer("").process(),
        lambda: VLLMServer("x", gpu_memory=2).process(),
    ],
)
def test_settings_that_cant_be_right(make: Callable[[], object]) -> None:
    """Are refused before anything is started."""
    with pytest.raises(SpecError):
        make()


def test_a_server_that_fails(owner: Owner) -> None:
    """The error has the log; the plugin has nothing, and can be begun again."""
    plugin = ServerPlugin(HttpServer(["sh", "-c", "echo out of memory; exit 1", "{port}"], name="bad"))
    owner.register(plugin)
    for _ in range(2):
        with pytest.raises(StartError, match="out of memory"):
            plugin.begin()
    assert plugin.get_child_pids() == []


def test_gpu_pids(tmp_path: Path) -> None:
    """By the devices that are open; a file stands in for a GPU, which this machine has not."""
    device = tmp_path / "nvidia0"
    with device.open("w"):
        assert devices.holders([os.getpid(), 1], [f"{tmp_path}/nvidia[0-9]*"]) == [os.getpid()]
    assert devices.holders([os.getpid()], [f"{tmp_path}/nvidia[0-9]*"]) == []


def test_a_container(owner: Owner, engine: Engine) -> None:
    """With its id and url; and one that is there already."""
    settings = Container(
        IMAGE, ["httpd", "-f", "-p", "{port}"], name="web", engine=engine.url, ready=tcp(), init=True, stop_grace=2
    )
    plugin = ContainerPlugin(settings)
    shown = checked(plugin, owner, PluginExecutionMode.DOCKER)
    assert shown["container_id"] in {each.id for each in engine.client.containers.list()}
    assert shown["server_url"].startswith("http://127.0.0.1:")
    assert plugin.get_child_pids()[0] == shown["pid"]
    watcher = ContainerPlugin(ContainerRef(shown["container_id"], engine=engine.url))
    owner.register(watcher, name="watcher")
    watcher.begin()
    assert watcher.get_managed_resources()["container_id"] == shown["container_id"]
    watcher.force_cleanup()
    assert plugin.get_managed_resources()["is_running"]
    plugin.force_cleanup()
    eventually(lambda: engine.labelled() == [])


def test_a_conda_environment(owner: Owner, tmp_path: Path) -> None:
    """With its prefix; processes run in it."""
    plugin = CondaPlugin(CondaEnv(["tool"], [channel.make(tmp_path / "channel")]))
    shown = checked(plugin, owner, PluginExecutionMode.CONDA_ENV)
    assert Path(shown["conda_env"]).is_dir()
    job = plugin.run(Process(["tool", "30"], name="job"))
    assert plugin.get_managed_resources()["pid"] == job.pid
    assert plugin.get_child_pids() == [job.pid]
    plugin.force_cleanup()
    assert job.state.is_final
    assert Path(shown["conda_env"]).is_dir()


def test_a_service(owner: Owner, tmp_path: Path) -> None:
    """Watched, and still there after all is cleaned up."""
    server = Owner("theirs", state_dir=tmp_path / "theirs")
    with server:
        web = server.start(HttpServer([program(tmp_path, []), "--port", "{port}"], health="/health").process())
        assert web.url is not None
        plugin = ServicePlugin(Service(web.url, name="web", health="/health"))
        shown = checked(plugin, owner, PluginExecutionMode.EXTERNAL_SERVICE)
        assert shown["server_url"] == web.url
        assert plugin.get_child_pids() == []
        plugin.force_cleanup()
        assert web.pids()


def test_without_an_owner(private_state: Path) -> None:
    """A plugin that nobody registered makes an owner of its own."""
    plugin = ServerPlugin(HttpServer(["sleep", "30"], health="/"))
    plugin.spec = lambda: Process(["sleep", "30"])  # type: ignore[method-assign]
    resource = plugin.begin()
    assert resource.pids()
    plugin.force_cleanup()
    assert resource.state.is_final
