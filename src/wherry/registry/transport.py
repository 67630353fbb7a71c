"""Requests made over HTTP: tried again, redirected, authorized, and always ended.

Imports aiohttp, which takes a second on a cold disk: imported in a thread, when a client is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
from yarl import URL

from wherry import __version__
from wherry.errors import Error, FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from wherry.registry import failures, proxies
from wherry.registry.auth import Authorizer, basic
from wherry.registry.failures import Interrupted, Unreachable
from wherry.registry.hosts import Tls
from wherry.registry.options import Options
from wherry.registry.request import Document, Request, joined, origin, shown
from wherry.registry.tls import Contexts

#: Of what is read into memory; containerd's limit for manifests.
MAX_DOCUMENT = 8 << 20
#: Of an error's text.
_MAX_ERROR = 64 << 10
_MAX_REDIRECTS = 10
#: Addresses of uploads and of storage carry signed state: longer than aiohttp's 8 KiB.
_MAX_HEADER = 64 << 10
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_RETRIED = frozenset((408, 429, 500, 502, 503, 504))
#: For a server on this machine that may speak no TLS: one that waits for a line's end never answers it.
_PROBE_TIMEOUT = 5.0

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose body is still to be read."""

    response: aiohttp.ClientResponse
    #: Where it came from, after redirections.
    url: str

    @property
    def status(self) -> int:
        return self.response.status

    @staticmethod
    def failure(about: str, error: Exception) -> Error:
        """Return what an exception raised by reading the body means."""
        return _failure(about, error)


class _NoTls(Unreachable):
    """The other side did not take part in a TLS handshake."""


