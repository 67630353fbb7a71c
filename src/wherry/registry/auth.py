"""How a client says who it is: RFC 7617 (Basic), RFC 6750 (Bearer) with the tokens of
distribution/docs/spec/auth/token.md and oauth.md."""

from __future__ import annotations

import asyncio
import base64
import re
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from wherry.errors import Error, FailedPrecondition, PermissionDenied, Unauthenticated
from wherry.oci import json_text
from wherry.registry.failures import excerpt
from wherry.registry.options import AskCredentials, Credentials, CredentialsKind
from wherry.registry.request import Document, Request, joined

_CLIENT_ID = "wherry"
#: What the specification says where a token server does not.
_LIFETIME = 60.0
_MAX_LIFETIME = 24 * 3600.0
#: A token is not used in the last tenth of its life.
_USED_LIFE = 0.9
_MAX_TOKEN = 1 << 20
#: Servers without OAuth, or without the older way, answer so.
_OTHER_WAY = frozenset((400, 401, 404, 405))
_PARAMETER = re.compile(r'\s*([A-Za-z0-9_*-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]*)\s*(?:,|$)')
_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9_-]*)(?:\s+|$|(?=,))(?!\s*=)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in which a server would be told who asks."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, name: str) -> str:
        return dict(self.parameters).get(name, "")


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    #: By the monotonic clock.
    until: float


def challenges(headers: Sequence[str]) -> list[Challenge]:
    """Return the challenges of WWW-Authenticate headers (RFC 9110, 11.6.1); what is none is passed over."""
    found = []
    for each in headers:
        # What was no UTF-8 could not be sent on.
        header, at = each.encode(errors="replace").decode(), 0
        while match := _SCHEME.match(header, at):
            at = match.end()
            parameters = []
            while parameter := _PARAMETER.match(header, at):
                value = parameter[2]
                if value.startswith('"'):
                    value = re.sub(r"\\(.)", r"\1", value[1:-1])
                parameters.append((parameter[1].lower(), value))
                at = parameter.end()
            found.append(Challenge(match[1].lower(), tuple(parameters)))
    return found


def merged_scopes(*scopes: str) -> list[str]:
    """Return scopes with the actions of each resource united: "repository:a:pull,push"."""
    actions: dict[str, set[str]] = {}
    for scope in " ".join(scopes).split():
        resource, _, wanted = scope.rpartition(":")
        actions.setdefault(resource, set()).update(wanted.split(","))
    return [f"{resource}:{','.join(sorted(wanted))}" for resource, wanted in sorted(actions.items())]


