"""Functions of AWS Lambda. A name is there once: created again it is refused, and its tags say whether it is the same one.

Role, log group and address are on record by themselves. The address, and the leave to use it, belong to the function.

Source: the AWS Lambda API reference, CreateFunction, CreateFunctionUrlConfig, AddPermission and "Lambda function states".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from tether.drivers.cloud.provider import Part, Phase, Refused, Seen, Tested, Unclear
from tether.drivers.cloud.providers.aws_client import RESOURCE, Clients, asking
from tether.drivers.serverless import output, roles
from tether.drivers.serverless.package import packed
from tether.drivers.serverless.service import Wanted
from tether.drivers.serverless.spec import CloudFunction
from tether.drivers.serverless.where import PROOF, account, marks_of, name_of
from tether.errors import DriverUnavailable

__all__ = ["Functions"]

_PHASES: dict[str, Phase] = {
    "Pending": "pending",
    "Active": "running",
    # Not called for long: the next call waits a moment.
    "Inactive": "running",
    "Failed": "stopped",
    "Deleting": "ending",
}
_MIB = 1 << 20
_LEAVES: dict[str, dict[str, Any]] = {
    "url": {"Action": "lambda:InvokeFunctionUrl", "FunctionUrlAuthType": "NONE"},
    "call": {"Action": "lambda:InvokeFunction", "InvokedViaFunctionUrl": True},
}


class Functions:
    """See `tether.drivers.serverless.service.Service`. Credentials are found as boto3 does."""

    idempotent: ClassVar[bool] = True
    lag_s: ClassVar[float] = 15.0
    tested: ClassVar[Tested] = "run against a stand-in with real processes"

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._clients = Clients(where)

    @classmethod
    def where(cls, spec: CloudFunction) -> dict[str, Any]:
        """Return how the account is reached."""
        return account(spec)

    # -- create --------------------------------------------------------------------------------------------------------

    def choose(self, spec: CloudFunction) -> dict[str, Any]:
        """Pack the code. Raises SpecError if it can't be."""
        with asking():
            # Whether it can be reached at all is better said before anything is made.
            self._clients.functions.list_functions(MaxItems=1)
        return {"code": {"ImageUri": spec.image} if spec.code is None else {"ZipFile": packed(spec.code)}}

    def create(self, wanted: Wanted, chosen: Mapping[str, Any]) -> Seen:
        """Create the function, and then its address. Raises Refused or Unclear."""
        request = self._request(wanted, chosen)
        roles.await_known(lambda: self._ask(request))
        try:
            return self._finished(wanted)
        except Refused as error:
            # A refusal of what comes after it is none of the function, which may be there.
            raise DriverUnavailable(str(error)) from error
        except DriverUnavailable as error:
            raise Unclear(str(error)) from error

    def _ask(self, request: Mapping[str, Any]) -> None:
        with asking(creating=True, absent=("ResourceConflictException",)):
            self._clients.functions.create_function(**request)

    def _finished(self, wanted: Wanted) -> Seen:
        """Look whether the function is the one that was asked for, and give it its address."""
        name, how = name_of(wanted.tag), wanted.spec.url
        seen = self._one(name)
        if seen is None:
            raise DriverUnavailable(f"aws does not show the function {name} that it has created")
        if (seen.tag, seen.proof) != (wanted.tag, wanted.proof):
            raise Refused(f"aws has a function {name} that was not made by this; remove it")
        if how is None:
            return seen
        with asking(absent=("ResourceConflictException",)):
            auth = "NONE" if how == "public" else "AWS_IAM"
            self._clients.functions.create_function_url_config(FunctionName=name, AuthType=auth)
        for statement, leave in _LEAVES.items() if how == "public" else ():
            self._allow(name, statement, leave)
        return self._one(name) or seen

    def _request(self, wanted: Wanted, chosen: Mapping[str, Any]) -> dict[str, Any]:
        spec, name = wanted.spec, name_of(wanted.tag)
        request: dict[str, Any] = {
            "FunctionName": name,
            "Role": spec.role or roles.arn(self._clients.iam, wanted.tag),
            "Code": chosen["code"],
            "Timeout": spec.timeout,
            "MemorySize": max(128, spec.memory_bytes // _MIB),
            "Environment": {"Variables": dict(spec.env)},
            "LoggingConfig": {"LogGroup": _group(wanted.tag)},
            "Tags": {**marks_of(wanted), PROOF: wanted.proof},
            "PackageType": "Image" if spec.code is None else "Zip",
        }
        if spec.code is not None:
            request |= {"Runtime": spec.runtime, "Handler": spec.handler}
        return request

    def _allow(self, name: str, statement: str, leave: Mapping[str, Any]) -> None:
        """Give everybody leave to call it. Botocore before 1.40 does not know of the second, and AWS asked for none then."""
        functions = self._clients.functions
        known = functions.meta.service_model.operation_model("AddPermission").input_shape.members
        if set(leave) <= set(known):
            with asking(absent=("ResourceConflictException",)):
                functions.add_permission(FunctionName=name, StatementId=f"tether-{statement}", Principal="*", **leave)

    # -- look and end --------------------------------------------------------------------------------------------------

    def listed(self, tag: str) -> list[Seen]:
        """Return the function of a resource by its name, which only tether can have made, if it has the tag."""
        seen = self._one(name_of(tag))
        return [seen] if seen is not None and seen.tag == tag else []

    def look(self, ids: Sequence[str]) -> dict[str, Seen]:
        """Return functions by name."""
        return {seen.id: seen for seen in map(self._one, ids) if seen is not None}

    def terminate(self, machine: str) -> None:
        """Delete a function, and with it its address."""
        with asking(absent=("ResourceNotFoundException",)):
            self._clients.functions.delete_function(FunctionName=machine)

    def _one(self, name: str) -> Seen | None:
        with asking(absent=("ResourceNotFoundException",)):
            shown = self._clients.functions.get_function(FunctionName=name)
            tags, config = shown.get("Tags", {}), shown["Configuration"]
            word = config.get("State", "Active")
            url = self._url(name)
            return Seen(
                name,
                _PHASES.get(word, "pending"),
                word,
                config.get("StateReason", ""),
                tags.get(RESOURCE),
                tags.get(PROOF),
                address=urlsplit(url).hostname if url else None,
                url=url,
            )
        return None

    def _url(self, name: str) -> str | None:
        with asking(absent=("ResourceNotFoundException",)):
            return str(self._clients.functions.get_function_url_config(FunctionName=name)["FunctionUrl"])
        return None

    # -- parts ---------------------------------------------------------------------------------------------------------

    def planned(self, spec: CloudFunction, tag: str) -> list[Part]:
        """See `Service`: the role, the log group, and the address."""
        role = [Part("role", name_of(tag))] if spec.role is None else []
        url = [Part("address", name_of(tag))] if spec.url is not None else []
        return [*role, Part("log group", _group(tag)), *url]

    def make(self, part: Part, wanted: Wanted) -> None:
        """See `Service`. The address is made when there is a function."""
        if part.what == "log group":
            output.make(self._clients.logs, part.name, wanted)
        elif part.what == "role":
            may = [output.may_write(_group(wanted.tag))]
            roles.make(self._clients.iam, wanted, "lambda.amazonaws.com", may)

    def parts(self, tag: str, planned: Sequence[Part]) -> list[Part]:
        """See `Service`. An address without its function can't be."""
        there = {
            "role": lambda: roles.is_there(self._clients.iam, tag),
            "log group": lambda: output.is_there(self._clients.logs, _group(tag), tag),
            "address": lambda: bool(self.listed(tag)) and self._url(name_of(tag)) is not None,
        }
        return [part for part in reversed(planned) if there[part.what]()]

    def remove(self, part: Part) -> None:
        """See `Service`."""
        if part.what == "role":
            roles.remove(self._clients.iam, part.name)
        elif part.what == "log group":
            output.remove(self._clients.logs, part.name)
        else:
            with asking(absent=("ResourceNotFoundException",)):
                self._clients.functions.delete_function_url_config(FunctionName=part.name)

    # -- what it says --------------------------------------------------------------------------------------------------

    def output(self, tag: str) -> bytes:
        """See `Service`."""
        return output.read(self._clients.logs, _group(tag))

    def details(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """See `Service`."""
        return {"function": data.get("id")}


def _group(tag: str) -> str:
    return f"/aws/lambda/{name_of(tag)}"