class Transport:
    """The connections of a client."""

    def __init__(self, options: Options) -> None:
        """Needs a running event loop."""
        self.options = options
        self._session = aiohttp.ClientSession(
            # How many are open at a time is for those to say who ask.
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Digests are of the bytes as they come; and trust_env would look for credentials in .netrc.
            auto_decompress=False,
            trust_env=False,
            read_bufsize=256 << 10,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
            headers={"User-Agent": f"wherry/{__version__}", "Accept-Encoding": "identity"},
        )
        self._contexts = Contexts()
        #: What hosts turned out to speak, by address.
        self._schemes: dict[str, str] = {}
        self._authorizer = Authorizer(self.exchange, options.credentials)

    async def close(self) -> None:
        """End all connections."""
        await self._session.close()

    async def exchange(self, request: Request, limit: int = MAX_DOCUMENT) -> Document:
        """Make a request and return the answer with its body, of at most `limit` bytes.

        Raises what the answer stands for unless its status is an accepted one; ResourceExhausted for a longer body;
        Unavailable if there is no answer after all tries.
        """

        async def read(answer: Answer) -> Document:
            try:
                body = await self._read(request, answer, limit)
                return Document(answer.status, answer.response.headers, body, answer.url)
            finally:
                answer.response.close()

        total = self.options.document_timeout if request.body is None or isinstance(request.body, bytes) else None
        try:
            async with asyncio.timeout(total):
                return await self._tried(request, read)
        except TimeoutError:
            raise Interrupted(f"{request.about}: {request.host.address} took longer than {total:g} s") from None

    @contextlib.asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Answer]:
        """Make a request and yield the answer, for its body to be read; ends it afterwards. Raises as exchange."""

        async def keep(answer: Answer) -> Answer:
            return answer

        answer = await self._tried(request, keep)
        try:
            yield answer
        finally:
            answer.response.close()

    def scheme(self, request: Request) -> str:
        """Return what the host of a request is addressed by, as far as it is known."""
        host = request.host
        return self._schemes.get(host.address, "https") if host.ambiguous else host.scheme

    async def pause(self, attempt: int, error: Error, asked: float | None = None) -> None:
        """Wait before the try after a failed one, as long as the server asked for; raises `error` if that is long."""
        if asked is None:
            backoff = self.options.retry_delay * 2 ** (attempt - 1)
            # Those who failed together do not come back together.
            asked = min(backoff, self.options.max_wait) * random.uniform(0.5, 1.5)  # noqa: S311
        elif asked > self.options.max_wait:
            raise type(error)(f"{error.message.removesuffix(f': {error.kind}')}: try again in {asked:.0f} s") from None
        self._debug(f"{error.message}; tried again in {asked:.1f} s")
        await asyncio.sleep(asked)

    def _debug(self, line: str) -> None:
        if self.options.on_debug is not None:
            self.options.on_debug(line)

    async def _tried(self, request: Request, consume: Callable[[Answer], Awaitable[_Result]]) -> _Result:
        for attempt in itertools.count(1):
            asked = None
            try:
                answer = await self._authorized(request)
                if answer.status in request.accepted:
                    return await consume(answer)
                error = await self._error(request, answer)
                if answer.status not in _RETRIED:
                    raise error
                asked = failures.retry_after(answer.response.headers.get("Retry-After"))
            except Unreachable as caught:
                if attempt >= request.connect_tries:
                    raise
                error = caught
            except Interrupted as caught:
                error = caught
            if attempt >= self.options.tries or not request.retried:
                raise error
            await self.pause(attempt, error, asked)
        raise AssertionError("the count of tries is endless")

    async def _error(self, request: Request, answer: Answer) -> Error:
        """Read what is wrong, and end the answer."""
        try:
            async with asyncio.timeout(self.options.stall_timeout):
                body = await self._read(request, answer, _MAX_ERROR, cut=True)
        except (Interrupted, TimeoutError):
            body = b""
        finally:
            answer.response.close()
        host = urllib.parse.urlsplit(answer.url).netloc
        return failures.of_answer(request.about, host, answer.status, answer.response.headers, body)

    async def _authorized(self, request: Request) -> Answer:
        while True:
            scheme = self.scheme(request)
            url = request.url or request.host.url(scheme, *request.path, query=request.query)
            owned = bool(request.reference) and origin(url) == origin(request.host.url(scheme))
            header = await self._authorizer.authorization(request, origin(url)) if owned else ""
            try:
                answer = await self._redirected(request, url, header, owned)
            except _NoTls:
                address = request.host.address
                if not request.host.ambiguous or address in self._schemes or request.url:
                    raise
                self._debug(f"{address} speaks no TLS: plain HTTP from now on")
                self._schemes[address] = "http"
                continue
            if request.host.ambiguous:
                self._schemes.setdefault(request.host.address, scheme)
            if answer.status != 401 or not owned or origin(answer.url) != origin(url):
                return answer
            challenges = answer.response.headers.getall("WWW-Authenticate", [])
            refusal = await self._error(request, answer)
            header = await self._authorizer.answer(request, origin(url), challenges, header, refusal)
            answer = await self._redirected(request, url, header, owned)
            if answer.status == 401 and origin(answer.url) == origin(url):
                challenges = answer.response.headers.getall("WWW-Authenticate", [])
                raise self._authorizer.refused(request, origin(url), challenges, await self._error(request, answer))
            return answer

    async def _redirected(self, request: Request, url: str, authorization: str, owned: bool) -> Answer:
        """Follow redirections: the credentials and headers of a host never leave it."""
        first = origin(url)
        method = request.method
        for _ in range(_MAX_REDIRECTS + 1):
            headers = dict(request.headers)
            if origin(url) == first:
                if owned:
                    headers.update(request.host.headers)
                if authorization:
                    headers["Authorization"] = authorization
            response = await self._sent(request, method, url, headers)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location or response.status in request.accepted:
                return Answer(response, url)
            response.close()
            target = joined(url, location, request.about)
            self._check_redirection(request, url, target, response.status)
            if response.status == 303 and method != "HEAD":
                method = "GET"
            url = target
        raise FailedPrecondition(f"{request.about}: {request.host.address}: more than {_MAX_REDIRECTS} redirections")

    @staticmethod
    def _check_redirection(request: Request, url: str, target: str, status: int) -> None:
        parts = urllib.parse.urlsplit(target)
        here, there = urllib.parse.urlsplit(url).netloc, failures.excerpt(shown(target))
        where = f"{request.about}: {here} redirects to {there}"
        if url.startswith("https:") and parts.scheme == "http" and not request.verified:
            raise FailedPrecondition(f"{where}, which is not encrypted")
        if request.method not in ("GET", "HEAD") and status not in (307, 308):
            raise FailedPrecondition(f"{where} with {status}, which a {request.method} cannot follow")
        if request.confidential and origin(target) != origin(url):
            raise FailedPrecondition(f"{where}, which credentials do not follow")

    async def _sent(self, request: Request, method: str, url: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """Make one HTTP request. Interrupted, Unreachable and _NoTls for the ways in which it may get no answer."""
        options = self.options
        host = request.host
        parts = urllib.parse.urlsplit(url)
        probing = host.ambiguous and parts.netloc == host.address and host.address not in self._schemes
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=min(host.dial_timeout, _PROBE_TIMEOUT) if probing else host.dial_timeout,
            sock_read=request.answer_timeout or options.stall_timeout,
        )
        proxy = host.proxy or proxies.proxy(url)
        arguments: dict[str, object] = {}
        if proxy:
            arguments["proxy"], authorization = _proxy(proxy)
            if authorization and parts.scheme == "http":
                headers["Proxy-Authorization"] = authorization
            elif authorization:
                arguments["proxy_headers"] = {"Proxy-Authorization": authorization}
        if parts.scheme == "https":
            tls = host.tls if parts.netloc == host.address else Tls(host.tls.skip_verify, host.tls.ca)
            arguments["ssl"] = await self._contexts.get(tls)
        upload = _Upload(request, options.stall_timeout, request.answer_timeout or options.stall_timeout)
        if upload.length is not None:
            headers["Content-Length"] = str(upload.length)
        about = f"{request.about}: {parts.netloc}"
        try:
            async with upload.limited():
                response = await self._session.request(
                    method,
                    URL(url, encoded=True),
                    headers=headers,
                    data=upload.data(),
                    allow_redirects=False,
                    timeout=timeout,
                    **arguments,  # type: ignore[arg-type]
                )
        except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError, ValueError) as error:
            if upload.failure is not None:
                raise upload.failure from None
            failure = _failure(about, error)
            self._debug(f"{method} {shown(url)}: {failure.message.removeprefix(f'{about}: ')}")
            raise failure from None
        content = response.headers.get("Content-Type", "")
        length = response.headers.get("Content-Length", "?")
        self._debug(f"{method} {shown(url)}: {response.status} {failures.excerpt(content)} {length} bytes")
        return response

    async def _read(self, request: Request, answer: Answer, limit: int, *, cut: bool = False) -> bytes:
        """Read a whole body. ResourceExhausted if it has more than `limit` bytes, unless it is to be cut there."""
        pieces, size = [], 0
        about = f"{request.about}: {urllib.parse.urlsplit(answer.url).netloc}"
        encoding = answer.response.headers.get("Content-Encoding", "identity")
        if encoding not in ("identity", "") and not cut:
            raise FailedPrecondition(f"{about} answers encoded as {failures.excerpt(encoding)}, unasked")
        try:
            while piece := await answer.response.content.readany():
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    if cut:
                        break
                    raise ResourceExhausted(f"{about} answers with more than {limit} bytes")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _failure(about, error) from None
        return b"".join(pieces)


