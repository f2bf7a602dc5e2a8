"""A pod that ends with its owner, in the cluster that kubectl uses.

python examples/kubernetes.py [IMAGE]

The image needs `sh` and busybox's `httpd`; by default it is busybox.
"""

from __future__ import annotations

import sys
from urllib.request import urlopen

from tether import Owner, Pod, http

SERVE = "mkdir /tmp/w; echo hello from the pod > /tmp/w/index.html; httpd -f -p {port} -h /tmp/w"


def main() -> None:
    """Start a web server in a pod, use it through a forwarded port, and leave: nothing of it stays."""
    image = sys.argv[1] if len(sys.argv) > 1 else "busybox"
    with Owner("example") as owner:
        web = owner.start(
            Pod(
                image,
                ["sh", "-c", SERVE],
                name="web",
                env={"TOKEN": "stands in a Secret only"},
                max_lifetime=600,
                stop_grace=1,
                ready=http("/index.html"),
            ),
            on_progress=print,
        )
        print("serving at", web.url, "in pod", web.details["pod"], "on node", web.details["node"])
        with urlopen(f"{web.url}/index.html") as answer:
            print("it says:", answer.read().decode().strip())
        print("should this machine die:", web.details["lease"], "-", web.details["fuse"])
    print("after the end:", web.state.value)


if __name__ == "__main__":
    main()
