"""What other frameworks load of tether; each module needs its framework, and is imported by that alone.

jupyter.py   a kernel provisioner: kernels whose helpers end with them, and all with the client
"""
