"""``tether envs``: what was made for everybody is listed, and removed where nobody uses it."""

from __future__ import annotations

from pathlib import Path

import channel
from commandline import table, tether
from tether import CondaEnv, Owner


def test_listed_and_pruned(owner: Owner, tmp_path: Path, private_state: Path) -> None:
    """What is used stays, and what was named and stays is exit code 1; a dry run changes nothing."""
    address = channel.make(tmp_path / "channel")
    env = owner.start(CondaEnv(["tool"], [address], name="env"))
    name = Path(env.details["conda_env"]).name
    (found,) = table("envs")["environments"]
    assert (found["name"], found["state"], found["in_use"]) == (name, "whole", True)
    assert tether("envs").splitlines()[1].startswith(f"{name}  in use")
    assert tether("__complete", "envs", "") == "prune\tremove those that nobody uses\n"
    assert tether("__complete", "envs", "prune", "") == f"{name}\twhole\n"
    assert "--unused-for" in tether("__complete", "envs", "prune", "--u")
    assert f"{name}: kept: in use" in tether("envs", "prune", name, code=1)
    assert f"{name}: kept: in use" in tether("envs", "prune", "--keep-packages")
    env.stop()
    before = sorted(path for path in private_state.rglob("*") if "conda" in path.parts)
    assert f"{name}: would be removed" in tether("envs", "prune", "--dry-run")
    assert f"{name}: kept: used lately" in tether("envs", "prune", "-n", "--unused-for", "1d")
    assert sorted(path for path in private_state.rglob("*") if "conda" in path.parts) == before
    done = {each["name"]: each["kept_because"] for each in table("envs", "prune", name)}
    assert done == {name: ""}
    assert table("envs")["environments"] == []
    assert "there is none of this name" in tether("envs", "prune", name, code=1)


def test_where_there_are_none(private_state: Path) -> None:
    """It is said, and nothing is made to look."""
    assert "0 B in environments" in tether("envs")
    assert "one argument too many: nonsense" in tether("envs", "nonsense", code=2)
    assert not private_state.exists()
