"""The connection to AWS, and its errors in our words."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from tether.drivers.cloud.provider import Order, Refused, Unclear
from tether.errors import DriverUnavailable, SpecError, require_extra

__all__ = ["OWNER", "RESOURCE", "Clients", "asking", "marks", "tagged", "tags", "tags_of"]

RESOURCE = "tether:resource"
"""The tag of tether on whatever it makes: the resource's id."""

OWNER = "tether:owner"
"""The tag with the owner's id."""

_CONNECT_S = 5
_READ_S = 15
_ATTEMPTS = 2
# Said before anything was done, and said again a moment later it may be otherwise.
_BUSY = ("RequestLimitExceeded", "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException")
# The same request, still being carried out.
_UNCLEAR = ("ConcurrentIdempotentRequest", "IdempotentRequestInProgress", "RequestTimeout", "RequestTimeoutException")


class Clients:
    """Clients of one account and region, each made when it is first used.

    Args:
        where: region, profile and address, as recorded.
    """

    def __init__(self, where: Mapping[str, Any]) -> None:
        self.where = where
        self._lock = threading.RLock()
        self._made: dict[str, Any] = {}

    @cached_property
    def _session(self) -> Any:
        require_extra("boto3", "aws", "a machine at aws")
        import boto3
        from botocore.exceptions import BotoCoreError

        try:
            return boto3.Session(profile_name=self.where.get("profile"), region_name=self.where.get("region"))
        except BotoCoreError as error:
            raise DriverUnavailable(f"aws: {error}") from error

    @property
    def region(self) -> str:
        """The region in use. Raises SpecError if none was said anywhere."""
        region = self.where.get("region") or self._session.region_name
        if not region:
            raise SpecError("no region of aws is known: give region=, set AWS_REGION, or run 'aws configure'")
        return str(region)

    def _client(self, service: str) -> Any:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        # Sessions are not for several threads, clients are.
        with self._lock:
            if service not in self._made:
                config = Config(
                    connect_timeout=_CONNECT_S,
                    read_timeout=_READ_S,
                    retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
                )
                try:
                    self._made[service] = self._session.client(
                        service, region_name=self.region, endpoint_url=self.where.get("endpoint"), config=config
                    )
                except (BotoCoreError, ValueError) as error:
                    raise DriverUnavailable(f"aws: {error}") from error
            return self._made[service]

    @property
    def ec2(self) -> Any:
        """EC2."""
        return self._client("ec2")

    @property
    def ssm(self) -> Any:
        """Systems Manager, which knows the newest images."""
        return self._client("ssm")

    @property
    def scheduler(self) -> Any:
        """EventBridge Scheduler."""
        return self._client("scheduler")

    @property
    def ecs(self) -> Any:
        """The Elastic Container Service."""
        return self._client("ecs")

    @property
    def functions(self) -> Any:
        """Lambda."""
        return self._client("lambda")

    @property
    def iam(self) -> Any:
        """Identity and Access Management."""
        return self._client("iam")

    @property
    def logs(self) -> Any:
        """CloudWatch Logs."""
        return self._client("logs")


@contextmanager
def asking(*, creating: bool = False, absent: tuple[str, ...] = ()) -> Iterator[None]:
    """Turn what the client raises into our errors.

    Args:
        creating: whether no answer means that something may have been created.
        absent: codes that say that there is no such thing: the block then ends without an error.

    Raises:
        Refused: AWS said no.
        Unclear: with ``creating``: it may have been done.
        DriverUnavailable: it does not answer, or is busy.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in absent:
            return
        said = f"aws refused: {error}"
        if code in _UNCLEAR or status >= 500 or status == 0:
            raise (Unclear if creating else DriverUnavailable)(f"aws failed: {error}") from error
        if code in _BUSY:
            raise (Unclear if creating else DriverUnavailable)(f"aws is busy: {error}") from error
        raise Refused(said) from error
    except NoCredentialsError as error:
        raise Refused("aws: there are no credentials here; run 'aws configure', or set AWS_PROFILE") from error
    except ParamValidationError as error:
        # Refused by the client, before anything was sent.
        raise Refused(f"aws can't be asked for that: {error}") from error
    except BotoCoreError as error:
        raise (Unclear if creating else DriverUnavailable)(f"aws does not answer: {error}") from error


def marks(tag: str, owner: str, name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that go on everything that is made for a resource; the user's own are among them."""
    ours = {RESOURCE: tag, OWNER: owner, "Name": f"tether {name}"}
    return {key: value for key, value in {**labels, **ours}.items() if value}


def tags(order: Order) -> list[dict[str, str]]:
    """Return the tags that go on everything that is made for an order."""
    found = marks(order.tag, order.owner, order.spec.name or order.spec.default_name, order.spec.labels)
    return [{"Key": key, "Value": value} for key, value in found.items()]


def tagged(order: Order, *kinds: str) -> list[dict[str, Any]]:
    """Return the tags as a request takes them, for kinds of things that it creates."""
    return [{"ResourceType": kind, "Tags": tags(order)} for kind in kinds]


def tags_of(shown: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of something that was described."""
    return {tag["Key"]: tag["Value"] for tag in shown.get("Tags", ())}
