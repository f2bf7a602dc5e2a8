"""What holds process trees when the owner can't: ``tether-guard``, one small native program, and the owner's line to it.

native/     the program, in C: its hub beside an owner, and the shim above each tree
binary.py   where the program is
wire.py     messages with file descriptors
launch.py   start a hub, and get shims from it
line.py     the owner's hubs, for as long as it lives
watcher.py  the one thread of an owner that waits for word
"""
