"""What is done in a pod that runs: commands executed in it, files copied into it and out of it.

All of it is the API server's "exec", as kubectl does it. What an image lacks (``sh``, ``head``, ``tar``) can't be had from outside.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import shlex
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tether.drivers.archive import pack, unpack
from tether.drivers.kubernetes import channels
from tether.drivers.kubernetes.client import POD, Cluster, connect
from tether.drivers.kubernetes.where import Where
from tether.errors import DeadlineExceeded, DriverUnavailable, Gone, NotFound, SpecError
from tether.model import Handle

__all__ = ["Inside"]

_STDIN, _STDOUT, _STDERR, _STATUS = 0, 1, 2, 3
_PIECE = 1 << 15
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_THERE = 66
_TAKE_OUT = '[ -e "$1/$2" ] || [ -L "$1/$2" ] || exit 66; exec tar -cf - -C "$1" "./$2"'
"""A name that begins with a dash is none of tar's options then."""


class Inside:
    """What a driver of pods can do in those that run. See `CanExecute`, `CanCopy` and `HasInside`."""

    def execute(
        self,
        handle: Handle,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        user: str | None,
        workdir: str | None,
        sent: bytes,
        timeout_s: float | None,
        heard: Callable[[int, bytes], object] | None = None,
    ) -> tuple[int | None, bytes, bytes]:
        """Execute a command in a pod, and return its exit code and what it wrote, as far as ``heard`` did not take it.

        Variables travel as input, where nobody can read them on a command line. With variables, input or a working directory the
        image must have ``sh``, ``dd`` and ``head``.

        Raises:
            SpecError: a user is given, which a pod's containers can't change; or a name can't be a variable's in a shell.
            DeadlineExceeded: it goes on after the time limit; nothing was done about it.
            DriverUnavailable: the cluster does not answer, or refuses.
            Gone: the pod has gone.
        """
        if user is not None:
            raise SpecError("a command in a pod runs as its container does: user= can't be had there")
        written = {_STDOUT: bytearray(), _STDERR: bytearray()}

        def collect(stream: int, data: bytes) -> None:
            written[stream].extend(data)

        words, given = _wrapped(argv, env, workdir, sent)
        try:
            code = _execute(_cluster_with(handle), handle, words, given, timeout_s, heard or collect)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{argv[0]} goes on in pod {handle.data['pod']} after {timeout_s:g} s; nothing ends it but itself, or the end "
                "of the pod"
            ) from error
        return code, bytes(written[_STDOUT]), bytes(written[_STDERR])

    def copy_in(self, handle: Handle, source: bytes | str | os.PathLike[str], path: str) -> None:
        """Copy a file or folder of this machine, or content, to a path of a pod; the image must have ``sh``, ``head`` and ``tar``.

        Raises:
            SpecError: the path is the root.
            OSError: it can't be read here.
            DriverUnavailable: the cluster does not answer, or it could not be written there.
            Gone: the pod has gone.
        """
        parent, name = _split(path)
        packed = pack(source, posixpath.join(parent, name).lstrip("/"))
        words, given = _wrapped(["tar", "-xf", "-", "-C", "/"], {}, None, packed)
        said = bytearray()
        code = _execute(_cluster_with(handle), handle, words, given, None, lambda _, data: said.extend(data))
        _check(code, handle, f"{path} could not be copied into", bytes(said))

    def copy_out(self, handle: Handle, path: str, target: Path) -> None:
        """Copy a file or folder of a pod to a path of this machine; a folder that is there is added to.

        The image must have ``sh`` and ``tar``.

        Raises:
            SpecError: the path is the root.
            NotFound: there is nothing at that path.
            OSError: it can't be written here.
            DriverUnavailable: the cluster does not answer, or it could not be read whole: one that changed meanwhile, for instance.
            Gone: the pod has gone.
        """
        parent, name = _split(path)
        errors = bytearray()
        with tempfile.TemporaryFile() as packed:

            def heard(stream: int, data: bytes) -> None:
                packed.write(data) if stream == _STDOUT else errors.extend(data)

            words = ["sh", "-c", _TAKE_OUT, "tether", parent, name]
            code = _execute(_cluster_with(handle), handle, words, b"", None, heard)
            if code == _NOT_THERE:
                raise NotFound(f"there is no {path} in pod {handle.data['pod']}")
            _check(code, handle, f"{path} could not be copied out of", bytes(errors))
            packed.seek(0)
            try:
                unpack(packed, target)
            except tarfile.TarError as error:
                raise DriverUnavailable(f"pod {handle.data['pod']} sent no sound archive of {path}: {error}") from error

    def inside(self, handle: Handle, argv: Sequence[str], env: Mapping[str, str | None] | None = None) -> list[str]:
        """Return the command that runs ``argv`` in the pod's container, by kubectl.

        Raises:
            SpecError: there is no kubectl, or there are variables, which it can't pass on.
        """
        if env:
            raise SpecError(
                f"variables can't be passed to a command in pod {handle.data['pod']}: kubectl exec knows none, and on its command "
                "line everybody could read them; put them into the pod's spec"
            )
        return _by_kubectl(handle, argv, "-i")

    def inside_terminal(self, handle: Handle, argv: Sequence[str]) -> list[str]:
        """The same with a terminal. See `HasTerminalsInside`. Raises SpecError: there is no kubectl."""
        return _by_kubectl(handle, argv, "-i", "-t")


