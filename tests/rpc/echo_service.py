"""A service with an RPC of each kind, and the ways to serve and call it: what is true over one is true over all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import descriptor_pb2

from wherry import errors
from wherry.errors import Error
from wherry.protobuf import load
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service


def _describe() -> bytes:
    """The file of the service: one message, RPCs of the four kinds."""
    file = descriptor_pb2.FileDescriptorProto(name="echo.proto", package="wherry.test", syntax="proto3")
    message = file.message_type.add(name="Text")
    kinds = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="text", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    message.field.add(name="number", number=2, type=kinds.TYPE_INT64, label=kinds.LABEL_OPTIONAL)
    message.field.add(name="data", number=3, type=kinds.TYPE_BYTES, label=kinds.LABEL_OPTIONAL)
    service = file.service.add(name="Echo")
    text = ".wherry.test.Text"
    for name, client, server in [
        ("Say", False, False),
        ("Fail", False, False),
        ("Block", False, False),
        ("Context", False, False),
        ("Absent", False, False),
        ("Count", False, True),
        ("Endless", False, True),
        ("Collect", True, False),
        ("Chat", True, True),
    ]:
        service.method.add(
            name=name, input_type=text, output_type=text, client_streaming=client, server_streaming=server
        )
    other = file.service.add(name="Other")
    other.method.add(name="Say", input_type=text, output_type=text)
    return file.SerializeToString()


DESCRIPTOR = load(__name__, _describe())
Text: Any = globals()["Text"]


class EchoService(Service):
    descriptor = DESCRIPTOR.services_by_name["Echo"]

    def __init__(self) -> None:
        self.blocked = 0
        self.cancelled = 0
        self.ended = 0
        self.changed = asyncio.Event()

    def _note(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, **counts: int) -> None:
        """Wait until the counters have these values."""
        async with asyncio.timeout(10):
            while any(getattr(self, name) != count for name, count in counts.items()):
                await self.changed.wait()

    async def say(self, request: Any, _context: CallContext) -> Any:
        return request

    async def fail(self, request: Any, _context: CallContext) -> Any:
        """Raise the kind of error that is named, or one of Python's own."""
        if request.text == "OSError":
            raise FileNotFoundError(2, "No such file or directory", "/x")
        if request.text == "bug":
            raise ZeroDivisionError("division by zero")
        if request.text == "timeout":
            raise TimeoutError("not the call's")
        kind: type[Error] = getattr(errors, request.text)
        raise kind('thing "x"' + "!" * request.number)

    async def block(self, _request: Any, _context: CallContext) -> Any:
        self.blocked += 1
        self._note()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self._note()
            raise

    async def context(self, request: Any, context: CallContext) -> Any:
        if request.text == "timeout":
            return Text(number=round(context.timeout or 0))
        return Text(text=context.namespace + "|" + context.lease)

    async def count(self, request: Any, _context: CallContext) -> AsyncIterator[Any]:
        for number in range(request.number):
            yield Text(number=number, data=request.data)
        if request.text:
            raise errors.NotFound(request.text)

    async def endless(self, request: Any, _context: CallContext) -> AsyncIterator[Any]:
        """Yield once, then block; or (text "flood") yield without end."""
        self.blocked += 1
        self._note()
        try:
            yield request
            while request.text == "flood":
                yield request
            await asyncio.Event().wait()
        finally:
            self.ended += 1
            self._note()

    async def collect(self, requests: AsyncIterator[Any], _context: CallContext) -> AsyncIterator[Any]:
        texts = [request.text async for request in requests]
        yield Text(text=",".join(texts), number=len(texts))

    async def chat(self, requests: AsyncIterator[Any], _context: CallContext) -> AsyncIterator[Any]:
        async for request in requests:
            if request.text == "stop":
                return
            if request.text == "fail":
                raise errors.FailedPrecondition("chat is over")
            yield request
        yield Text(text="end")
