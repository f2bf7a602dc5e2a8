"""Processes on other hosts, over SSH.

spec.py       what may be said of one
where.py      how a host is reached
logins.py     how a host is logged in to
bring.py      gets tether-guard to run there: the same program as here
agent.py      what is said to it, and what it says
forward.py    a port here that leads to one there
machine.py    a host that is a machine of a cloud
diagnosis.py  what a host offers
details.py    what is told of one
host.py       the one connection to a host, its leases, logs and ports
hosts.py      all of them, and what is asked of them
request.py    what it is asked to hold
output.py     what it has written there
driver.py     starts, finds, inspects, stops and destroys
"""

from __future__ import annotations

from tether.drivers.ssh.driver import SshDriver
from tether.drivers.ssh.spec import RemoteProcess

__all__ = ["RemoteProcess", "SshDriver"]
