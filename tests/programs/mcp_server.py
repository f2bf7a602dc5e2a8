"""A server for the MCP python-sdk's clients: mcp_server.py FOLDER [helpers] [deaf]

With "helpers" it starts escape.py, whose descendants try to outlive it; "deaf", it hears neither signals nor that its client has gone. Its tool
says its pid. Whatever it is, it ends after 90 seconds.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from mcp.server.mcpserver import MCPServer

server = MCPServer("test")
folder, *how = sys.argv[1:]


@server.tool()
def pid() -> int:
    return os.getpid()


def end_late():
    time.sleep(90)
    os._exit(1)


threading.Thread(target=end_late, daemon=True).start()
if "deaf" in how:
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(each, signal.SIG_IGN)
if "helpers" in how:
    subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("escape.py")), folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
try:
    server.run()
finally:
    while "deaf" in how:
        time.sleep(10)