class _Upload:
    """The body of a request as it is sent: a stall of the other side is noticed, one of the source is waited out."""

    def __init__(self, request: Request, stall: float, answer: float) -> None:
        body = request.body
        self._body = body
        self._stall = stall
        self._answer = answer
        self._timeout = asyncio.timeout(None)
        self.length = None if body is None else len(body) if isinstance(body, bytes) else request.length
        #: What the source of the body failed with.
        self.failure: BaseException | None = None

    @contextlib.asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        async with self._timeout:
            yield

    def data(self) -> bytes | AsyncIterator[bytes] | None:
        return self._body if self._body is None or isinstance(self._body, bytes) else self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        assert callable(self._body)
        loop = asyncio.get_running_loop()
        try:
            async with contextlib.aclosing(self._body()) as pieces:
                async for piece in pieces:
                    self._reschedule(loop.time() + self._stall)
                    yield piece
                    self._reschedule(None)
        except Exception as error:
            self.failure = error
            raise
        finally:
            # For the answer, which is not left to the connection alone.
            self._reschedule(loop.time() + self._answer)

    def _reschedule(self, when: float | None) -> None:
        # The answer may come, and end the timeout, before the whole body has been taken.
        with contextlib.suppress(RuntimeError):
            self._timeout.reschedule(when)


def _proxy(proxy: str) -> tuple[str, str]:
    """Return a proxy's address and the header that tells it who asks, "" if nobody in particular."""
    parts = urllib.parse.urlsplit(proxy)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgument(f"proxy {shown(proxy)}: http://HOST:PORT or https://HOST:PORT is expected")
    authorization = ""
    if parts.username is not None:
        user, password = (urllib.parse.unquote(each or "") for each in (parts.username, parts.password))
        authorization = basic(user, password)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", authorization


def _failure(about: str, error: Exception) -> Error:
    """Return what an exception of a connection means."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
        return FailedPrecondition(
            f"{about}: its certificate is not to be trusted ({reason}): if it is the right one, name its authority"
            ' as "ca" in the hosts.toml of the registry'
        )
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Unreachable(f"{about}: the proxy answered {error.status}")
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return _NoTls(f"{about}: speaks no TLS that we understand ({_words(error.os_error)})")
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.os_error
        if isinstance(reason, (ConnectionResetError, ConnectionAbortedError)):
            return _NoTls(f"{about}: {_words(reason)}")
        via = " by the proxy" if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
        return Unreachable(f"{about}: cannot be reached{via}: {_words(reason)}")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _NoTls(f"{about}: no connection in time")
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return FailedPrecondition(f"{about}: {failures.excerpt(str(error))}")
    if isinstance(error, TimeoutError):
        return Interrupted(f"{about}: said nothing for too long")
    if isinstance(error, aiohttp.ClientResponseError):
        return Unavailable(f"{about}: does not answer in HTTP: {failures.excerpt(error.message)}")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Interrupted(f"{about}: broke off amid its answer")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return Interrupted(f"{about}: hung up without an answer")
    return Interrupted(f"{about}: the connection broke: {_words(error)}")


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error).replace("_", " ").lower()
    if isinstance(error, socket.gaierror):
        return f"no address found: {error.strerror}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return failures.excerpt(str(error)) or type(error).__name__
