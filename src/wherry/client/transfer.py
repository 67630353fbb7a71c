"""Images moved by a daemon's Transfer service: pulled, pushed, imported and exported, in wherryd and in containerd 2.x.

The daemon does the work; what it needs of this side (progress told, credentials asked for, an archive's bytes) goes
over streams. For event loops. A coroutine that is cancelled calls the transfer off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from wherry.api.services.transfer.v1 import transfer_pb2 as service_pb2
from wherry.api.types import types_pb2
from wherry.api.types.transfer import transfer_pb2
from wherry.api.typeurl import pack
from wherry.client.images import Images
from wherry.client.leases import Leases
from wherry.client.streams import Receiver, Stream, open_stream, send_bytes
from wherry.errors import DataLoss, InvalidArgument
from wherry.oci.platform import Platform
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from google.protobuf.message import Message

    from wherry.api.services.images.v1.images_pb2 import Image
    from wherry.api.types.transfer.transfer_pb2 import Progress as Progress
    from wherry.registry.options import Credentials
    from wherry.rpc.channel import Channel

    #: Takes the name of a registry's host and the image's reference; returns what to say there. Called in a thread.
    CredentialProvider = Callable[[str, str], Credentials | None]
    OnProgress = Callable[[Progress], None]

_ARCHIVE = "application/vnd.oci.image.layout.v1+tar"

#: Seconds that the daemon may take to end the progress stream once it has answered: what it says then is not vital.
_PROGRESS_END = 5.0

#: Seconds without a byte, after the daemon said that all was exported, that stand for the end of the archive.
_EXPORT_END = 2.0

#: What a tar archive ends with: two blocks of zeros.
_TAR_END = bytes(1024)


class Registry:
    """How a registry is reached, as far as the daemon is not to find out by itself."""

    __slots__ = ("credentials", "headers", "hosts_dir", "plain_http")

    def __init__(
        self,
        *,
        hosts_dir: str = "",
        plain_http: bool = False,
        headers: Mapping[str, str] | None = None,
        credentials: CredentialProvider | None = None,
    ) -> None:
        #: A directory of hosts.toml files, on the daemon's machine; "" for the daemon's own.
        self.hosts_dir = hosts_dir
        self.plain_http = plain_http
        #: Sent with every request.
        self.headers = dict(headers or {})
        self.credentials = credentials


class Transferrer:
    """A namespace's images moved.

    Every method raises Unimplemented if the daemon has no Transfer service, as containerd before 1.7, before anything
    was read or written; else what the daemon says.
    """

    def __init__(self, channel: Channel, namespace: str) -> None:
        self._channel = channel
        self._namespace = namespace
        self._images = Images(channel, namespace)

    async def pull(
        self,
        reference: str,
        *,
        name: str = "",
        platforms: Sequence[Platform | str] = (),
        all_platforms: bool = False,
        unpack: bool = True,
        snapshotter: str = "",
        labels: Mapping[str, str] | None = None,
        registry: Registry | None = None,
        on_progress: OnProgress | None = None,
    ) -> Image:
        """Pull an image by its full reference, store it under `name` (the reference, if none is given), return it.

        For this machine's platform if neither `platforms` nor `all_platforms` says otherwise. It is unpacked for those
        platforms, or for this machine's of all.
        """
        wanted = _platforms(platforms, all_platforms)
        store = transfer_pb2.ImageStore(name=name or reference, labels=labels, platforms=wanted)
        if unpack:
            _unpack(store, wanted, snapshotter)
        async with self._session(on_progress) as session:
            await session.transfer(await session.registry(reference, registry or Registry()), store)
            return await self._images.get(store.name)

    async def push(
        self,
        name: str,
        reference: str = "",
        *,
        platforms: Sequence[Platform | str] = (),
        registry: Registry | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Push an image to its name, or to another reference; the manifests of all platforms, if none is given."""
        wanted = [_message(Platform.of(platform)) for platform in platforms]
        store = transfer_pb2.ImageStore(name=name, platforms=wanted)
        async with self._session(on_progress) as session:
            await session.transfer(store, await session.registry(reference or name, registry or Registry()))

    async def import_archive(
        self,
        source: BinaryIO,
        *,
        base_name: str,
        platforms: Sequence[Platform | str] = (),
        all_platforms: bool = False,
        unpack: bool = True,
        snapshotter: str = "",
        on_progress: OnProgress | None = None,
    ) -> list[Image]:
        """Import the images of an archive that an open file or pipe gives, and return them.

        Names that are only tags are put after `base_name`. InvalidArgument if the archive names none of its images.
        Raises what reading the source does.
        """
        wanted = _platforms(platforms, all_platforms)
        prefix = transfer_pb2.ImageReference(name=base_name, is_prefix=True, allow_overwrite=True)
        store = transfer_pb2.ImageStore(platforms=wanted, extra_references=[prefix])
        if unpack:
            _unpack(store, wanted, snapshotter)
        saved: list[str] = []

        def watch(progress: Progress) -> None:
            if progress.event == "saved":
                saved.append(progress.name)
            if on_progress is not None:
                on_progress(progress)

        async with self._session(watch) as session:
            stream = await session.stream("import")
            session.beside(lambda: send_bytes(stream, source.read))
            await session.transfer(transfer_pb2.ImageImportStream(stream=stream.id), store)
            if not saved:
                raise InvalidArgument("the archive names none of its images: give a name")
            return [await self._images.get(name) for name in dict.fromkeys(saved)]

    async def export(
        self,
        names: Sequence[str],
        destination: BinaryIO,
        *,
        platforms: Sequence[Platform | str] = (),
        all_platforms: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Write images to an OCI archive, which Docker can load too. Raises what writing to the destination does."""
        if not names:
            raise InvalidArgument("export: no image is named")
        first, *others = dict.fromkeys(names)
        store = transfer_pb2.ImageStore(
            name=first, extra_references=[transfer_pb2.ImageReference(name=name) for name in others]
        )
        wanted = _platforms(platforms, all_platforms)

        def write(data: bytes) -> None:
            rest = memoryview(data)
            while rest:
                rest = rest[destination.write(rest) :]

        async with self._session(on_progress) as session:
            stream = await session.stream("export")
            archive = transfer_pb2.ImageExportStream(
                stream=stream.id, media_type=_ARCHIVE, platforms=wanted, all_platforms=all_platforms
            )
            await session.transfer(store, archive, Receiver(stream, write))
        destination.flush()

    async def tag(self, name: str, other: str) -> Image:
        """Give an image another name, taken from another image if need be, and return it under that."""
        async with self._session(None) as session:
            await session.transfer(transfer_pb2.ImageStore(name=name), transfer_pb2.ImageStore(name=other))
        return await self._images.get(other)

    @asynccontextmanager
    async def _session(self, on_progress: OnProgress | None) -> AsyncGenerator[_Session, None]:
        async with AsyncExitStack() as undo:
            lease = await undo.enter_async_context(Leases(self._channel, self._namespace).hold())
            session = _Session(self._channel, metadata_for(self._namespace, lease.id), undo)
            if on_progress is not None:
                await session.show(on_progress)
            yield session


class _Session:
    """One transfer: its streams, which end with the stack given, and what goes on beside it."""

    def __init__(self, channel: Channel, metadata: list[tuple[str, str]], undo: AsyncExitStack) -> None:
        self._channel = channel
        self._metadata = metadata
        self._undo = undo
        self._stub = Stub(channel, service_pb2.DESCRIPTOR.services_by_name["Transfer"])
        self._beside: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._progress: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._progress_stream = ""

    async def stream(self, kind: str) -> Stream:
        """Open a stream."""
        return await self._undo.enter_async_context(open_stream(self._channel, self._metadata, kind))

    def beside(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let something go on while the transfer does; its failure ends the transfer."""
        self._beside.append(work)

    async def show(self, on_progress: OnProgress) -> None:
        """Have the daemon tell the progress."""
        stream = await self.stream("progress")
        self._progress_stream = stream.id

        async def show() -> None:
            while (message := await stream.receive_or_end()) is not None:
                if isinstance(message, transfer_pb2.Progress):
                    on_progress(message)

        self._progress = show

    async def registry(self, reference: str, registry: Registry) -> transfer_pb2.OCIRegistry:
        """Return a registry as the end of a transfer."""
        resolver = transfer_pb2.RegistryResolver(
            headers=registry.headers,
            host_dir=registry.hosts_dir,
            default_scheme="http" if registry.plain_http else "",
        )
        provider = registry.credentials
        if provider is not None:
            stream = await self.stream("creds")
            resolver.auth_stream = stream.id
            self.beside(lambda: _answer(stream, provider))
        return transfer_pb2.OCIRegistry(reference=reference, resolver=resolver)

    async def transfer(self, source: Message, destination: Message, receiver: Receiver | None = None) -> None:
        """Have the daemon do it, and return when it is done and what it told on the way has arrived."""
        request = service_pb2.TransferRequest(
            source=pack(source),
            destination=pack(destination),
            options=service_pb2.TransferOptions(progress_stream=self._progress_stream),
        )
        try:
            async with asyncio.TaskGroup() as group:
                others = [group.create_task(work()) for work in self._beside]
                progress = group.create_task(self._progress()) if self._progress is not None else None
                receiving = group.create_task(receiver.run()) if receiver is not None else None
                await self._stub.transfer(request, metadata=self._metadata)
                if receiver is not None and receiving is not None:
                    await _received(receiver, receiving)
                if progress is not None:
                    await asyncio.wait((progress,), timeout=_PROGRESS_END)
                for task in (*others, progress, receiving):
                    if task is not None:
                        task.cancel()
        except BaseExceptionGroup as failures:
            # The transfer's, or that of what went on beside it: each ends the others.
            raise failures.exceptions[0] from None


async def _received(receiver: Receiver, receiving: asyncio.Task[None]) -> None:
    """Wait for the end of the bytes that the daemon says it has sent. DataLoss if they are no whole archive."""
    while not receiving.done() and receiver.idle < _EXPORT_END:
        await asyncio.wait((receiving,), timeout=_EXPORT_END)
    if receiving.done() and receiving.exception() is not None:
        return  # which the group raises
    if receiver.tail != _TAR_END:
        raise DataLoss("export: the archive that the daemon sent has no end")


async def _answer(stream: Stream, provider: CredentialProvider) -> None:
    while (message := await stream.receive_or_end()) is not None:
        if isinstance(message, transfer_pb2.AuthRequest):
            found = await asyncio.to_thread(provider, message.host, message.reference)
            await stream.send(_auth_response(found))


def _auth_response(credentials: Credentials | None) -> transfer_pb2.AuthResponse:
    if credentials is None:
        return transfer_pb2.AuthResponse(authType=transfer_pb2.NONE)
    return transfer_pb2.AuthResponse(
        authType=credentials.kind.name,
        username=credentials.username,
        secret=credentials.secret,
    )


def _platforms(platforms: Sequence[Platform | str], all_platforms: bool) -> list[types_pb2.Platform]:
    """Return the platforms asked for: none of them stands for all."""
    if all_platforms and platforms:
        raise InvalidArgument("either some platforms or all of them, not both")
    if all_platforms:
        return []
    return [_message(Platform.of(platform)) for platform in platforms or (None,)]


def _message(platform: Platform) -> types_pb2.Platform:
    return types_pb2.Platform(os=platform.os, architecture=platform.architecture, variant=platform.variant)


def _unpack(store: transfer_pb2.ImageStore, platforms: Sequence[types_pb2.Platform], snapshotter: str) -> None:
    for platform in platforms or (_message(Platform.host()),):
        store.unpacks.append(transfer_pb2.UnpackConfiguration(platform=platform, snapshotter=snapshotter))
