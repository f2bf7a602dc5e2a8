"""The connection to Google Compute Engine: whose project, who asks, and operations that take their time."""

from __future__ import annotations

import configparser
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from tether.drivers.cloud.provider import Refused, Unclear
from tether.drivers.cloud.providers.rest import Interface
from tether.errors import DriverUnavailable, require_extra

if TYPE_CHECKING:
    import httpx

__all__ = ["Google", "configured", "project_of_key", "request_id"]

_SCOPE = "https://www.googleapis.com/auth/compute"
_BUSY = ("rateLimitExceeded", "userRateLimitExceeded")
_TOKEN_S = 20.0
_OPERATION_S = 300.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_REQUESTS = uuid.UUID("5d0c6c1e-8a0e-4f0b-9c53-2f6f5f1f7f0a")


def request_id(*names: str) -> str:
    """Return the UUID by which Google knows a request again: made of the proof, which has the tag and is new for each attempt."""
    return str(uuid.uuid5(_REQUESTS, "/".join(names)))


def configured(section: str, key: str, *variables: str) -> str | None:
    """Return what the environment says, else the configuration of gcloud that is active; None if neither does.

    Source: gcloud topic configurations.
    """
    said = next((value for name in variables if (value := os.environ.get(name))), None)
    if said is not None:
        return said
    folder = Path(os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config/gcloud")
    name = os.environ.get("CLOUDSDK_ACTIVE_CONFIG_NAME") or _text(folder / "active_config").strip() or "default"
    parser = configparser.ConfigParser(interpolation=None)
    # What can't be read says nothing; whoever needs it is told what is missing.
    with suppress(configparser.Error):
        parser.read_string(_text(folder / "configurations" / f"config_{name}"))
    return parser.get(section, key, fallback=None)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def project_of_key() -> str | None:
    """Return the project of the service account whose key file is in use."""
    with suppress(ValueError, AttributeError):
        found = json.loads(_text(Path(os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")))).get("project_id")
        return None if found is None else str(found)
    return None


class Google(Interface):
    """One project at Google. Credentials are the application's default ones, found as all of Google's libraries do.

    Args:
        base: the address of the interface.
        project: its id.
    """

    extra: ClassVar[str] = "gcp"

    def __init__(self, base: str, project: str) -> None:
        super().__init__("gcp", f"{base.rstrip('/')}/projects/{project}")
        self._credentials: Any = None

    def _token(self) -> str:
        for module in ("google", "google.auth", "requests"):
            require_extra(module, "gcp", "a machine at gcp")
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
        from google.auth.transport.requests import Request

        try:
            if self._credentials is None:
                self._credentials = google.auth.default(scopes=[_SCOPE])[0]
            if not self._credentials.valid:
                # Others of this process wait meanwhile, and so does an end.
                self._credentials.refresh(partial(Request(), timeout=_TOKEN_S))
        except DefaultCredentialsError as error:
            how = "run 'gcloud auth application-default login', or set GOOGLE_APPLICATION_CREDENTIALS"
            raise Refused(f"gcp: there are no credentials here; {how}") from error
        except GoogleAuthError as error:
            raise Refused(f"gcp does not say who asks, so nothing was asked for: {error}") from error
        return str(self._credentials.token)

    def _is_busy(self, answer: httpx.Response) -> bool:
        # Both by its number and by the number's reason. Source: Compute Engine, "Rate quotas".
        return answer.status_code == 429 or (answer.status_code == 403 and any(each in answer.text for each in _BUSY))

    def every(self, path: str, query: str = "") -> Iterator[dict[str, Any]]:
        """Yield what a list has, page by page. Raises DriverUnavailable."""
        page = ""
        while True:
            shown = self.ask("GET", f"{path}?filter={quote(query)}&pageToken={quote(page)}") or {}
            yield from shown.get("items", ())
            page = shown.get("nextPageToken", "")
            if not page:
                return

    def done(self, scope: str, operation: Any) -> dict[str, Any]:
        """Return an operation once it is done.

        Args:
            scope: where operations are asked for: a zone, or "global".
            operation: as the request that began it was answered.

        Raises:
            Refused: it failed, by Google's own word.
            Unclear: what came of it is not known, or not yet.
        """
        deadline, pause = time.monotonic() + _OPERATION_S, _FIRST_PAUSE_S
        try:
            while operation["status"] != "DONE":
                if time.monotonic() > deadline:
                    raise Unclear(f"gcp: operation {operation['name']} has not ended after {_OPERATION_S:g} s")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                operation = self.ask("GET", f"/{scope}/operations/{operation['name']}")
        except DriverUnavailable as error:
            raise Unclear(str(error)) from error
        except (TypeError, KeyError) as error:
            raise Unclear(f"gcp shows no operation: {operation}") from error
        failed = _errors(operation)
        if failed:
            raise Refused(f"gcp refused: {failed}")
        found: dict[str, Any] = operation
        return found


def _errors(operation: Mapping[str, Any]) -> str:
    errors = (operation.get("error") or {}).get("errors", ())
    return "; ".join(f"{each.get('code', '')} {each.get('message', '')}".strip() for each in errors)