class Authorizer:
    """Who a client is to each host, and the tokens that it has been given."""

    def __init__(
        self, exchange: Callable[[Request, int], Awaitable[Document]], ask: AskCredentials | None = None
    ) -> None:
        self._exchange = exchange
        self._ask = ask
        #: What each origin asks for.
        self._challenges: dict[str, Challenge] = {}
        #: The same as it was said, for whoever is asked for credentials.
        self._said: dict[str, Sequence[str]] = {}
        #: By origin and repository.
        self._credentials: dict[tuple[str, str], Credentials] = {}
        self._tokens: dict[tuple[str, str, str], _Token] = {}
        self._locks: dict[tuple[str, ...], asyncio.Lock] = {}

    async def authorization(self, request: Request, server: str) -> str:
        """Return the Authorization header for a request to an origin, "" while nothing was asked for."""
        challenge = self._challenges.get(server)
        if challenge is None:
            return ""
        return await self._authorization(request, server, challenge, "")

    async def answer(self, request: Request, server: str, headers: Sequence[str], used: str, refusal: Error) -> str:
        """Return the Authorization header that answers a 401, another one than was used.

        Unauthenticated or PermissionDenied, saying what to do, if there is none.
        """
        offered = challenges(headers)
        found = next((each for name in ("bearer", "basic") for each in offered if each.scheme == name), None)
        if found is None:
            if used or not offered:
                raise self.refused(request, server, headers, refusal)
            names = ", ".join(sorted({excerpt(each.scheme) for each in offered}))
            raise Unauthenticated(f"{request.about}: {request.host.address} wants {names}; Basic and Bearer are known")
        # The scope is of this request, not of the origin.
        self._challenges[server] = Challenge(
            found.scheme, tuple(each for each in found.parameters if each[0] in ("realm", "service"))
        )
        self._said[server] = list(headers)
        header = await self._authorization(request, server, found, used)
        if not header or header == used:
            raise self.refused(request, server, headers, refusal)
        return header

    def refused(self, request: Request, server: str, headers: Sequence[str], refusal: Error) -> Error:
        """Return the error for who is not let in."""
        credentials = self._credentials.get((server, _repository(request)), Credentials())
        words = refusal.message.removesuffix(f": {refusal.kind}")
        if not credentials.secret:
            host = request.reference.partition("/")[0] if not request.host.mirrored else request.host.address
            return Unauthenticated(f"{words}: it may not exist, or need credentials: `wherry login {host}`")
        who = f' as "{credentials.username}"' if credentials.username else ""
        if any(each["error"] == "insufficient_scope" for each in challenges(headers)):
            return PermissionDenied(f"{words}: not allowed{who}")
        return Unauthenticated(f"{words}: the credentials{who} were refused: `wherry login` makes new ones")

    async def _authorization(self, request: Request, server: str, challenge: Challenge, used: str) -> str:
        credentials = await self._asked(request, server)
        if credentials.kind is CredentialsKind.HEADER and credentials.secret:
            return _header_text(credentials.secret, request)
        if challenge.scheme == "basic":
            if not credentials.secret:
                return ""
            return basic(credentials.username, credentials.secret)
        return f"Bearer {await self._token(request, server, challenge, credentials, used)}"

    async def _asked(self, request: Request, server: str) -> Credentials:
        key = (server, _repository(request))
        if self._ask is None:
            return Credentials()
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key not in self._credentials:
                found = await self._ask(request.host.address, request.reference, self._said[server])
                self._credentials[key] = found or Credentials()
        return self._credentials[key]

    async def _token(
        self, request: Request, server: str, challenge: Challenge, credentials: Credentials, used: str
    ) -> str:
        """Return a token from the cache, or fetch one; whoever wants the same meanwhile waits for it."""
        scopes = merged_scopes(*request.scopes, challenge["scope"])
        # The repository stands for whose credentials are shown.
        key = (server, _repository(request), " ".join(scopes))
        async with self._locks.setdefault(key, asyncio.Lock()):
            token = self._tokens.get(key)
            if token is None or token.until < time.monotonic() or used == f"Bearer {token.value}":
                self._tokens.pop(key, None)
                token = await self._fetch(request, server, challenge, credentials, scopes)
                self._tokens[key] = token
        # Without the scope that the server named, so that the next request finds it.
        self._tokens[(server, _repository(request), " ".join(merged_scopes(*request.scopes)))] = token
        return token.value

    async def _fetch(
        self, request: Request, server: str, challenge: Challenge, credentials: Credentials, scopes: list[str]
    ) -> _Token:
        realm = challenge["realm"]
        parts = urllib.parse.urlsplit(joined(realm, "", f"{request.about}: {request.host.address}: token"))
        about = f"{request.about}: token of {excerpt(parts.netloc)}"
        if server.startswith("https:") and parts.scheme == "http" and credentials.secret:
            raise FailedPrecondition(f"{about}: credentials are not sent to it, since it is not encrypted")
        asked = Request(
            about=about,
            method="GET",
            host=request.host,
            url=realm,
            confidential=bool(credentials.secret),
            accepted=frozenset((200, *_OTHER_WAY)) if credentials.secret else frozenset((200,)),
        )
        if credentials.kind is CredentialsKind.REFRESH and credentials.secret:
            answer = await self._posted(asked, challenge["service"], credentials, scopes)
        else:
            answer = await self._got(asked, challenge["service"], credentials, scopes)
            if answer.status in (404, 405):
                answer = await self._posted(asked, challenge["service"], credentials, scopes)
        if answer.status != 200:
            who = f' as "{credentials.username}"' if credentials.username else ""
            raise Unauthenticated(
                f"{about} answered {answer.status}: the credentials{who} were refused: `wherry login` makes new ones"
            )
        return _token(answer, about)

    async def _got(self, asked: Request, service: str, credentials: Credentials, scopes: list[str]) -> Document:
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        headers = {}
        if credentials.secret:
            query.insert(0, ("account", credentials.username))
            headers["Authorization"] = basic(credentials.username, credentials.secret)
        url = f"{asked.url}{'&' if '?' in asked.url else '?'}{urllib.parse.urlencode(query)}" if query else asked.url
        return await self._exchange(replace(asked, url=url, headers=headers), _MAX_TOKEN)

    async def _posted(self, asked: Request, service: str, credentials: Credentials, scopes: list[str]) -> Document:
        form = {"client_id": _CLIENT_ID, "service": service, "scope": " ".join(scopes)}
        if credentials.kind is CredentialsKind.REFRESH:
            form |= {"grant_type": "refresh_token", "refresh_token": credentials.secret}
        else:
            form |= {"grant_type": "password", "username": credentials.username, "password": credentials.secret}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urllib.parse.urlencode(form).encode()
        return await self._exchange(replace(asked, method="POST", headers=headers, body=body), _MAX_TOKEN)


def _repository(request: Request) -> str:
    path, _, name = request.reference.partition("@")[0].rpartition("/")
    return f"{path}/{name.partition(':')[0]}"


def basic(username: str, password: str) -> str:
    """Return a header of the scheme Basic."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _header_text(text: str, request: Request) -> str:
    if not text.isprintable() or not text.isascii():
        raise FailedPrecondition(f"{request.about}: the credentials for {request.host.address} are no HTTP header")
    return text


def _token(answer: Document, about: str) -> _Token:
    """Read a token server's answer."""
    try:
        value = json_text.loads(answer.body)
    except (ValueError, RecursionError):
        raise FailedPrecondition(f"{about}: not JSON: {excerpt(answer.body)}") from None
    fields = value if isinstance(value, dict) else {}
    text = fields.get("token") or fields.get("access_token")
    if not isinstance(text, str) or not text.isascii() or not text.isprintable() or " " in text:
        raise FailedPrecondition(f"{about}: there is no token in its answer")
    lifetime = fields.get("expires_in")
    if not isinstance(lifetime, (int, float)) or not lifetime >= _LIFETIME:
        lifetime = _LIFETIME
    return _Token(text, time.monotonic() + min(lifetime, _MAX_LIFETIME) * _USED_LIFE)
