"""Whether a registry takes somebody's password: distribution specification, and Docker's token authentication."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode

from wherry.errors import InvalidArgument, PermissionDenied, Unauthenticated, Unavailable
from wherry.registry.docker_config import HUB, key_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.registry.options import Credentials

_HUB_HOST = "registry-1.docker.io"
_TIMEOUT = 30.0
_MAX_ANSWER = 1 << 20
_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


def check(host: str, credentials: Credentials, *, plain_http: bool = False) -> None:
    """Return if a registry takes the credentials, or wants none. `host` is "" for Docker Hub.

    Unauthenticated if it does not take them, Unavailable if it cannot be asked, InvalidArgument if it is no registry.
    """
    name = _HUB_HOST if key_of(host or "docker.io") == HUB else host
    scheme = "http" if plain_http or _is_here(name) else "https"
    address = f"{scheme}://{name}/v2/"
    status, challenges, _ = _get(address, "")
    if status == 200:
        return
    if status != 401:
        raise InvalidArgument(f"{address} answers {status}, as no registry does")
    schemes = {challenge.partition(" ")[0].lower(): challenge for challenge in challenges}
    if "bearer" in schemes:
        authorization = "Bearer " + _token(schemes["bearer"], credentials, scheme)
    elif "basic" in schemes:
        authorization = _basic(credentials)
    else:
        raise Unavailable(f"{address} asks for {', '.join(schemes) or 'nothing'}, and Basic or Bearer are known here")
    status, _, said = _get(address, authorization)
    if status in (401, 403):
        raise Unauthenticated(f"the registry does not take the user name and password{_reason(said)}")
    if status != 200:
        raise Unavailable(f"{address} answers {status} to the password{_reason(said)}")


def _token(challenge: str, credentials: Credentials, scheme: str) -> str:
    """Return a token for nothing in particular, in exchange for the password."""
    values = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(challenge)}
    realm = values.get("realm", "")
    if not realm.startswith(("https://", "http://")):
        raise InvalidArgument(f"the registry names no token server: {challenge!r}")
    if scheme == "https" and realm.startswith("http://"):
        raise PermissionDenied(f"the token server {realm} would get the password unencrypted")
    query = {"account": credentials.username, "client_id": "wherry"}
    if values.get("service"):
        query["service"] = values["service"]
    address = f"{realm}{'&' if '?' in realm else '?'}{urllib.parse.urlencode(query)}"
    status, _, said = _get(address, _basic(credentials))
    if status in (400, 401, 403):
        raise Unauthenticated(f"the token server does not take the user name and password{_reason(said)}")
    try:
        answer = json.loads(said) if status == 200 else {}
        token = answer.get("token") or answer.get("access_token")
    except (ValueError, AttributeError):
        token = None
    if not isinstance(token, str):
        raise Unavailable(f"the token server {realm} answers {status} and gives no token")
    return token


def _basic(credentials: Credentials) -> str:
    return "Basic " + b64encode(f"{credentials.username}:{credentials.secret}".encode()).decode()


def _is_here(host: str) -> bool:
    """Tell whether a host is this machine: registries here mostly speak HTTP."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    return name in ("localhost", "[::1]") or re.fullmatch(r"127\.\d+\.\d+\.\d+", name) is not None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A password goes where it was meant to go, and nowhere else."""

    def redirect_request(self, *_arguments: Any, **_keywords: Any) -> None:
        return None


def _get(address: str, authorization: str) -> tuple[int, list[str], bytes]:
    """Return the status, the challenges and the body of an answer."""
    request = urllib.request.Request(address, headers={"User-Agent": "wherry", "Accept": "application/json"})  # noqa: S310
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_TIMEOUT) as response:
            return response.status, [], response.read(_MAX_ANSWER)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get_all("WWW-Authenticate", []), error.read(_MAX_ANSWER)
    except urllib.error.URLError as error:
        raise Unavailable(f"{address}: {_words(error.reason)}") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{address}: {_words(error)}") from None


def _words(reason: object) -> str:
    return (getattr(reason, "strerror", None) or str(reason) or type(reason).__name__).lower()


def _reason(said: bytes) -> str:
    """Return what the registry says of it, if it says so as the distribution specification wants it."""
    try:
        first = json.loads(said)["errors"][0]
        return f": {first.get('message') or first['code']}"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ""
