"""Command lines of docker(1) and podman(1): which of them run a container, and where words can be added to one.

A command line is read only as far as every word of it is known; one that is not understood is never altered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["CLIENTS", "Run", "read"]

CLIENTS = ("docker", "podman")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_GLOBAL_SWITCHES = {
    "docker": frozenset({"-D", "--debug", "--tls", "--tlsverify"}),
    "podman": frozenset({"--noout", "-r", "--remote", "--syslog", "--trace", "--transient-store"}),
}
_GLOBAL_VALUES = {
    "docker": frozenset(
        {"--config", "-c", "--context", "-H", "--host", "-l", "--log-level", "--tlscacert", "--tlscert", "--tlskey"}
    ),
    "podman": _words(
        "--cgroup-manager --cni-config-dir --conmon -c --connection --default-mounts-file --events-backend --hooks-dir "
        "--identity --imagestore --log-level --module --namespace --network-cmd-path --network-config-dir --out "
        "--registries-conf --root --runroot --runtime --runtime-flag --ssh --storage-driver --storage-opt --tmpdir --url "
        "--volumepath"
    ),
}
_SWITCHES = _words(
    "-d --detach --disable-content-trust --env-host --help --http-proxy --init -i --interactive --no-healthcheck "
    "--no-hostname --no-hosts --oom-kill-disable --passwd --privileged -P --publish-all -q --quiet --read-only "
    "--read-only-tmpfs --replace --rm --rmi --rootfs --sig-proxy --tls-verify -t --tty --unsetenv-all --use-api-socket"
)
_VALUES = _words(
    "--add-host --annotation --arch -a --attach --authfile --blkio-weight --blkio-weight-device --cap-add --cap-drop "
    "--cgroup-conf --cgroup-parent --cgroupns --cgroups --chrootdirs --cidfile --conmon-pidfile --cpu-count --cpu-percent "
    "--cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime -c --cpu-shares --cpus --cpuset-cpus --cpuset-mems "
    "--decryption-key --detach-keys --device --device-cgroup-rule --device-read-bps --device-read-iops --device-write-bps "
    "--device-write-iops --dns --dns-opt --dns-option --dns-search --domainname --entrypoint -e --env --env-file --env-merge "
    "--expose --gidmap --gpus --group-add --group-entry --health-cmd --health-interval --health-log-destination "
    "--health-max-log-count --health-max-log-size --health-on-failure --health-retries --health-start-interval "
    "--health-start-period --health-startup-cmd --health-startup-interval --health-startup-retries --health-startup-success "
    "--health-startup-timeout --health-timeout -h --hostname --hosts-file --hostuser --image-volume --init-path "
    "--io-maxbandwidth --io-maxiops --ip --ip6 --ipc --isolation --kernel-memory -l --label --label-file --link "
    "--link-local-ip --log-driver --log-opt --mac-address -m --memory --memory-reservation --memory-swap --memory-swappiness "
    "--mount --name --net --net-alias --network --network-alias --oom-score-adj --os --passwd-entry --personality --pid "
    "--pidfile --pids-limit --platform --pod --pod-id-file --preserve-fd --preserve-fds -p --publish --pull --rdt-class "
    "--requires --restart --retry --retry-delay --runtime --sdnotify --seccomp-policy --secret --security-opt --shm-size "
    "--shm-size-systemd --stop-signal --stop-timeout --storage-opt --subgidname --subuidname --sysctl --systemd --timeout "
    "--tmpfs --tz --uidmap --ulimit --umask --unsetenv -u --user --userns --uts --variant -v --volume --volume-driver "
    "--volumes-from -w --workdir"
)
"""Of ``run``, of both programs: docker 20 to 28, podman 4 and 5. None is a switch in one and has a value in the other."""

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})


class _NotUnderstoodError(Exception):
    """A word is not known."""


@dataclass(frozen=True)
class Run:
    """A command line that runs a container.

    Attributes:
        client: the words with which the same engine is asked something else: the program and its global options.
        verb: how many words stand before the options of ``run``.
        detached: whether the container goes on without the command.
        cidfile: the file for its id that was asked for; None if none was.
    """

    client: tuple[str, ...]
    verb: int
    detached: bool
    cidfile: str | None

    def with_options(self, argv: Sequence[str], options: Iterable[str]) -> list[str]:
        """Return the words with more options for ``run``."""
        return [*argv[: self.verb], *options, *argv[self.verb :]]


def read(argv: Sequence[str]) -> Run | str | None:
    """Read a command line.

    Returns:
        What it runs; None if it runs no container; a text that says what of it is not known, if that may be.
    """
    program = argv[0].rpartition("/")[2] if argv else ""
    if program not in CLIENTS:
        return None
    try:
        verb, _ = _options(argv, 1, _GLOBAL_SWITCHES[program], _GLOBAL_VALUES[program])
    except _NotUnderstoodError as error:
        # What follows may be anything: only if it says "run" at all is that worth a word.
        return f"{program} {error}" if "run" in argv else None
    after = verb
    if argv[after : after + 1] == ["container"]:
        after += 1
    if argv[after : after + 1] != ["run"]:
        return None
    after += 1
    try:
        image, given = _options(argv, after, _SWITCHES, _VALUES)
    except _NotUnderstoodError as error:
        return f"{program} run {error}"
    if image >= len(argv) or _said(given, "--help"):
        # It prints its usage, and runs nothing.
        return None
    return Run(tuple(argv[:verb]), after, _said(given, "-d", "--detach"), _last(given, "--cidfile"))


def _options(
    argv: Sequence[str], start: int, switches: frozenset[str], values: frozenset[str]
) -> tuple[int, list[tuple[str, str | None]]]:
    """Return where the options end, and each with its value. Source: pflag, which both programs read their words with."""
    at = start
    given: list[tuple[str, str | None]] = []
    while at < len(argv):
        word = argv[at]
        at += 1
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            return at - 1, given
        for name, value in _parts(word, switches, values):
            if name in values and value is None:
                if at >= len(argv):
                    raise _NotUnderstoodError(f"{name}: a value is missing")
                given.append((name, argv[at]))
                at += 1
            else:
                given.append((name, value))
    return at, given


def _parts(word: str, switches: frozenset[str], values: frozenset[str]) -> list[tuple[str, str | None]]:
    """Take a word apart: ``--name=value``, ``-dit``, ``-p8080``, ``-ep``."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        if name not in switches | values:
            raise _NotUnderstoodError(f"{name} is not known to tether")
        return [(name, value if equals else None)]
    parts: list[tuple[str, str | None]] = []
    rest = word[1:]
    while rest:
        name, rest = f"-{rest[0]}", rest[1:]
        if name in values:
            return [*parts, (name, rest.removeprefix("=") if rest else None)]
        if name not in switches:
            raise _NotUnderstoodError(f"{name} is not known to tether")
        if rest.startswith("="):
            return [*parts, (name, rest[1:])]
        parts.append((name, None))
    return parts


def _said(given: Sequence[tuple[str, str | None]], *names: str) -> bool:
    """Whether a switch is on; what comes last counts."""
    last = next((value for name, value in reversed(given) if name in names), "false")
    return last is None or last in _TRUE


def _last(given: Sequence[tuple[str, str | None]], name: str) -> str | None:
    return next((value for each, value in reversed(given) if each == name), None)
