"""The channels without an event loop of the caller's: one over ttrpc, one over gRPC, with the same face."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rpc.echo_service import EchoService, Text
from tests.rpc.transports import listening
from wherry.errors import DeadlineExceeded, NotFound, Unavailable
from wherry.rpc.blocking_channel import BlockingTtrpcChannel
from wherry.rpc.channel import Stub
from wherry.rpc.grpc_channel import BlockingGrpcChannel
from wherry.rpc.grpc_server import GrpcServer
from wherry.rpc.service import Method
from wherry.rpc.ttrpc_channel import TtrpcChannel
from wherry.rpc.ttrpc_server import TtrpcServer

SAY = Method(EchoService.descriptor.full_name, EchoService.descriptor.methods_by_name["Say"])


class Served:
    """EchoService on both kinds of socket, in a thread with a loop."""

    def __init__(self, directory: Path) -> None:
        self.ttrpc, self.grpc = directory / "ttrpc.sock", directory / "grpc.sock"
        self.service: EchoService
        self.loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stopped: asyncio.Event
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        self.service = EchoService()
        grpc = GrpcServer([self.service])
        await grpc.start(str(self.grpc))
        ttrpc = TtrpcServer([self.service])
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ttrpc.serve(listening(self.ttrpc)))
            self._ready.set()
            await self._stopped.wait()
            await grpc.stop()
            await ttrpc.close()

    def until(self, **counts: int) -> None:
        asyncio.run_coroutine_threadsafe(self.service.until(**counts), self.loop).result()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.stop()


@pytest.fixture(params=["ttrpc", "grpc"])
def channel(request: pytest.FixtureRequest, served: Served) -> Iterator[Any]:
    channel: Any
    if request.param == "ttrpc":
        channel = BlockingTtrpcChannel.connect(str(served.ttrpc))
    else:
        channel = BlockingGrpcChannel.connect(str(served.grpc))
    yield channel
    channel.run(channel.close())


@pytest.fixture
def echo(channel: Any) -> Stub:
    return Stub(channel, EchoService.descriptor)


async def listed(responses: AsyncIterator[Any]) -> list[Any]:
    return [response async for response in responses]


def test_a_unary_call(channel: Any, echo: Stub) -> None:
    assert channel.run(echo.say(Text(number=7))).number == 7


def test_a_coroutine_of_many_calls(channel: Any, echo: Stub) -> None:
    async def calls() -> int:
        total = 0
        for number in range(20):
            total += (await echo.say(Text(number=number))).number
        return total

    assert channel.run(calls()) == sum(range(20))


def test_an_error(channel: Any, echo: Stub) -> None:
    with pytest.raises(NotFound) as caught:
        channel.run(echo.fail(Text(text="NotFound")))
    assert caught.value.message == 'thing "x": not found'


def test_a_deadline(channel: Any, echo: Stub, served: Served) -> None:
    with pytest.raises(DeadlineExceeded):
        channel.run(echo.block(Text(), timeout=0.1))
    served.until(cancelled=1)


def test_streams(channel: Any, echo: Stub) -> None:
    async def words() -> AsyncIterator[Any]:
        for word in ["a", "b"]:
            yield Text(text=word)

    assert [r.number for r in channel.run(listed(echo.count(Text(number=4))))] == [0, 1, 2, 3]
    assert [r.text for r in channel.run(listed(echo.collect(words())))] == ["a,b"]
    assert [r.text for r in channel.run(listed(echo.chat(words())))] == ["a", "b", "end"]


def test_a_big_conversation(channel: Any, echo: Stub) -> None:
    """Neither side may wait for the other while the socket is full both ways."""
    data = bytes(1 << 20)

    async def requests() -> AsyncIterator[Any]:
        for number in range(30):
            yield Text(number=number, data=data)

    answers = channel.run(listed(echo.chat(requests())))
    assert [answer.number for answer in answers] == [*range(30), 0]


def test_a_stream_left_early_is_called_off(channel: Any, echo: Stub, served: Served) -> None:
    async def first() -> Any:
        responses = echo.endless(Text(text="flood"))
        response = await anext(responses)
        await responses.aclose()
        return response

    assert channel.run(first()).text == "flood"
    served.until(ended=1)
    assert channel.run(echo.say(Text(number=1))).number == 1


def test_readers_are_called_back_while_a_call_waits(channel: Any, echo: Stub) -> None:
    """As `wherry run` does: output is copied and signals are forwarded while it waits for the exit."""
    ours, theirs = socket.socketpair()
    seen = []

    def readable() -> None:
        seen.append(ours.recv(100))
        if seen[-1] == b"":
            channel.remove_reader(ours.fileno())
        else:
            channel.start_unary(SAY, Text(text="forwarded"))

    channel.add_reader(ours.fileno(), readable)
    theirs.sendall(b"output")
    threading.Timer(0.1, theirs.close).start()
    with pytest.raises(DeadlineExceeded):
        channel.run(echo.block(Text(), timeout=0.4))
    ours.close()
    assert seen == [b"output", b""]
    assert channel.run(echo.say(Text(number=1))).number == 1


def test_what_a_reader_raises_ends_the_call(channel: Any, echo: Stub, served: Served) -> None:
    ours, theirs = socket.socketpair()

    def readable() -> None:
        raise InterruptedError("enough")

    def when_blocked() -> None:
        served.until(blocked=1)
        theirs.sendall(b"x")

    channel.add_reader(ours.fileno(), readable)
    threading.Thread(target=when_blocked).start()
    with pytest.raises(InterruptedError, match="enough"):
        channel.run(echo.block(Text()))
    channel.remove_reader(ours.fileno())
    served.until(cancelled=1)
    assert channel.run(echo.say(Text(number=1))).number == 1


def test_a_reader_may_be_a_regular_file(channel: Any, echo: Stub, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"line")
    seen = []
    with open(tmp_path / "input", "rb") as file:

        def readable() -> None:
            seen.append(os.read(file.fileno(), 100))
            if not seen[-1]:
                channel.remove_reader(file.fileno())

        channel.add_reader(file.fileno(), readable)
        with pytest.raises(DeadlineExceeded):
            channel.run(echo.block(Text(), timeout=0.1))
    assert seen == [b"line", b""]


def test_wait_returns_after_a_callback_or_its_time(channel: Any) -> None:
    ours, theirs = socket.socketpair()
    seen = []
    channel.add_reader(ours.fileno(), lambda: seen.append(ours.recv(10)))
    channel.wait(0.05)
    assert not seen
    theirs.sendall(b"x")
    channel.wait(10)
    assert seen == [b"x"]
    channel.remove_reader(ours.fileno())


def test_signals_interrupt_a_call(channel: Any, echo: Stub, served: Served) -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        channel.run(echo.block(Text()))
    timer.join()
    served.until(cancelled=1)
    assert channel.run(echo.say(Text(number=1))).number == 1


def test_a_server_that_stops(channel: Any, echo: Stub, served: Served) -> None:
    threading.Timer(0.1, served.stop).start()
    with pytest.raises(Unavailable):
        channel.run(echo.block(Text()))
    with pytest.raises(Unavailable):
        channel.run(echo.say(Text()))


@pytest.mark.parametrize("kind", [BlockingTtrpcChannel, BlockingGrpcChannel])
def test_nobody_there(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        kind.connect(str(tmp_path / "x.sock"))
    assert caught.value.message == f"connect to {tmp_path}/x.sock: no such file or directory: unavailable"
    sock = listening(tmp_path / "dead.sock")
    sock.close()
    with pytest.raises(Unavailable, match="connection refused"):
        kind.connect(str(tmp_path / "dead.sock"))


def test_a_server_with_much_to_accept_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with pytest.raises(Unavailable, match="connection timed out"):
            BlockingTtrpcChannel.connect(path, timeout=0.1)
        with pytest.raises(Unavailable, match="timed out"):
            asyncio.run(TtrpcChannel.connect(path, timeout=0.1))
        threading.Timer(0.1, listener.accept).start()
        channel = BlockingTtrpcChannel.connect(path, timeout=30)
        channel.run(channel.close())


def test_garbage_ends_every_call(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    channel = BlockingTtrpcChannel.from_socket(ours)
    echo = Stub(channel, EchoService.descriptor)
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            channel.run(echo.say(Text()))
        assert caught.value.message == "ttrpc: closed"
    assert channel.closed
    theirs.close()


def test_a_coroutine_that_suspends_is_refused(served: Served) -> None:
    channel = BlockingTtrpcChannel.connect(str(served.ttrpc))

    async def sleep() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="awaits something else"):
        channel.run(sleep())
    channel.run(channel.close())


def test_the_blocking_ttrpc_channel_imports_little() -> None:
    heavy = "asyncio dataclasses typing re logging argparse inspect enum contextlib socket selectors grpc threading"
    code = (
        "import sys, wherry.protobuf as p; p.import_only_the_core()\n"
        "import wherry.rpc.blocking_channel, wherry.rpc.channel, wherry.rpc.context\n"
        "print(*sys.modules)"
    )
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(path for path in sys.path if path)}
    found = subprocess.run([sys.executable, "-S", "-c", code], env=env, capture_output=True, text=True, check=True)
    assert not set(found.stdout.split()) & set(heavy.split())


def test_a_slow_caller_is_woken_in_time(channel: Any, echo: Stub) -> None:
    """A timeout of less than poll's millisecond is still a timeout, and no busy loop or hang."""
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        channel.run(echo.block(Text(), timeout=0.0001))
    assert time.monotonic() - began < 5
