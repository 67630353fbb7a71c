"""The server and the client over real unix sockets, and a raw socket where the peer must misbehave."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from wherry.errors import ResourceExhausted, Unavailable, Unimplemented
from wherry.ttrpc.client import Client
from wherry.ttrpc.connection import ClientConnection
from wherry.ttrpc.frames import DATA, MAX_DATA, REQUEST, Frame, FrameParser, encode
from wherry.ttrpc.server import Endpoint, Metadata, Server
from wherry.ttrpc.ttrpc_pb2 import Response


class Work:
    """Endpoints that tell what happens to their calls."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.received = 0
        self.release = asyncio.Event()
        self.endpoints = {
            "test": {
                "Echo": Endpoint(unary=self.echo),
                "Block": Endpoint(unary=self.block),
                "Sink": Endpoint(stream=self.sink, client_streams=True),
                "Nothing": Endpoint(stream=self.nothing, client_streams=True),
            }
        }

    async def echo(self, payload: bytes, _metadata: Metadata, _timeout: float | None) -> bytes:
        return payload

    async def block(self, _payload: bytes, _metadata: Metadata, _timeout: float | None) -> bytes:
        self.started += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return b"released"

    async def sink(
        self, payloads: AsyncIterator[bytes], _metadata: Metadata, _timeout: float | None
    ) -> AsyncGenerator[bytes, None]:
        await self.release.wait()
        async for payload in payloads:
            self.received += len(payload)
        yield b"%d" % self.received

    async def nothing(
        self, payloads: AsyncIterator[bytes], _metadata: Metadata, _timeout: float | None
    ) -> AsyncGenerator[bytes, None]:
        async for _payload in payloads:
            pass
        return
        yield


@asynccontextmanager
async def serving(path: Path, work: Work) -> AsyncIterator[Server]:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    server = Server(work.endpoints)
    task = asyncio.ensure_future(server.serve(sock))
    try:
        yield server
    finally:
        await server.close()
        await task


@pytest.fixture
async def work(tmp_path: Path) -> AsyncIterator[Work]:
    work = Work()
    async with serving(tmp_path / "s", work):
        yield work


class Raw:
    """A connection that sends whatever it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._parser = FrameParser()
        self._frames: list[Frame] = []

    @classmethod
    async def connect(cls, path: Path) -> Raw:
        return cls(*await asyncio.open_unix_connection(str(path)))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def frame(self) -> Frame:
        while not self._frames:
            data = await self._reader.read(65536)
            if not data:
                raise EOFError
            self._frames += self._parser.feed(data)
        return self._frames.pop(0)

    async def response(self) -> tuple[int, int, str, bytes]:
        frame = await self.frame()
        response = Response.FromString(frame.data or b"")
        return frame.stream, response.status.code, response.status.message, response.payload

    def close(self) -> None:
        self._writer.close()


async def eventually(true: object) -> None:
    assert callable(true)
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


async def test_a_long_request_is_refused_and_the_connection_goes_on(work: Work, tmp_path: Path) -> None:
    raw = await Raw.connect(tmp_path / "s")
    length = 5 << 20
    raw.send(struct.pack(">IIBB", length, 1, REQUEST, 0) + bytes(length))
    _stream, frame = 3, ClientConnection().request("test", "Echo", b"after")[1]
    raw.send(frame[:4] + struct.pack(">I", 3) + frame[8:])
    stream, code, text, _payload = await raw.response()
    assert (stream, code) == (1, ResourceExhausted.code)
    assert text == f"message length {length} exceed maximum message size of {MAX_DATA}"
    assert await raw.response() == (3, 0, "", b"after")
    raw.close()


async def test_a_long_request_or_response_is_an_error_of_its_call_only(work: Work, tmp_path: Path) -> None:
    client = await Client.connect(str(tmp_path / "s"))
    with pytest.raises(ResourceExhausted):
        await client.unary("test", "Echo", bytes(MAX_DATA))  # more with what is around it
    # The request's names are longer than the response's status: so much fits one way and back.
    fits = bytes(MAX_DATA - 50)
    assert await client.unary("test", "Echo", fits) == fits
    client.close()


@pytest.mark.parametrize(
    ("service", "method", "text"), [("absent", "Echo", "service absent"), ("test", "Absent", "method Absent")]
)
async def test_unknown_is_unimplemented_in_gos_words(
    work: Work, tmp_path: Path, service: str, method: str, text: str
) -> None:
    client = await Client.connect(str(tmp_path / "s"))
    with pytest.raises(Unimplemented) as caught:
        await client.unary(service, method, b"")
    assert caught.value.message == text
    assert await client.unary("test", "Echo", b"on") == b"on"
    client.close()


async def test_a_lost_connection_cancels_its_calls_and_no_others(work: Work, tmp_path: Path) -> None:
    lost, other = await Raw.connect(tmp_path / "s"), await Client.connect(str(tmp_path / "s"))
    protocol = ClientConnection()
    lost.send(protocol.request("test", "Block", b"")[1] + protocol.request("test", "Block", b"")[1])
    call = asyncio.ensure_future(other.unary("test", "Block", b""))
    await eventually(lambda: work.started == 3)
    lost.close()
    await eventually(lambda: work.cancelled == 2)
    work.release.set()
    assert await call == b"released"
    other.close()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x80\x00\x00" + b"\xff" * 40])
async def test_garbage_closes_the_connection_and_not_the_server(work: Work, tmp_path: Path, garbage: bytes) -> None:
    raw = await Raw.connect(tmp_path / "s")
    raw.send(b"G" + garbage)
    with pytest.raises((EOFError, ConnectionResetError)):
        await raw.frame()
    client = await Client.connect(str(tmp_path / "s"))
    assert await client.unary("test", "Echo", b"on") == b"on"
    client.close()
    raw.close()


async def test_data_where_none_is_due_ends_that_call(work: Work, tmp_path: Path) -> None:
    raw = await Raw.connect(tmp_path / "s")
    stream, frame = ClientConnection().request("test", "Block", b"")
    raw.send(frame)
    await eventually(lambda: work.started == 1)
    raw.send(encode(stream, DATA, 0, b"x"))
    assert (await raw.response())[:2] == (1, 3)
    await eventually(lambda: work.cancelled == 1)
    raw.close()


async def test_a_request_half_sent_harms_nobody(work: Work, tmp_path: Path) -> None:
    raw = await Raw.connect(tmp_path / "s")
    frame = ClientConnection().request("test", "Echo", b"whole")[1]
    for position in range(0, len(frame), 3):
        raw.send(frame[position : position + 3])
        await asyncio.sleep(0)
    assert await raw.response() == (1, 0, "", b"whole")
    raw.send(frame[:7])
    raw.close()


async def test_a_sender_waits_for_a_slow_handler(work: Work, tmp_path: Path) -> None:
    """What a client streams faster than it is handled stays with the client: the server's memory is bounded."""
    client = await Client.connect(str(tmp_path / "s"))
    sent = 0

    async def messages() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(60):
            sent += 1 << 20
            yield bytes(1 << 20)

    call = client.stream("test", "Sink", messages())
    answer = asyncio.ensure_future(anext(call))
    last = -1
    while sent != last:
        last = sent
        await asyncio.sleep(0.2)
    assert 8 << 20 <= sent <= 20 << 20
    work.release.set()
    assert await answer == b"%d" % (60 << 20)
    await call.aclose()
    client.close()


