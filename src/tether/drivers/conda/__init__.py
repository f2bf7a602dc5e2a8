"""Conda environments, made with py-rattler: no conda is needed on the machine.

One request (packages, channels, platform, what this machine offers) is one environment, under a name made from it, in the state
directory: made once, used by everybody after that. Who makes it holds a lock that the kernel takes from a dead process; what has no
completion mark is half made, and is removed by the next who holds that lock.

spec.py             what may be said of one
access.py           tokens, which reach the server only
lockfile.py         what a lock file names
making.py           solves and installs, with py-rattler
python_packages.py  installs what comes from a Python index, with uv or pip
folder.py           what is whole, half made or being made, on the disk
locks.py, uses.py   who makes one, and who uses one
soundness.py        whether its files are still those that were installed
activation.py       the command that activates and becomes another
cache.py            what was made for everybody: listed, and removed
named.py            where a conda environment of a name is
driver.py           starts, inspects and destroys
"""

from __future__ import annotations

from tether.drivers.conda.driver import CondaDriver
from tether.drivers.conda.spec import CondaEnv

__all__ = ["CondaDriver", "CondaEnv"]
