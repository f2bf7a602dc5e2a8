"""The processes that guard an owner's trees, and the owner's line to them.

main.py     the reaper process: forks shims, takes over when a shim is killed, settles a dead owner's estate
shim.py     the shim process: the parent of one command and of everything below it
spawn.py    how a shim executes a command
ending.py   end every descendant, until the kernel says ECHILD
watch.py    what both wait for: the lifeline, the owner's pidfd, signals, sockets
wire.py     messages with file descriptors
launch.py   the owner's side: start a reaper, get shims from it
limits.py   every time limit of this package

main, shim, spawn, ending, watch and wire run under ``python -I -S`` and import only builtins, small modules of the
standard library and `tether.linux`; a test holds them to that.
"""