async def test_a_client_that_never_reads_is_given_no_more_work(work: Work, tmp_path: Path) -> None:
    raw = await Raw.connect(tmp_path / "s")
    protocol = ClientConnection()
    requested = 0
    while requested < 100 << 20:
        raw.send(protocol.request("test", "Echo", bytes(1 << 20))[1])
        requested += 1 << 20
        try:
            async with asyncio.timeout(0.5):
                await raw._writer.drain()
        except TimeoutError:
            break
    assert requested < 40 << 20
    raw._writer.transport.abort()


async def test_a_stream_without_its_one_response_is_an_error(work: Work, tmp_path: Path) -> None:
    client = await Client.connect(str(tmp_path / "s"))

    async def messages() -> AsyncIterator[bytes]:
        yield b""

    with pytest.raises(Exception, match="ended without a response"):
        await anext(client.stream("test", "Nothing", messages()))
    client.close()


async def test_closing_answers_what_is_under_way(tmp_path: Path) -> None:
    work = Work()
    async with serving(tmp_path / "s", work) as server:
        client = await Client.connect(str(tmp_path / "s"))
        call = asyncio.ensure_future(client.unary("test", "Block", b""))
        await eventually(lambda: work.started == 1)
        await server.close()
        with pytest.raises(Unavailable, match="the server is stopping"):
            await call
        assert work.cancelled == 1
        await client.closed
        with pytest.raises(OSError):
            await Client.connect(str(tmp_path / "s"))
    assert (tmp_path / "s").exists(), "the file is whoever bound it to remove"


async def test_a_call_may_close_its_server_and_is_answered(tmp_path: Path) -> None:
    """As a shim's Shutdown does."""
    work = Work()

    async def shutdown(_payload: bytes, _metadata: Metadata, _timeout: float | None) -> bytes:
        await server.close()
        await asyncio.sleep(0.01)
        return b"bye"

    work.endpoints["test"]["Shutdown"] = Endpoint(unary=shutdown)
    async with serving(tmp_path / "s", work) as server:
        client = await Client.connect(str(tmp_path / "s"))
        assert await client.unary("test", "Shutdown", b"") == b"bye"
        await client.closed


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
async def test_other_users_are_refused(work: Work, tmp_path: Path) -> None:
    directory = tmp_path
    while directory != directory.parent and not os.stat(directory).st_mode & 1:
        os.chmod(directory, os.stat(directory).st_mode | 0o755)
        directory = directory.parent
    os.chmod(tmp_path / "s", 0o777)
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "try: s.sendall(bytes.fromhex(sys.argv[2])); print('answer', len(s.recv(100)))\n"
        "except (ConnectionResetError, BrokenPipeError): print('answer 0')"
    )
    frame = ClientConnection().request("test", "Echo", b"who?")[1]
    program = [sys.executable, "-S", "-c", code, str(tmp_path / "s"), frame.hex()]
    for uid, answered in [(0, True), (65534, False)]:
        process = await asyncio.create_subprocess_exec(
            *(
                program
                if uid == 0
                else ["setpriv", f"--reuid={uid}", "--clear-groups", "/usr/bin/python3", *program[1:]]
            ),
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0 and (out.split() != [b"answer", b"0"]) == answered


async def test_a_client_fails_every_call_on_garbage(tmp_path: Path) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with await asyncio.start_unix_server(answer, tmp_path / "g"):
        client = await Client.connect(str(tmp_path / "g"))
        calls = [client.unary("test", "Echo", b"") for _ in range(3)]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, Unavailable) and result.message == "ttrpc: closed"
        with pytest.raises(Unavailable, match="ttrpc: closed"):
            await client.unary("test", "Echo", b"")
        assert client.closed.done()
