"""A plugin that runs an HTTP server, with settings for the servers of language models."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tether.errors import SpecError
from tether.life.probes import http
from tether.linux import devices
from tether.owner.resource import Resource
from tether.plugins.single import SinglePlugin
from tether.protocol import PluginExecutionMode
from tether.spec import Process

__all__ = ["HttpServer", "LlamaServer", "ServerPlugin", "ServerSettings", "VLLMServer"]

_LOOK_S = 0.1


class ServerSettings(Protocol):
    """What `ServerPlugin` asks of settings; `HttpServer`, `LlamaServer` and `VLLMServer` are such."""

    def process(self) -> Process:
        """Return what is started."""
        ...

    @property
    def milestones(self) -> Mapping[str, str]:
        """Regular expressions for lines of the log, each with the progress that it means; groups fill in ``{0}``, ``{1}``."""
        ...


@dataclass(frozen=True)
class HttpServer:
    """Settings of any HTTP server.

    Attributes:
        argv: the command; ``{port}`` in it is the port.
        name: what it is called.
        health: the path that answers below 400 when it is ready.
        env: variables on top of the app's own.
        timeout: seconds until it must be ready.
        stop_grace: seconds from the polite signal to the end by force.
        milestones: regular expressions for lines of the log, each with the progress that it means.
        env_in: an environment to run it in, see `Process`.
    """

    argv: Sequence[str]
    name: str = "server"
    health: str = "/"
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    timeout: float = 60.0
    stop_grace: float = 10.0
    milestones: Mapping[str, str] = field(default_factory=dict)
    env_in: Any = None

    def process(self) -> Process:
        """Return what is started."""
        return Process(
            self.argv,
            name=self.name,
            env=self.env,
            ready=http(self.health, timeout=self.timeout),
            stop_grace=self.stop_grace,
            env_in=self.env_in,
        )


@dataclass(frozen=True)
class LlamaServer:
    """Settings of llama.cpp's ``llama-server``.

    Attributes:
        model: the path of a model file, or "user/repo:quant" of Hugging Face.
        context: tokens of context; 0 for the model's own.
        gpu_layers: how many layers go to the GPU; None leaves it to the server.
        parallel: how many requests at once.
        api_key: what clients must send; passed in the environment.
        args: more arguments.
        program: the server's program.
        name, env, timeout, stop_grace, env_in: as for `HttpServer`.
    """

    model: str
    context: int = 0
    gpu_layers: int | None = None
    parallel: int | None = None
    api_key: str | None = field(default=None, repr=False)
    args: Sequence[str] = ()
    program: str = "llama-server"
    name: str = "llama"
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    timeout: float = 300.0
    stop_grace: float = 10.0
    env_in: Any = None

    milestones = {  # noqa: RUF012 - a constant that satisfies the protocol
        r"load_tensors: loading model tensors|llm_load_tensors": "loading weights",
        r"offloaded (\d+)/(\d+) layers to GPU": "{0} of {1} layers on the GPU",
        r"warming up the model": "warming up",
        r"model loaded": "model loaded",
    }

    def process(self) -> Process:
        """Return what is started. Raises SpecError."""
        if not self.model:
            raise SpecError("a LlamaServer needs a model: a file, or 'user/repo:quant'")
        is_file = self.model.endswith(".gguf") or self.model.startswith((".", "/"))
        argv = [self.program, "-m" if is_file else "-hf", self.model, "--host", "127.0.0.1", "--port", "{port}"]
        argv += ["--ctx-size", str(self.context)] if self.context else []
        argv += [] if self.gpu_layers is None else ["--n-gpu-layers", str(self.gpu_layers)]
        argv += [] if self.parallel is None else ["--parallel", str(self.parallel)]
        return _model_server(self, argv, "LLAMA_API_KEY")


@dataclass(frozen=True)
class VLLMServer:
    """Settings of vLLM's server.

    Attributes:
        model: the name of a model of Hugging Face, or its folder.
        tensor_parallel: over how many GPUs each layer is spread.
        gpu_memory: the part of the GPU's memory that it may take, between 0 and 1; None leaves it to the server.
        max_model_len: tokens of context; None for the model's own.
        api_key: what clients must send; passed in the environment.
        args: more arguments.
        python: the Python that has vLLM.
        name, env, timeout, stop_grace, env_in: as for `HttpServer`.
    """

    model: str
    tensor_parallel: int = 1
    gpu_memory: float | None = None
    max_model_len: int | None = None
    api_key: str | None = field(default=None, repr=False)
    args: Sequence[str] = ()
    python: str = sys.executable
    name: str = "vllm"
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    timeout: float = 900.0
    # It ignores a SIGTERM while its engine is being imported; the signal is sent again within this time.
    stop_grace: float = 30.0
    env_in: Any = None

    milestones = {  # noqa: RUF012 - a constant that satisfies the protocol
        r"Starting to load model": "loading weights",
        r"Loading safetensors checkpoint shards:\s+(\d+)%": "loading weights: {0} %",
        r"Loading weights took ([\d.]+) seconds": "weights loaded in {0} s",
        r"torch\.compile takes|Compiling a graph": "compiling",
        r"Capturing CUDA graphs?": "capturing CUDA graphs",
        r"Application startup complete": "started",
    }

    def process(self) -> Process:
        """Return what is started. Raises SpecError."""
        if not self.model:
            raise SpecError("a VLLMServer needs a model: a name of Hugging Face, or a folder")
        if self.gpu_memory is not None and not 0 < self.gpu_memory <= 1:
            raise SpecError(f"gpu_memory={self.gpu_memory!r} is the part of the GPU's memory: above 0, at most 1")
        argv = [self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", self.model]
        argv += ["--host", "127.0.0.1", "--port", "{port}", "--tensor-parallel-size", str(self.tensor_parallel)]
        argv += [] if self.gpu_memory is None else ["--gpu-memory-utilization", str(self.gpu_memory)]
        argv += [] if self.max_model_len is None else ["--max-model-len", str(self.max_model_len)]
        return _model_server(self, argv, "VLLM_API_KEY")


def _model_server(settings: LlamaServer | VLLMServer, argv: list[str], key_variable: str) -> Process:
    """What both servers of models have in common: a health check, and an API key that goes into the environment."""
    key = {} if settings.api_key is None else {key_variable: settings.api_key}
    return HttpServer(
        [*argv, *settings.args],
        settings.name,
        "/health",
        {**key, **settings.env},
        settings.timeout,
        settings.stop_grace,
        env_in=settings.env_in,
    ).process()


class ServerPlugin(SinglePlugin):
    """Runs an HTTP server as a child process; what its log says of a start is passed on as progress.

    Args:
        settings: `HttpServer`, `LlamaServer`, `VLLMServer`, or settings of yours with the same two members.
    """

    execution_mode = PluginExecutionMode.SUBPROCESS

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings

    def spec(self) -> Process:
        """Return what is started."""
        return self.settings.process()

    def begin(self) -> Resource:
        """Start it, or return it if it runs. Returns when it answers; raises as `Owner.start`."""
        if self.resources or self.on_progress is None:
            return super().begin()
        done = threading.Event()
        reader = threading.Thread(target=self._read_milestones, args=(done,), name="tether-milestones", daemon=True)
        reader.start()
        try:
            return super().begin()
        finally:
            done.set()
            reader.join()

    def _read_milestones(self, done: threading.Event) -> None:
        """Pass on what the log says, until the start is over."""
        patterns = [(re.compile(pattern), text) for pattern, text in self.settings.milestones.items()]
        said: set[str] = set()
        while True:
            last = done.wait(_LOOK_S)
            for resource in self._starting():
                for line in resource.logs().splitlines():
                    for pattern, text in patterns:
                        found = pattern.search(line)
                        shown = text.format(*found.groups()) if found else ""
                        if shown and shown not in said and self.on_progress is not None:
                            said.add(shown)
                            self.on_progress(shown)
            if last:
                return

    def _starting(self) -> list[Resource]:
        name = self.spec().name
        return [resource for resource in self.owner.resources if resource.name == name]

    def get_managed_resources(self) -> dict[str, Any]:
        """See `LifecycleAwarePlugin`; ``gpu_pids`` are those of its processes that have a GPU open."""
        shown = super().get_managed_resources()
        pids = [pid for resource in self.resources for pid in resource.pids()]
        return {**shown, "gpu_pids": devices.holders(pids, devices.GPU)}
