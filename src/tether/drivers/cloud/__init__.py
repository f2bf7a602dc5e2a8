"""Machines of a cloud: rented, found again, and ended, so that they cost nothing when their owner is dead.

spec.py       what may be said of one
provider.py   what a provider is, and how one is found
making.py     from a spec to a machine: what is on record before it, and after
creation.py   the two disciplines of creating one: with an idempotency token, and without
presence.py   whose a machine is, and when it is gone
absence.py    when not to be shown means not to be there
verdict.py    what a look at one says
parts.py      removes what was made beside one
boot.py       what it runs at its first boot
lease.py      what ends it where nobody is left to: in the machine, and at the provider
console.py    what one wrote
keys.py       the key pairs that are made for one
details.py    what is told of one, and of the providers
watch.py      hears what becomes of it, and renews its lease
driver.py     starts, finds, inspects, stops and destroys
providers/    one module a provider
"""

from __future__ import annotations

from tether.drivers.cloud.driver import CloudDriver
from tether.drivers.cloud.provider import Provider
from tether.drivers.cloud.spec import Machine, MachineRef

__all__ = ["CloudDriver", "Machine", "MachineRef", "Provider"]
