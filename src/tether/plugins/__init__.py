"""Ready-made plugins for the cases that users have. Each is lifecycle-aware, and configured by a dataclass.

server.py     ServerPlugin: any HTTP server; LlamaServer and VLLMServer are settings of it
container.py  ContainerPlugin
conda.py      CondaPlugin
kubernetes.py PodPlugin
service.py    ServicePlugin
remote.py     RemotePlugin
cloud.py      CloudPlugin
"""

from __future__ import annotations

from tether.plugins.cloud import CloudPlugin
from tether.plugins.conda import CondaPlugin
from tether.plugins.container import ContainerPlugin
from tether.plugins.kubernetes import PodPlugin
from tether.plugins.remote import RemotePlugin
from tether.plugins.server import HttpServer, LlamaServer, ServerPlugin, VLLMServer
from tether.plugins.service import ServicePlugin

__all__ = [
    "CloudPlugin",
    "CondaPlugin",
    "ContainerPlugin",
    "HttpServer",
    "LlamaServer",
    "PodPlugin",
    "RemotePlugin",
    "ServerPlugin",
    "ServicePlugin",
    "VLLMServer",
]
