"""The daemon as a shim sees it: a place to send events to, over ttrpc or by the publish command."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import wherry.api.events.events_pb2  # noqa: F401 - so that events can be unpacked
from wherry.api import typeurl
from wherry.api.services.events.ttrpc.v1 import events_pb2
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.api.wellknown_pb2 import Empty
from wherry.errors import Error
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service
from wherry.rpc.ttrpc_server import TtrpcServer

#: A stand-in for `containerd publish`: appends topic, namespace and the event's bytes (hexadecimal) as a line.
_PUBLISHER = """#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in --topic) topic=$2; shift;; --namespace) namespace=$2; shift;; esac
    shift
done
echo "$topic $namespace $(od -An -v -tx1 | tr -d ' \\n')" >> {file}
"""


class Sink(Service):
    """Keeps what was forwarded, as (topic, event), in order."""

    descriptor = events_pb2.DESCRIPTOR.services_by_name["Events"]

    def __init__(self, directory: Path) -> None:
        self.path = f"{directory}/events.ttrpc"
        self.namespaces: set[str] = set()
        self._events: list[tuple[str, Any]] = []
        self._file = directory / "published"
        self.binary = directory / "publisher"
        self.binary.write_text(_PUBLISHER.format(file=self._file))
        self.binary.chmod(0o755)
        self._refusals = 0
        self._server: TtrpcServer | None = None
        self._serving: asyncio.Task[None] | None = None

    def refuse(self, times: int) -> None:
        """Answer the next calls with an error of no kind."""
        self._refusals = times

    async def forward(self, request: Any, context: CallContext) -> Empty:
        if self._refusals:
            self._refusals -= 1
            raise Error("not in the mood")
        envelope = request.envelope
        self.namespaces.add(envelope.namespace)
        self._events.append((envelope.topic, typeurl.unpack(envelope.event)))
        return Empty()

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Return what has come, forwarded or published."""
        published = []
        if self._file.exists():
            for line in self._file.read_text().splitlines():
                topic, namespace, data = line.split()
                self.namespaces.add(namespace)
                published.append((topic, typeurl.unpack(AnyMessage.FromString(bytes.fromhex(data)))))
        return self._events + published

    @property
    def topics(self) -> list[str]:
        return [topic for topic, _event in self.events]

    async def wait_for(self, topic: str, times: int = 1) -> Any:
        """Return the event of a topic when it has come that often."""
        async with asyncio.timeout(30):
            while self.topics.count(topic) < times:
                await asyncio.sleep(0.01)
        return [event for name, event in self.events if name == topic][times - 1]

    async def start(self) -> None:
        """Listen."""
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(self.path)
        sock.listen()
        self._server = TtrpcServer([self])
        self._serving = asyncio.create_task(self._server.serve(sock))

    async def stop(self) -> None:
        """Close the socket, connections too, and remove its file: the daemon is away."""
        if self._server is not None and self._serving is not None:
            await self._server.close()
            await self._serving
            self._server = None
        with contextlib.suppress(FileNotFoundError):
            Path(self.path).unlink()
