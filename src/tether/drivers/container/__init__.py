"""Containers of a Docker engine, or of Podman's compatible socket.

spec.py      what may be said of one
engine.py    the connection, and its errors in our words
images.py    sees to it that an engine has an image
request.py   what the engine is asked for, made from a spec
labelled.py  what carries a tag there: seen, and removed
watch.py     hears from the engine when a container ends
driver.py    starts, finds, inspects, stops and destroys
"""

from __future__ import annotations

from tether.drivers.container.driver import ContainerDriver
from tether.drivers.container.spec import Container, ContainerRef, Mount

__all__ = ["Container", "ContainerDriver", "ContainerRef", "Mount"]
