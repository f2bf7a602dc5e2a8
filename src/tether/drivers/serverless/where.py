"""How an account of AWS is reached, and what goes on all that is made there for one resource."""

from __future__ import annotations

import os
from typing import Any

from tether.drivers.cloud.providers.aws_client import RESOURCE, Clients, marks
from tether.drivers.serverless.service import Wanted

__all__ = ["PROOF", "account", "is_marked", "marks_of", "name_of"]

PROOF = "tether:proof"
"""The tag with what is new for each attempt, where the service keeps no idempotency token that can be read."""


def account(spec: Any) -> dict[str, Any]:
    """Return region, profile and address as they are in use now: a sweep may have another environment."""
    where = {
        "region": spec.region,
        "profile": spec.profile or os.environ.get("AWS_PROFILE"),
        "endpoint": spec.endpoint or os.environ.get("AWS_ENDPOINT_URL"),
    }
    return where if spec.region is not None else {**where, "region": Clients(where).region}


def name_of(tag: str) -> str:
    """Return the name of what is made for a resource: of tether's own making, and on record before it is made."""
    return f"tether-{tag}"


def marks_of(wanted: Wanted) -> dict[str, str]:
    """Return the tags that go on everything that is made for it."""
    spec = wanted.spec
    return marks(wanted.tag, wanted.owner, spec.name or spec.default_name, spec.labels)


def is_marked(tags: dict[str, str], tag: str) -> bool:
    """Whether something with such tags was made for the resource with a tag."""
    return tags.get(RESOURCE) == tag
