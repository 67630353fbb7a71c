"""A shim's events on their way to the daemon: in order, kept until acknowledged, never in anyone's way."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque

from wherry.api import typeurl
from wherry.api.services.events.ttrpc.v1 import events_pb2
from wherry.api.types.types_pb2 import Envelope
from wherry.errors import Error
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.rpc.ttrpc_channel import TtrpcChannel
from wherry.shim.reaper import Reaper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

log = logging.getLogger(__name__)

#: Events that wait for a daemon that is away. An exit is never dropped for want of room.
_MAX_WAITING = 10_000

#: Seconds that one attempt may take, as in containerd's shims.
_TIMEOUT = 5.0

#: Seconds between attempts while the daemon is away: short at first, for a daemon that restarts.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0

_EXIT = "/tasks/exit"


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
        pause = _FIRST_PAUSE
        while True:
            await self._something.wait()
            try:
                async with asyncio.timeout(_TIMEOUT):
                    await self._send(self._waiting[0])
            except (Error, OSError, TimeoutError) as error:
                log.debug("event %s not delivered: %s", self._waiting[0].topic, error)
                if self._channel is not None:
                    await self._channel.close()
                    self._channel = None
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
                continue
            pause = _FIRST_PAUSE
            self._waiting.popleft()
            if not self._waiting:
                self._something.clear()
                self._nothing.set()

    async def flush(self, timeout: float) -> None:
        """Wait until everything queued was acknowledged, at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._nothing.wait()
        except TimeoutError:
            log.warning("%d events were not delivered", len(self._waiting))

    async def _send(self, envelope: Envelope) -> None:
        if not self._ttrpc_address:
            await self._send_by_command(envelope)
            return
        if self._channel is None or self._channel.closed.done():
            self._channel = await TtrpcChannel.connect(self._ttrpc_address)
        stub = Stub(self._channel, events_pb2.DESCRIPTOR.services_by_name["Events"])
        await stub.forward(events_pb2.ForwardRequest(envelope=envelope), metadata=metadata_for(self._namespace))

    async def _send_by_command(self, envelope: Envelope) -> None:
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            # An event is far smaller than a pipe.
            os.write(write, envelope.event.SerializeToString())
        finally:
            os.close(write)
        try:
            command = [self._binary, "--address", self._address, "publish"]
            command += ["--topic", envelope.topic, "--namespace", envelope.namespace]
            status = await self._reaper.wait(self._reaper.spawn(command, {0: read}))
        finally:
            os.close(read)
        if status:
            raise OSError(f"{self._binary} publish: exit status {status}")
