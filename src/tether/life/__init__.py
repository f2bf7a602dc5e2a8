"""One resource's life: start, watch, restart, end.

machine.py     what follows from an event: a pure state machine, which neither acts nor waits
supervisor.py  carries that out: ending.py its ends, adopting.py what an earlier owner kept
live.py        what there is just now
managed.py     one resource under supervision
driver.py      what a driver is; terminals.py what some can do besides
registry.py    from a kind to its driver
probes.py      when a resource counts as ready; looks.py looks whether it is: connections.py by a connection, web.py by HTTP
retries.py     what could not be done is tried again
clock.py       the time, which a test may replace
"""
