"""A container that ends with its owner, at the engine in use here.

python examples/container.py

The image is made of busybox, without a registry, if the engine has it not.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.request import urlopen

import docker

from tether import Container, Owner, http

IMAGE = "tether-example"


def make_image() -> None:
    """Import a folder with nothing but busybox as an image."""
    busybox = shutil.which("busybox")
    if busybox is None:
        sys.exit("this example makes an image of busybox: apt install busybox-static")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bin").mkdir()
        shutil.copy(busybox, f"{folder}/bin/busybox")
        subprocess.run(["tar", "-C", folder, "-cf", f"{folder}.tar", "."], check=True)
        client = docker.from_env()
        client.api.import_image_from_file(f"{folder}.tar", repository=IMAGE, tag="latest")
        client.close()
        Path(f"{folder}.tar").unlink()


def main() -> None:
    """Start a web server in a container, use it, and leave: nothing of it stays."""
    make_image()
    command = ["/bin/busybox", "httpd", "-f", "-p", "{port}", "-h", "/bin"]
    with Owner("example") as owner:
        web = owner.start(
            Container(IMAGE, command, name="web", network="own", init=True, ready=http("/busybox")), on_progress=print
        )
        print("serving at", web.url, "in container", web.details["container_id"][:12])
        with urlopen(f"{web.url}/busybox") as answer:
            print("served", len(answer.read()), "bytes")
    print("after the end:", web.state.value)


if __name__ == "__main__":
    main()