def _by_kubectl(handle: Handle, argv: Sequence[str], *options: str) -> list[str]:
    pod, where = handle.data["pod"], handle.data["where"]
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise SpecError(
            f"a command in pod {pod} is run by kubectl, which is not on the PATH; install it, or use exec()"
        )
    found = where["kubeconfig"] is not None
    cluster = ["--kubeconfig", where["kubeconfig"], "--context", where["context"]] if found else []
    container = [] if handle.data["container"] is None else ["-c", handle.data["container"]]
    return [kubectl, *cluster, "-n", where["namespace"], "exec", *options, pod, *container, "--", *argv]


def _split(path: str) -> tuple[str, str]:
    """Return the folder and the name of a path in a pod. Raises SpecError."""
    whole = posixpath.normpath("/" + path.strip("/"))
    if whole == "/":
        raise SpecError("the root of a pod can't be copied; name a file or folder in it")
    return posixpath.split(whole)


def _cluster_with(handle: Handle) -> Cluster:
    """Return the cluster of a pod that is there: another of its name is another pod. Raises Gone, DriverUnavailable."""
    cluster = connect(Where.recorded(handle.data["where"]))
    pod = cluster.get(POD, handle.data["pod"])
    if pod is None or pod["metadata"]["uid"] != handle.data["uid"]:
        raise Gone(f"pod {handle.data['pod']} has gone from cluster {cluster.where}")
    return cluster


def _wrapped(argv: Sequence[str], env: Mapping[str, str], workdir: str | None, sent: bytes) -> tuple[list[str], bytes]:
    """Return the words of a command with all that "exec" knows nothing of, and what it is sent.

    The protocol can't say that an input has ended, so it is counted. dd reads a byte at a time and none too many.
    """
    if not env and workdir is None and not sent:
        return list(argv), b""
    for name in env:
        if not _NAME.fullmatch(name):
            raise SpecError(f"{name!r} can't be the name of a variable of a command in a pod")
    variables = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in env.items()).encode()
    script = []
    if variables:
        script.append(f'eval "$(dd bs=1 count={len(variables)} 2>/dev/null)"')
    if workdir is not None:
        script.append('cd "$1" || exit 126; shift')
    script.append(f'head -c {len(sent)} | "$@"' if sent else 'exec "$@" < /dev/null')
    where = [] if workdir is None else [workdir]
    return ["sh", "-c", "\n".join(script), "tether", *where, *argv], variables + sent


def _execute(
    cluster: Cluster,
    handle: Handle,
    words: Sequence[str],
    sent: bytes,
    timeout_s: float | None,
    heard: Callable[[int, bytes], object],
) -> int | None:
    """Execute a command as it is; return its exit code, None if the connection broke before that. Raises TimeoutError, too."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    pod, container = handle.data["pod"], handle.data["container"]
    asked: list[tuple[str, Any]] = [*(("command", word) for word in words), ("stdout", "true"), ("stderr", "true")]
    asked += [("stdin", "true")] if sent else []
    asked += [] if container is None else [("container", container)]
    with channels.session(cluster, pod, "exec", asked, "executes nothing in a container") as session:
        # Written apart from reading: both directions may be full.
        threading.Thread(target=_send, args=(session, sent), name="tether-exec", daemon=True).start()
        while (message := channels.receive(session, _left(deadline))) is not None:
            which, data = message
            if which == _STATUS:
                return _exit_code(data, pod)
            if data:
                heard(which, data)
    return None


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.001, deadline - time.monotonic())


def _send(session: Any, sent: bytes) -> None:
    from httpx2.websockets import HTTPXWSException

    # Whoever reads no more says so by its exit code.
    with suppress(HTTPXWSException, OSError):
        for begin in range(0, len(sent), _PIECE):
            session.send_bytes(bytes([_STDIN]) + sent[begin : begin + _PIECE])


def _exit_code(said: bytes, pod: str) -> int | None:
    """Return what the last word of a command means. Raises DriverUnavailable if it never ran."""
    try:
        status = json.loads(said)
        causes = (status.get("details") or {}).get("causes") or []
        code = next((int(each["message"]) for each in causes if each.get("reason") == "ExitCode"), None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if status.get("status") == "Success":
        return 0
    if code is None:
        raise DriverUnavailable(f"nothing could be executed in pod {pod}: {status.get('message')}")
    return code


def _check(code: int | None, handle: Handle, what: str, said: bytes) -> None:
    if code == 0:
        return
    why = "the connection broke" if code is None else f"exit code {code}"
    words = said[-400:].decode(errors="replace").strip()
    raise DriverUnavailable(f"{what} pod {handle.data['pod']}: {why}{': ' if words else ''}{words}")
