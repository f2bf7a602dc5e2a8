"""Processes on other hosts, over SSH.

spec.py       what may be said of one
far.py        what runs there: one file that is sent over, the same shim as here
agent.py      sends that, and talks with it
shell.py      what runs there where there is no Python: a weaker one, in POSIX sh
diagnosis.py  what a host offers
host.py       the one connection to a host, its leases and forwarded ports
driver.py     starts, finds, inspects, stops and destroys
"""

from __future__ import annotations

from tether.drivers.ssh.driver import SshDriver
from tether.drivers.ssh.spec import RemoteProcess

__all__ = ["RemoteProcess", "SshDriver"]
