"""``tether completion``: scripts for bash, zsh and fish, which ask ``tether __complete`` what may come next."""

from __future__ import annotations

from tether.cli import text
from tether.cli.arguments import Parser
from tether.cli.commands import COMMANDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["complete", "completion"]

_BASH = """\
# eval "$(tether completion bash)", for instance in ~/.bashrc
_tether() {
    local word
    COMPREPLY=()
    # What follows the command of 'tether run' is completed as that command.
    if [[ ${COMP_WORDS[1]} == run ]] && declare -F _command_offset >/dev/null; then
        local at
        for ((at = 2; at < COMP_CWORD; at++)); do
            case ${COMP_WORDS[at]} in
                --) _command_offset $((at + 1)); return ;;
                --name | --grace | --port) ((at++)) ;;
                -*) ;;
                *) _command_offset "$at"; return ;;
            esac
        done
    fi
    # Bash takes OWNER/NAME for one word; a colon is none that names have.
    while IFS= read -r word; do
        COMPREPLY+=("${word%%$'\\t'*}")
    done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o bashdefault -o default -F _tether tether
"""

_ZSH = """\
#compdef tether
# eval "$(tether completion zsh)", for instance in ~/.zshrc behind compinit
_tether() {
    local -a lines described
    local line
    if [[ ${words[2]} == run ]]; then
        local at=3
        while ((at < CURRENT)); do
            case ${words[at]} in
                --) ((at++)); break ;;
                --name|--grace|--port) ((at += 2)) ;;
                -*) ((at++)) ;;
                *) break ;;
            esac
        done
        if ((at <= CURRENT)) && [[ ${words[at]} != -* ]]; then
            shift $((at - 1)) words
            ((CURRENT -= at - 1))
            _normal
            return
        fi
    fi
    lines=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    for line in $lines; do
        described+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done
    if ((${#described})) && [[ -n ${lines[1]} ]]; then
        _describe -t tether tether described
    else
        _files
    fi
}
if [[ ${funcstack[1]} == _tether ]]; then
    _tether "$@"
else
    compdef _tether tether
fi
"""

_FISH = """\
# tether completion fish | source, for instance in ~/.config/fish/config.fish
function __tether_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete $words[2..-1] 2>/dev/null
end
function __tether_runs
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test "$words[2]" = run
end
complete -c tether -e
complete -c tether -n 'not __tether_runs' -f -a '(__tether_complete)'
complete -c tether -n __tether_runs -a '(__tether_complete; __fish_complete_subcommand --fcs-skip=2)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

_OPTIONS = {
    "run": "--name --grace --port --with-parent --without-parent --help",
    "exec": "--stdin --tty --user --workdir --env --help",
    "ps": "--all --wide --quiet --filter --watch --json --help",
    "tree": "--wide --json --help",
    "logs": "--follow --tail --since --timestamps --help",
    "attach": "--tail --help",
    "events": "--follow --tail --since --json --help",
    "stats": "--watch --json --help",
    "inspect": "--help",
    "where": "--json --help",
    "stop": "--grace --force --help",
    "kill": "--force --help",
    "restart": "--help",
    "reap": "--dry-run --all --force --engine --context --install --json --help",
    "forget": "--help",
    "prune": "--older --dry-run --help",
    "envs": "--json --help",
    "envs prune": "--unused-for --keep-packages --dry-run --json --help",
    "costs": "--json --help",
    "doctor": "--kubernetes --json --help",
    "check": "--json --help",
    "completion": "--help",
}
_VALUES = frozenset({
    "--name", "--grace", "--port", "--filter", "--watch", "--tail", "--since", "--older", "-f", "-n",
    "--user", "--workdir", "--env", "--unused-for",
})  # fmt: skip
_FLAGS_TOO = {"logs": "-f", "events": "-f", "reap": "-n", "prune": "-n", "envs prune": "-n"}
"""Short options that take no value here, and do elsewhere."""
_LIVE_NAMES = frozenset({"exec", "ps", "tree", "stats", "stop", "kill", "restart", "forget"})
_ALL_NAMES = frozenset({"logs", "attach", "events", "inspect", "where"})


def completion(argv: Sequence[str]) -> int:
    """Print the script for a shell."""
    parser = Parser(
        "completion",
        "Print a script that completes commands, options and the names of resources.",
        '  eval "$(tether completion bash)"     in ~/.bashrc\n'
        '  eval "$(tether completion zsh)"      in ~/.zshrc, behind compinit\n'
        "  tether completion fish | source      in ~/.config/fish/config.fish",
    )
    parser.add_argument("shell", choices=sorted(_SCRIPTS), help="bash, zsh or fish")
    given = parser.read(argv)
    text.say(_SCRIPTS[given.shell].rstrip("\n"))
    return 0


def complete(words: Sequence[str]) -> int:
    """Print what may stand in the place of the last word, each with a tab and what it is. Never fails: it is asked while typing."""
    from tether.errors import TetherError

    *before, last = words or [""]
    try:
        found = _candidates(before, last)
    except (TetherError, OSError):
        return 0
    for word, what in found:
        if word.startswith(last):
            text.say(f"{word}\t{text.clean(what)}")
    return 0


def _candidates(before: list[str], last: str) -> list[tuple[str, str]]:
    if not before:
        if last.startswith("-"):
            return [("--help", "help"), ("--version", "the version")]
        return [(name, does) for name, (_, _, does) in COMMANDS.items()]
    command = before[0]
    # What follows the command of 'tether exec' is that command's.
    if command not in COMMANDS or (command == "exec" and "--" in before):
        return []
    if command == "envs" and before[1:2] == ["prune"]:
        command = "envs prune"
    if len(before) > 1 and _takes_value(command, before[-1]):
        return _values(before[-1])
    if last.startswith("-"):
        return [(option, "") for option in _OPTIONS[command].split()]
    return _arguments(command, last, {*before[1:]})


def _arguments(command: str, last: str, given: set[str]) -> list[tuple[str, str]]:
    if command == "completion":
        return [(shell, "") for shell in sorted(_SCRIPTS)]
    if command == "envs":
        return [] if given else [("prune", "remove those that nobody uses")]
    if command == "envs prune":
        from tether.cli.envs import envs

        return [(env["name"], env["state"]) for env in envs()["environments"] if env["name"] not in given]
    if command in _LIVE_NAMES | _ALL_NAMES:
        return _names(last, given, ended=command in _ALL_NAMES)
    return []


def _takes_value(command: str, option: str) -> bool:
    if option not in _VALUES or _FLAGS_TOO.get(command) == option:
        return False
    # The value of --watch may be left out.
    return option != "--watch"


def _values(option: str) -> list[tuple[str, str]]:
    if option in ("--filter", "-f"):
        return [(f"{key}=", "") for key in ("name", "owner", "kind", "state", "id")]
    return []


def _names(last: str, given: set[str], *, ended: bool) -> list[tuple[str, str]]:
    """Return the names on record that have not been given; OWNER/NAME where a slash was typed or a name is not the only one."""
    from tether.cli.records import Records

    entries = Records().entries(ended=ended)
    ids: dict[str, set[str]] = {}
    for entry in entries:
        ids.setdefault(entry.row.name, set()).add(entry.owner.name)
    found: dict[str, str] = {}
    for entry in entries:
        name = entry.row.name
        if "/" in last or len(ids[name]) > 1:
            name = entry.full_name
        found[name] = f"{entry.row.kind}, {entry.row.state.value}"
    if last and "/" not in last:
        found.update({f"{entry.owner.name}/": "all of this owner" for entry in entries})
    return [(name, what) for name, what in found.items() if name not in given]
