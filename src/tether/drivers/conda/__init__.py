"""Conda environments, made with py-rattler: no conda is needed on the machine.

One request (packages, channels, platform) is one environment, under a name made from it, in the state directory: made once,
used by everybody after that. Who makes it holds a lock that the kernel takes from a dead process; what has no completion mark
is half made, and is removed by the next who holds that lock.

spec.py    what may be said of one
folder.py  what is whole, half made or being made, on the disk
making.py  solves and installs, with py-rattler
driver.py  starts, inspects and destroys
"""

from __future__ import annotations

from tether.drivers.conda.driver import CondaDriver
from tether.drivers.conda.spec import CondaEnv

__all__ = ["CondaDriver", "CondaEnv"]
