"""A registry that misbehaves as it is told: raw HTTP/1.1 over asyncio streams, so that it may break any rule.

``async with Hostile() as server: server.on("GET", "/v2/a/manifests/1", answer(body=b"…"), cut(b"…", 10))``: each
request takes the next behaviour of its path, and the last one stays. What was asked stands in `asked`. A test that has
no event loop uses ``with in_thread() as server``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
import threading
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

JSON = "application/json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Asked:
    """A request: header names are lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return urllib.parse.urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.target).query))


@dataclass
class Connection:
    """Where a behaviour writes."""

    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader
    #: Bytes of bodies that were sent, to see that a client took no more than it should.
    sent: int = 0

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        self.sent += len(data)

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        await self.writer.drain()

    def end(self) -> None:
        """Break off: nothing that is written later arrives."""
        self.writer.close()


Behaviour = Callable[[Asked, Connection], Awaitable[None]]


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def answer(
    status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None, *, type: str = JSON
) -> Behaviour:
    """A proper answer; `headers` may contradict it."""

    async def behave(asked: Asked, connection: Connection) -> None:
        await connection.head(status, {"Content-Type": type, "Content-Length": str(len(body)), **(headers or {})})
        if asked.method != "HEAD":
            await connection.send(body)

    return behave


def document(body: bytes, type: str = MANIFEST) -> Behaviour:
    """A manifest as a good registry gives it."""
    return answer(200, body, {"Docker-Content-Digest": digest(body)}, type=type)


def error(status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None) -> Behaviour:
    """An error as the specification has it."""
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode()
    return answer(status, body, headers)


def blob(data: bytes, *, ranges: bool = True) -> Behaviour:
    """A blob as a good registry gives it, in parts where they are asked for; or one that does not know of parts."""

    async def behave(asked: Asked, connection: Connection) -> None:
        begin = _begin(asked) if ranges else 0
        headers = {"Content-Length": str(len(data) - begin)}
        if ranges and "range" in asked.headers:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        await connection.head(206 if "Content-Range" in headers else 200, headers)
        if asked.method != "HEAD":
            await connection.send(data[begin:])

    return behave


def cut(data: bytes, after: int, *, ranges: bool = True) -> Behaviour:
    """A blob of which the connection ends after so many bytes of the answer."""

    async def behave(asked: Asked, connection: Connection) -> None:
        begin = _begin(asked) if ranges else 0
        headers = {"Content-Length": str(len(data) - begin)}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        await connection.head(206 if begin else 200, headers)
        await connection.send(data[begin : begin + after])
        connection.end()

    return behave


def endless(headers: Mapping[str, str] | None = None, piece: bytes = b"x" * 65536) -> Behaviour:
    """A body without an end, of no stated length."""

    async def behave(asked: Asked, connection: Connection) -> None:
        await connection.head(200, {"Transfer-Encoding": "chunked", "Content-Type": JSON, **(headers or {})})
        while True:
            await connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))

    return behave


def trickle(data: bytes, pause: float, *, step: int = 1) -> Behaviour:
    """A body that comes byte by byte."""

    async def behave(asked: Asked, connection: Connection) -> None:
        await connection.head(200, {"Content-Length": str(len(data))})
        for at in range(0, len(data), step):
            await connection.send(data[at : at + step])
            await asyncio.sleep(pause)

    return behave


def silent() -> Behaviour:
    """No answer, and no end."""

    async def behave(asked: Asked, connection: Connection) -> None:
        await connection.reader.read()

    return behave


def hang_up() -> Behaviour:
    """The end, and no answer."""

    async def behave(asked: Asked, connection: Connection) -> None:
        connection.end()

    return behave


def raw(data: bytes) -> Behaviour:
    """Whatever bytes, and the end."""

    async def behave(asked: Asked, connection: Connection) -> None:
        await connection.send(data)
        connection.end()

    return behave


def redirect(location: str, status: int = 307) -> Behaviour:
    """A redirection."""
    return answer(status, b"", {"Location": location})


def _begin(asked: Asked) -> int:
    return int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


@dataclass
class Hostile:
    """The server, on a free port."""

    tls: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list)
    #: Of all bodies so far.
    sent: int = 0
    host: str = ""
    _script: dict[tuple[str, str], list[Behaviour]] = field(default_factory=dict)
    _server: asyncio.Server | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def on(self, method: str, path: str, *behaviours: Behaviour) -> None:
        """Say how requests of a path are answered: one behaviour each, the last for all further ones."""
        self._script[method, path] = list(behaviours)

    def count(self, method: str, path: str = "") -> int:
        """Return how many requests there were of a method, and path."""
        return sum(each.method == method and path in ("", each.path) for each in self.asked)

    def saw(self, secret: str) -> bool:
        """Tell whether a text came in any header or body."""
        return any(
            secret in text
            for each in self.asked
            for text in (*each.headers.values(), each.body.decode("latin-1"), each.target)
        )

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20, ssl=self.tls)
        self.host = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while not writer.is_closing() and await self._one(reader, writer):
                    pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = await reader.read(1)
        if first == b"\x16":
            # A TLS handshake: what Go's servers say to it.
            writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n")
            await writer.drain()
            return False
        if not first:
            return False
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = b""
        connection = Connection(writer, reader)
        behaviour = self._next(method, urllib.parse.urlsplit(target).path)
        if not getattr(behaviour, "reads", False):
            body = await _body(reader, headers)
        asked = Asked(method, target, headers, body)
        self.asked.append(asked)
        try:
            await behaviour(asked, connection)
        finally:
            self.sent += connection.sent
        return True

    def _next(self, method: str, path: str) -> Behaviour:
        behaviours = self._script.get((method, path))
        if not behaviours:
            return error(404, "NAME_UNKNOWN", "not in the script")
        return behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int((await reader.readline()).strip(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def reads_itself(behaviour: Behaviour) -> Behaviour:
    """Have a behaviour read the request's body from the connection, as far as it likes."""

    async def behave(asked: Asked, connection: Connection) -> None:
        await behaviour(asked, connection)

    behave.reads = True  # type: ignore[attr-defined]
    return behave


def refuse_amid(after: int) -> Behaviour:
    """Take so many bytes of a body, and break off."""

    async def behave(asked: Asked, connection: Connection) -> None:
        await connection.reader.readexactly(after)
        connection.writer.transport.abort()

    return reads_itself(behave)


def sequence(behaviours: Sequence[Behaviour]) -> Behaviour:
    """Behave in turn, for requests of whatever path."""
    left = list(behaviours)

    async def behave(asked: Asked, connection: Connection) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(asked, connection)

    return behave


@contextlib.contextmanager
def in_thread() -> Iterator[Hostile]:
    """Run the server in a thread, for tests that drive other programs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = Hostile()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def collected(pieces: AsyncIterator[bytes]) -> bytes:
    """Return all bytes of a fetch."""
    return b"".join([piece async for piece in pieces])
