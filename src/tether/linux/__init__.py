"""Questions to the Linux kernel, one a function. Nothing here knows what a resource is.

proc.py        what /proc says of one process, and of all
identity.py    who a pid is: boot id, pid and start time
signals.py     signal a process whose identity was verified
tree.py        who is below a pid
members.py     who belongs to a tree whose parent links are lost
cgroup.py      cgroup v2, where it is writable
sockets.py     who listens on a port
readable.py    wait until something can be read
inotify.py     hear of files that come, go or are written
shorten.py     take the head out of a file that others append to
tier.py        how much of this the kernel offers, and the setting that forces less
"""
