"""Process trees of this machine.

request.py  what a shim is asked
driver.py   starts, finds, inspects, adopts, stops and destroys
"""

from __future__ import annotations

from tether.drivers.process.driver import ProcessDriver

__all__ = ["ProcessDriver"]
