"""A plugin that runs an HTTP server, with settings for the servers of language models."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, BinaryIO, Literal, Protocol

from tether.errors import SpecError
from tether.life.probes import http
from tether.linux import devices
from tether.model import OnDeath, Ready
from tether.owner.resource import Resource
from tether.plugins.single import SinglePlugin
from tether.protocol import PluginExecutionMode
from tether.spec import Process, Stream

__all__ = ["HttpServer", "LlamaServer", "ProcessOptions", "ServerPlugin", "ServerSettings", "VLLMServer"]

_log = logging.getLogger("tether")

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


_MODEL_READY_S = 300.0
_DRAIN_MARGIN_S = 20.0
_STOP_GRACE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """The fields of `Process` that all settings have: what is given here wins over what the settings would choose.

    None leaves it to them. See `Process` for what each means; an empty ``needs`` says that it needs nothing.
    """

    cwd: str | os.PathLike[str] | None = None
    umask: int | None = None
    stdin: Literal["null", "inherit", "pipe"] | int | os.PathLike[str] | BinaryIO | None = None
    stdout: Stream | None = None
    stderr: Stream | Literal["own-log", "stdout"] | None = None
    pass_fds: Sequence[int] | None = None
    port: int | None = None
    ready: Ready | None = None
    stop_signal: int | None = None
    stop_to: Literal["group", "main"] | None = None
    on_death: OnDeath | None = None
    keep_for: float | None = None
    needs: Sequence[str] | None = None
    clear_env: bool | None = None
    executable: str | os.PathLike[str] | None = None
    terminal: Literal["own", "share", "pty"] | None = None
    process_group: int | None = None
    stop: Sequence[tuple[str | int, float]] | None = None
    stop_again: bool | None = None
    ends: Literal["tree", "last", "main"] | None = None
    user: str | int | None = None
    group: str | int | None = None
    extra_groups: Sequence[str | int] | None = None
    rlimits: Mapping[int, tuple[int, int]] | None = None
    nice: int | None = None
    affinity: Sequence[int] | None = None
    oom_score_adj: int | None = None
    memory: int | None = None
    cpus: float | None = None
    ignored_signals: Sequence[str | int] | None = None
    blocked_signals: Sequence[str | int] | None = None
    text: bool | None = None
    encoding: str | None = None
    errors: str | None = None
    log_max: int | None = None

    def over(self, process: Process) -> Process:
        """Return ``process`` with what was given here. Raises SpecError."""
        given = {each.name: getattr(self, each.name) for each in fields(ProcessOptions)}
        return replace(process, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class HttpServer(ProcessOptions):
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

    Every other field of `Process` can be given by its name, see `ProcessOptions`.
    """

    argv: Sequence[str | os.PathLike[str]]
    name: str = "server"
    health: str = "/"
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    timeout: float = 60.0
    stop_grace: float = 10.0
    milestones: Mapping[str, str] = field(default_factory=dict)
    env_in: Any = None

    def process(self) -> Process:
        """Return what is started. Raises SpecError."""
        return self.over(
            Process(
                self.argv,
                name=self.name,
                env=self.env,
                port=self.port,
                ready=self.ready or http(self.health, timeout=self.timeout),
                stop_grace=self.stop_grace,
                env_in=self.env_in,
            )
        )


