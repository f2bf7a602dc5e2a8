"""Process trees of this machine.

request.py  what a shim is asked
held.py     a tree that this process holds
capping.py  its logs are kept small
driver.py   starts, finds, inspects, adopts, stops and destroys
"""

from __future__ import annotations

from tether.drivers.process.driver import ProcessDriver

__all__ = ["ProcessDriver"]
