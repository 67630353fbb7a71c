"""A shim's events on their way to the daemon: in order, kept until acknowledged, never in anyone's way."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import deque

from wherry.api import typeurl
from wherry.api.services.events.ttrpc.v1 import events_pb2
from wherry.api.types.types_pb2 import Envelope
from wherry.errors import Cancelled, DeadlineExceeded, Error, Unavailable
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.rpc.ttrpc_channel import TtrpcChannel
from wherry.shim.reaper import Reaper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from google.protobuf.message import Message

    class EventSink(Protocol):
        """Where a shim's events go."""

        def publish(self, topic: str, event: Message) -> None:
            """Publish an event, stamped now; never fails, never blocks."""


log = logging.getLogger(__name__)

#: Events that wait for a daemon that is away. An exit is never dropped for want of room.
_MAX_WAITING = 10_000

#: Seconds that one attempt may take, as in containerd's shims.
_TIMEOUT = 5.0

#: Seconds between attempts while the daemon is away: short at first, for a daemon that restarts.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0

#: How often a daemon that is there may refuse an event before the ones behind it get their turn; as containerd's shims.
_MAX_REFUSALS = 5

_EXIT = "/tasks/exit"

#: Turns of the loop that an event lets go before it: the answer to the call that made it is on its way, and somebody
#: waits for that.
_TURNS = 4

#: Events of runtime v1 that the shim itself publishes; the daemon publishes the others.
V1_TOPICS = frozenset({_EXIT})

#: The answers of a daemon that is away, or just ending: it will be back.
_AWAY = (Unavailable, DeadlineExceeded, Cancelled)


class Publisher:
    """Sends events to a daemon's ttrpc socket, or by its `publish` command where there is none."""

    def __init__(self, namespace: str, *, ttrpc_address: str, address: str, binary: str, reaper: Reaper) -> None:
        self._namespace = namespace
        self._ttrpc_address = ttrpc_address.removeprefix("unix://")
        self._address = address
        self._binary = binary
        self._reaper = reaper
        self._waiting: deque[Envelope] = deque()
        self._something = asyncio.Event()
        self._nothing = asyncio.Event()
        self._nothing.set()
        self._channel: TtrpcChannel | None = None
        self._events: Stub

    def publish(self, topic: str, event: Message) -> None:
        """Queue an event. It is stamped now; sending is `run`'s work."""
        if not (self._ttrpc_address or self._binary):
            return  # driven by hand: there is no daemon to tell
        envelope = Envelope(namespace=self._namespace, topic=topic, event=typeurl.pack(event), timestamp=typeurl.now())
        if len(self._waiting) >= _MAX_WAITING and topic != _EXIT:
            log.warning("event %s dropped: %d wait for the daemon", topic, len(self._waiting))
            return
        self._waiting.append(envelope)
        self._nothing.clear()
        self._something.set()

    async def run(self) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._something.wait()
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            await self._deliver(self._waiting[0])
            self._waiting.popleft()
            if not self._waiting:
                self._something.clear()
                self._nothing.set()

    async def _deliver(self, envelope: Envelope) -> None:
        """Send one event until it is acknowledged, or a daemon that is there has refused it too often."""
        pause = _FIRST_PAUSE
        refusals = 0
        while True:
            try:
                async with asyncio.timeout(_TIMEOUT):
                    await self._send(envelope)
                return
            except Exception as error:
                # What is raised here must never end the shim: it is the parent of other people's processes.
                if isinstance(error, Error) and not isinstance(error, _AWAY):
                    refusals += 1
                if refusals >= _MAX_REFUSALS:
                    log.error("event %s dropped: the daemon refuses it: %s", envelope.topic, error)
                    return
                log.debug("event %s not delivered: %s", envelope.topic, error)
                await self._disconnect()
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def flush(self, timeout: float) -> None:
        """Wait until everything queued was acknowledged, at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._nothing.wait()
        except TimeoutError:
            log.warning("%d events were not delivered", len(self._waiting))
        await self._disconnect()

    async def _disconnect(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _send(self, envelope: Envelope) -> None:
        if not self._ttrpc_address:
            await self._send_by_command(envelope)
            return
        if self._channel is None or self._channel.closed.done():
            self._channel = await TtrpcChannel.connect(self._ttrpc_address)
            self._events = Stub(self._channel, events_pb2.DESCRIPTOR.services_by_name["Events"])
        await self._events.forward(events_pb2.ForwardRequest(envelope=envelope), metadata=metadata_for(self._namespace))

    async def _send_by_command(self, envelope: Envelope) -> None:
        # Not a pipe: an event with many mounts would fill it, and nobody reads before the command runs.
        fd = os.memfd_create("event")
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(envelope.event.SerializeToString())
            os.lseek(fd, 0, os.SEEK_SET)
            command = [self._binary, "--address", self._address, "publish"]
            command += ["--topic", envelope.topic, "--namespace", envelope.namespace]
            pid = self._reaper.spawn(command, {0: fd})
        finally:
            os.close(fd)
        try:
            status = await self._reaper.wait(pid)
        except BaseException:
            self._reaper.kill(pid, signal.SIGKILL)
            raise
        if status:
            raise OSError(f"{self._binary} publish: exit status {status}")
