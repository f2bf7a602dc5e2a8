"""Which commands there are, and what may be meant by a word that is none."""

from __future__ import annotations

from tether.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "dispatch"]

COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("run", "run", "run a command, so that nothing of it outlives this one"),
    "exec": ("exec", "execute", "execute a command in a container, a pod or an environment"),
    "ps": ("ps", "ps", "list resources, as they are now"),
    "tree": ("tree", "tree", "owners, their resources, and the processes of each"),
    "logs": ("logs", "logs", "what resources wrote"),
    "attach": ("logs", "attach", "follow what a resource writes, until it ends"),
    "events": ("events", "events", "what happened: who ended what, why, and the proof"),
    "stats": ("ps", "stats", "what resources use now"),
    "inspect": ("tell", "inspect", "all that is known of resources, as JSON"),
    "where": ("tell", "where", "where the state directory is, or a resource's log, URL and pid"),
    "stop": ("end", "stop", "end resources politely, by force after the grace"),
    "kill": ("end", "kill", "end resources by force"),
    "restart": ("end", "restart", "have the owners of resources restart them"),
    "reap": ("estates", "reap", "end what dead owners left"),
    "forget": ("estates", "forget", "give up a resource that can't be reached any more"),
    "prune": ("estates", "prune", "remove records and logs of what has ended"),
    "envs": ("envs", "command", "conda environments; 'envs prune' removes those that nobody uses"),
    "costs": ("costs", "costs", "what rented machines have cost"),
    "doctor": ("doctor", "doctor", "what this machine, another host or a cluster offers"),
    "check": ("check", "check", "is this plugin lifecycle-aware, and if not, why"),
    "completion": ("completion", "completion", "completion for bash, zsh or fish"),
}
"""By name: the module, the function in it, and what it does."""

_GROUPS = {
    "Run": ("run", "exec"),
    "Look": ("ps", "tree", "logs", "attach", "events", "stats", "inspect", "where", "envs", "costs"),
    "End": ("stop", "kill", "restart", "reap", "forget", "prune"),
    "Check": ("doctor", "check", "completion"),
}
_CHANGES = frozenset(_GROUPS["End"])
_MEANT = {
    "ls": "ps", "list": "ps", "status": "ps", "log": "logs", "tail": "logs", "event": "events", "history": "events",
    "top": "stats", "usage": "stats", "show": "inspect", "info": "inspect", "describe": "inspect", "path": "where",
    "start": "run", "up": "run", "pstree": "tree", "diagnose": "doctor", "env": "envs",
    "follow": "attach",
}  # fmt: skip
"""What other programs call it. None that ends anything: a guess must not end what was not meant."""
_CLOSE = 0.6
_ALMOST_EQUAL = 0.85
_USAGE = 2


def dispatch(argv: Sequence[str]) -> int:
    """Run the command that the arguments name, and return the exit code."""
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name == "help":
        name, rest = (rest[0], ["--help"]) if rest else ("--help", [])
    if name in ("-h", "--help"):
        _help()
        return 0
    if name in ("-V", "--version"):
        from tether import __version__

        text.say(f"tether {__version__}")
        return 0
    if name == "__complete":
        from tether.cli import completion

        return completion.complete(rest)
    if name not in COMMANDS:
        return _unknown(name)
    module, function, _ = COMMANDS[name]
    from importlib import import_module

    code: int = getattr(import_module(f"tether.cli.{module}"), function)(rest)
    return code


def _help() -> None:
    text.say("Usage: tether COMMAND [ARGUMENTS]")
    text.say()
    text.say("Nothing that your Python app starts outlives it, unless you said so.")
    for group, names in _GROUPS.items():
        text.say()
        text.say(text.paint(f"{group}:", "bold"))
        for name in names:
            text.say(f"  {text.paint(name.ljust(12), 'cyan')}{COMMANDS[name][2]}")
    text.say()
    text.say("'tether COMMAND -h' says more. -V, --version shows the version.")
    text.say("State is kept where 'tether where' says; TETHER_STATE_DIR sets that.")


def _unknown(name: str) -> int:
    if name.startswith("-"):
        text.warn(f"there is no option {name}; options follow the command\nSee 'tether --help'.")
        return _USAGE
    meant = _meant(name)
    text.warn(
        f"there is no command {name!r}" + (f"; is 'tether {meant}' meant?" if meant else "") + "\nSee 'tether --help'."
    )
    return _USAGE


def _meant(name: str) -> str | None:
    """Return the command that may be meant; one that ends things only if it is mistyped, not guessed."""
    if name in _MEANT:
        return _MEANT[name]
    from difflib import SequenceMatcher

    scores = {known: SequenceMatcher(None, name, known).ratio() for known in COMMANDS}
    best = max(scores, key=lambda known: scores[known])
    if best in _CHANGES:
        return best if scores[best] >= _ALMOST_EQUAL and name[0] == best[0] else None
    return best if scores[best] >= _CLOSE else None