@dataclass(frozen=True)
class LlamaServer(ProcessOptions):
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

    The polite signal goes to the server alone: of a second one it dies at once, with exit code 1.
    """

    model: str | os.PathLike[str]
    context: int = 0
    gpu_layers: int | None = None
    parallel: int | None = None
    api_key: str | None = field(default=None, repr=False)
    args: Sequence[str] = ()
    program: str = "llama-server"
    name: str = "llama"
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    timeout: float = _MODEL_READY_S
    stop_grace: float = 10.0
    env_in: Any = None

    # In the order of its log; those about tensors, layers and warming up are written with "-lv 4" only.
    milestones = {  # noqa: RUF012 - a constant that satisfies the protocol
        r"load_model: loading model": "loading the model",
        r"load_tensors: loading model tensors|llm_load_tensors": "loading weights",
        r"offloaded (\d+)/(\d+) layers to GPU": "{0} of {1} layers on the GPU",
        r"warming up the model": "warming up",
        r"initializing,? (?:slots, )?n_slots": "making room for requests",
        r"(?:llama_server|main): model loaded": "model loaded",
        r"(?:server is )?listening on": "listening",
    }

    def process(self) -> Process:
        """Return what is started. Raises SpecError."""
        model = os.fspath(self.model)
        if not model:
            raise SpecError("a LlamaServer needs a model: a file, or 'user/repo:quant'")
        # A path object is a file, whatever it is called.
        is_file = not isinstance(self.model, str) or model.endswith(".gguf") or model.startswith((".", "/"))
        argv = [self.program, "-m" if is_file else "-hf", model]
        argv += ["--host", "127.0.0.1", "--port", "{port}"]
        argv += ["--ctx-size", str(self.context)] if self.context else []
        argv += [] if self.gpu_layers is None else ["--n-gpu-layers", str(self.gpu_layers)]
        argv += [] if self.parallel is None else ["--parallel", str(self.parallel)]
        return _model_server(self, argv, "LLAMA_API_KEY", self.stop_grace)


@dataclass(frozen=True)
class VLLMServer(ProcessOptions):
    """Settings of vLLM's server.

    Attributes:
        model: the name of a model of Hugging Face, or its folder.
        tensor_parallel: over how many GPUs each layer is spread.
        gpu_memory: the part of the GPU's memory that it may take, between 0 and 1; None leaves it to the server.
        max_model_len: tokens of context; None for the model's own.
        drain: for how many seconds requests in flight may go on when it is stopped (``--shutdown-timeout``, which versions before
            0.16 don't know); None leaves it to the server.
        api_key: what clients must send; passed in the environment.
        args: more arguments.
        python: the Python that has vLLM.
        stop_grace: seconds from the polite signal to the end by force; None for 30, or 20 more than it may drain.
        name, env, timeout, env_in: as for `HttpServer`.

    The polite signal goes to the server's own process alone, which tells its engine when the requests in flight are done.
    """

    model: str | os.PathLike[str]
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
    stop_grace: float | None = None
    env_in: Any = None
    drain: float | None = None

    milestones = {  # noqa: RUF012 - a constant that satisfies the protocol
        r"\bversion (\d+\.\d+\S*)": "vLLM {0}",
        r"Resolved architecture: (\w+)": "architecture {0}",
        r"Resolved architecture(?!: \w)": "architecture found",
        r"Initializing a V1 LLM engine": "starting the engine",
        r"Starting to load model|Loading weights(?! took)": "loading weights",
        r"(?i)loading (?:safetensors |pt )?(?:checkpoint shards|weights)[^%\d]*(\d+)%": "loading weights: {0} %",
        r"Loading weights took ([\d.]+) seconds": "weights loaded in {0} s",
        r"Compiling a graph": "compiling",
        r"torch\.compile (?:took|takes) ([\d.]+) s": "compiled in {0} s",
        r"KV cache size: ([\d,]+ tokens)": "room for {0}",
        r"KV cache size(?!: [\d,]+ tokens)": "room for requests made",
        r"Capturing CUDA graphs?": "capturing CUDA graphs",
        r"init engine .*took ([\d.]+) s": "engine ready after {0} s",
        r"Starting vLLM (?:API )?server": "starting the server",
        r"Application startup complete": "started",
    }

    def process(self) -> Process:
        """Return what is started. Raises SpecError."""
        model = os.fspath(self.model)
        if not model:
            raise SpecError("a VLLMServer needs a model: a name of Hugging Face, or a folder")
        if self.gpu_memory is not None and not 0 < self.gpu_memory <= 1:
            raise SpecError(f"gpu_memory={self.gpu_memory!r} is the part of the GPU's memory: above 0, at most 1")
        # Not vllm.entrypoints.openai.api_server, which is deprecated; and "vllm" itself may be another Python's.
        argv = [self.python, "-m", "vllm.entrypoints.cli.main", "serve", model]
        argv += ["--host", "127.0.0.1", "--port", "{port}", "--tensor-parallel-size", str(self.tensor_parallel)]
        argv += [] if self.gpu_memory is None else ["--gpu-memory-utilization", str(self.gpu_memory)]
        argv += [] if self.max_model_len is None else ["--max-model-len", str(self.max_model_len)]
        argv += [] if self.drain is None else ["--shutdown-timeout", f"{self.drain:g}"]
        drain = _number_after("--shutdown-timeout", self.args) or self.drain or 0.0
        grace = max(_STOP_GRACE_S, drain + _DRAIN_MARGIN_S) if self.stop_grace is None else self.stop_grace
        return _model_server(self, argv, "VLLM_API_KEY", grace)


def _number_after(option: str, args: Sequence[str]) -> float | None:
    """The value of an option, given as one argument or as two; None if it is not there or no number."""
    words = [word for argument in args for word in str(argument).split("=", 1)]
    for word, following in pairwise(words):
        if word == option:
            with suppress(ValueError):
                return float(following)
    return None


def _model_server(settings: LlamaServer | VLLMServer, argv: list[str], key_variable: str, stop_grace: float) -> Process:
    """What both servers of models have in common: a health check, and an API key that goes into the environment."""
    key = {} if settings.api_key is None else {key_variable: settings.api_key}
    server = HttpServer(
        [*argv, *settings.args],
        settings.name,
        "/health",
        {**key, **settings.env},
        settings.timeout,
        stop_grace,
        env_in=settings.env_in,
        stop_to="main",
    )
    return settings.over(server.process())


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
        last = False
        while not last:
            last = done.wait(_LOOK_S)
            try:
                for resource in self.resources or [each for each in (self.last,) if each is not None]:
                    self._tell(resource.logs(), patterns, said)
            except Exception:
                # A log that can't be read, or whoever is told raises: the start goes on without.
                _log.exception("plugin %s: the progress of its start is not told any more", type(self).__name__)
                return

    def _tell(self, log: str, patterns: list[tuple[re.Pattern[str], str]], said: set[str]) -> None:
        for line in log.splitlines():
            for pattern, text in patterns:
                found = pattern.search(line)
                shown = text.format(*found.groups()) if found else ""
                if shown and shown not in said and self.on_progress is not None:
                    said.add(shown)
                    self.on_progress(shown)

    def get_managed_resources(self) -> dict[str, Any]:
        """See `LifecycleAwarePlugin`; ``gpu_pids`` are those of its processes that have a GPU open."""
        shown = super().get_managed_resources()
        pids = [pid for resource in self.resources for pid in resource.pids()]
        return {**shown, "gpu_pids": devices.holders(pids, devices.GPU)}
