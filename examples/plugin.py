"""A plugin written with tether, in an app that registers it.

python examples/plugin.py
"""

from __future__ import annotations

import json
import sys

from tether import ManagedPlugin, Owner, Process, http


class FileServer(ManagedPlugin):
    """Serves a folder over HTTP, in a process of its own."""

    def open(self, folder: str) -> str:
        """Start the server and return its address."""
        argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", folder, "{port}"]
        server = self.start(Process(argv, name="files", ready=http("/")))
        return server.url or ""


def main() -> None:
    """Register the plugin, use it, and leave: nothing of it stays."""
    with Owner("example") as owner:
        plugin = FileServer()
        owner.register(plugin)
        print("serving at", plugin.open("."))
        print(json.dumps(plugin.get_managed_resources(), indent=2))
    print("after the end it holds:", plugin.get_child_pids())


if __name__ == "__main__":
    main()
