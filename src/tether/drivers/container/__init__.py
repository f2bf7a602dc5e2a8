"""Containers of a Docker engine, or of Podman's compatible socket.

spec.py      what may be said of one
limits.py    how long an engine is given
address.py   which engine is meant
engine.py    the connection, and its errors in our words
tunnel.py    the connection through ssh
images.py    sees to it that an engine has an image
request.py   what the engine is asked for, made from a spec
making.py    makes a container and what goes with it
marks.py     by what a thing at an engine is known to be ours
removal.py   removes what is ours
members.py   which processes of this machine are a container's
reach.py     how a container's port is reached
output.py    what a container writes
inside.py    what is done in one that runs
terminal.py  a terminal in one that runs
streams.py   answers of an engine that go on for long
network.py   networks that several share
words.py     command lines of docker and podman
client.py    what such a program is asked
attempts.py  each run of such a command line, on record
commands.py  what a command of that kind makes
orphans.py   what dead owners left, of which no ledger knows
watch.py     hears from the engine, and looks
held.py      what an owner's containers do
driver.py    starts, finds, inspects, stops and destroys
"""

from __future__ import annotations

from tether.drivers.container.commands import ClientDriver
from tether.drivers.container.driver import ContainerDriver
from tether.drivers.container.network import Network, NetworkDriver
from tether.drivers.container.spec import Container, ContainerRef, HealthCheck, Mount

__all__ = [
    "ClientDriver",
    "Container",
    "ContainerDriver",
    "ContainerRef",
    "HealthCheck",
    "Mount",
    "Network",
    "NetworkDriver",
]
