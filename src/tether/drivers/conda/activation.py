"""A command in an activated environment: a shell that activates, and becomes the command.

The script is fixed, and all that it is about (the prefix, variables, the command) is an argument of it: nothing in a path is ever
executed. What activation scripts print goes to standard error, they read nothing, and one that ends the shell is said to have
failed.
Source: bash(1), and conda's own activation (``conda/activate.py``) for the order of things.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tether.errors import StartError

__all__ = ["FAILED", "bash", "command", "path_inside"]

FAILED = 125
"""The exit code where activation failed, so that the command was not run."""

_LOOK_S = 20.0
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNSET = "***unset***"

# Scripts run at the top level and outside of && and ||, as they would in a user's shell: their own "set -e" holds, and what they
# declare stays. What they may change of this shell (options, arguments, folder) is put back.
_SCRIPT = r"""
__tether_prefix=$1 __tether_count=$2
shift 2
__tether_variables=("${@:1:__tether_count}") __tether_argv=("${@:__tether_count+1}")
set --
__tether_script= __tether_folder=$PWD __tether_old=$CONDA_PREFIX
__tether_failed() {
    printf 'tether: activation of %s failed: %s ended with status %s; the command was not run\n' \
        "$__tether_prefix" "${__tether_script:-the shell}" "$1" >&2
    trap - EXIT
    exit 125
}
trap '__tether_failed "$?"' EXIT
for __tether_scripts in "$__tether_old/etc/conda/deactivate.d" "$__tether_prefix/etc/conda/activate.d"; do
    if [ "$__tether_scripts" = "$__tether_prefix/etc/conda/activate.d" ]; then
        if [ -n "$__tether_old" ]; then
            PATH=:$PATH:
            PATH=${PATH//":$__tether_old/bin:"/:}
            PATH=${PATH#:} PATH=${PATH%:}
        fi
        unset CONDA_PROMPT_MODIFIER
        export PATH="$__tether_prefix/bin${PATH:+:$PATH}" CONDA_PREFIX="$__tether_prefix" CONDA_SHLVL=1
        export CONDA_DEFAULT_ENV="${__tether_prefix##*/}"
        for __tether_variable in "${__tether_variables[@]}"; do
            case $__tether_variable in
                *=*) export "$__tether_variable" ;;
                *) unset "$__tether_variable" ;;
            esac
        done
    elif [ -z "$__tether_old" ]; then
        continue
    fi
    for __tether_script in "$__tether_scripts"/*.sh; do
        [ -e "$__tether_script" ] || continue
        {
            . "$__tether_script" </dev/null
            __tether_status=$?
            trap - DEBUG ERR RETURN
            set +eufx
            set +o pipefail
            shopt -u failglob
            [ "$__tether_status" = 0 ] ||
                printf 'tether: %s returned %s\n' "$__tether_script" "$__tether_status"
        } >&2
    done
done
[ "$PWD" = "$__tether_folder" ] || cd -- "$__tether_folder"
trap - EXIT
exec -- "${__tether_argv[@]}"
"""


def bash() -> str:
    """Return the path of bash. Raises StartError."""
    found = shutil.which("bash")
    if found is None:
        raise StartError("activation scripts need bash, which is not installed; install it")
    return found


def command(prefix: Path, argv: Sequence[str]) -> list[str]:
    """Return the command that activates the environment and becomes ``argv``. Raises StartError."""
    # -p: neither BASH_ENV nor options and functions of the environment have a say; they reach the command as they are.
    start = [bash(), "--noprofile", "--norc", "-p", "-c", _SCRIPT, "tether"]
    variables = _variables(prefix)
    # A path with {port} in it is a path: the spec's own arguments have their port put in, and these not.
    literal = [each.replace("{port}", "{{port}}") for each in (str(prefix), str(len(variables)), *variables)]
    return [*start, *literal, *argv]


def _variables(prefix: Path) -> list[str]:
    """What is to be set in it, as NAME=VALUE, and what is to be unset, as NAME: of its packages, then of its user."""
    found: dict[str, str] = {}
    for path in (*sorted((prefix / "etc/conda/env_vars.d").glob("*.json")), prefix / "conda-meta/state"):
        try:
            said = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        values = said.get("env_vars", {}) if path.name == "state" else said
        if isinstance(values, dict):
            found.update({str(name): str(value) for name, value in values.items()})
    named = {name: value for name, value in found.items() if _NAME.fullmatch(name) and "\0" not in value}
    return [name if value == _UNSET else f"{name}={value}" for name, value in named.items()]


def path_inside(prefix: Path, environ: Mapping[str, str]) -> str:
    """Activate once, and return the PATH that this gives; the environment's own folder first.

    Raises:
        StartError: it could not be activated; with what the scripts said.
    """
    look = [*command(prefix, [bash(), "--noprofile", "--norc", "-p", "-c", 'printf %s "$PATH"'])]
    asked = [each.replace("{{port}}", "{port}") for each in look]
    try:
        seen = subprocess.run(
            asked, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LOOK_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StartError(f"environment {prefix} could not be activated within {_LOOK_S:g} s") from error
    if seen.returncode != 0:
        raise StartError(
            f"environment {prefix} could not be activated; mend the scripts in etc/conda/activate.d",
            exit_code=seen.returncode,
            log_tail=seen.stderr.decode(errors="replace"),
        )
    return os.fsdecode(seen.stdout)
