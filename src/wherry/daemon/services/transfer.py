"""containerd.services.transfer.v1.Transfer: images moved between registries, streams and the image store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from wherry.api import typeurl
from wherry.api.services.transfer.v1 import transfer_pb2 as api
from wherry.api.types.transfer import transfer_pb2 as types
from wherry.api.wellknown_pb2 import Empty
from wherry.errors import InvalidArgument, Unavailable, Unimplemented
from wherry.rpc.service import Service
from wherry.transfer import operations
from wherry.transfer.image_store import ImageStore, platform_from
from wherry.transfer.progress import Progress, Report
from wherry.transfer.streams import ByteReceiver, ByteSender, ThreadReader, ThreadWriter

if TYPE_CHECKING:
    from wherry.api.wellknown_pb2 import Any as AnyMessage
    from wherry.daemon.services.streaming import Stream, Streams
    from wherry.registry.client import Credentials, Repository
    from wherry.rpc.context import CallContext
    from wherry.transfer.session import Transfers
    from wherry.transfer.verifier import Verifiers

#: Events about one blob that may wait for a client that does not read them; then the oldest go.
_MAX_EVENTS = 4096

#: Seconds that a client has for taking the last of them.
_PATIENCE = 10.0

_Handler = Callable[["_Call", Any, Any], Any]


class TransferService(Service):
    """One method, for every pair of a source and a destination that makes sense."""

    descriptor = api.DESCRIPTOR.services_by_name["Transfer"]

    def __init__(
        self, transfers: Transfers, streams: Streams, verifiers: Verifiers, hosts_directories: Sequence[str]
    ) -> None:
        """Where a client names no directory of hosts.toml files, `hosts_directories` are looked into."""
        self._transfers = transfers
        self._streams = streams
        self._verifiers = verifiers
        self._hosts_directories = hosts_directories

    async def transfer(self, request: Any, context: CallContext) -> Empty:
        source, destination = request.source, request.destination
        async with AsyncExitStack() as stack:
            report: Report | None = None
            if request.options.progress_stream:
                stream = self._streams.get(context.namespace, request.options.progress_stream)
                report = await stack.enter_async_context(_reporting(stream))
            handler = _HANDLERS.get((source.type_url, destination.type_url))
            if handler is None:
                raise Unimplemented(f"method Transfer not implemented for {source.type_url} to {destination.type_url}")
            call = _Call(self, context, Progress(report))
            await handler(call, typeurl.unpack(source), typeurl.unpack(destination))
        return Empty()


class _Call:
    """One call of Transfer."""

    def __init__(self, service: TransferService, context: CallContext, progress: Progress) -> None:
        self.service = service
        self.context = context
        self.progress = progress

    def stream(self, name: str) -> Stream:
        """Return the client's stream of a name. NotFound."""
        return self.service._streams.get(self.context.namespace, name)

    def session(self) -> Any:
        """Return the transfer's session, to be entered."""
        return self.service._transfers.session(self.context.namespace, self.context.lease)

    @asynccontextmanager
    async def repository(self, registry: types.OCIRegistry) -> AsyncIterator[Repository]:
        """Open what a client says of a registry."""
        # Where the first image is moved, and not before: HTTP and TLS take 200 ms to import.
        from wherry.registry.client import Client, Options

        resolver = registry.resolver
        ask = None
        if resolver.auth_stream:
            ask = _Asking(self.stream(resolver.auth_stream)).credentials
        async with AsyncExitStack() as stack:
            on_debug = None
            if resolver.http_debug and resolver.logs_stream:
                log = ByteSender(self.stream(resolver.logs_stream))
                on_debug = await stack.enter_async_context(_logging(log))
            options = Options(
                hosts_dirs=[resolver.host_dir] if resolver.host_dir else list(self.service._hosts_directories),
                credentials=ask,
                default_scheme=resolver.default_scheme,
                headers=dict(resolver.headers),
                on_debug=on_debug,
            )
            client = await stack.enter_async_context(Client(options))
            yield client.repository(registry.reference)


async def _pull(call: _Call, source: types.OCIRegistry, destination: types.ImageStore) -> None:
    store = ImageStore.from_message(destination)
    async with call.repository(source) as repository, call.session() as session:
        await operations.pull(session, repository, store, call.progress, call.service._verifiers.verify)


async def _push(call: _Call, source: types.ImageStore, destination: types.OCIRegistry) -> None:
    store = ImageStore.from_message(source)
    async with call.repository(destination) as repository, call.session() as session:
        await operations.push(session, store, repository, call.progress)


async def _tag(call: _Call, source: types.ImageStore, destination: types.ImageStore) -> None:
    store, other = ImageStore.from_message(source), ImageStore.from_message(destination)
    async with call.session() as session:
        await operations.tag(session, store, other, call.progress)


async def _import(call: _Call, source: types.ImageImportStream, destination: types.ImageStore) -> None:
    from wherry.transfer.import_stream import Importer

    receiver = ByteReceiver(call.stream(source.stream))
    file = cast(BinaryIO, ThreadReader(receiver, asyncio.get_running_loop()))
    async with call.session() as session:
        call.progress.say("Importing")
        store = ImageStore.from_message(destination)
        await Importer(session, store, call.progress, compress=source.force_compress).run(file)
        call.progress.say("Completed import")


async def _export(call: _Call, source: types.ImageStore, destination: types.ImageExportStream) -> None:
    from wherry.transfer.export_stream import export_to

    stream = call.stream(destination.stream)
    file = cast(BinaryIO, ThreadWriter(ByteSender(stream), asyncio.get_running_loop()))
    async with call.session() as session:
        call.progress.say("Exporting")
        await export_to(
            session,
            ImageStore.from_message(source).lookups(),
            file,
            platforms=[platform_from(each) for each in destination.platforms],
            all_platforms=destination.all_platforms,
            docker_manifest=not destination.skip_compatibility_manifest,
            non_distributable=not destination.skip_non_distributable,
        )
        call.progress.say("Completed export")
    await stream.close()


async def _echo(call: _Call, source: types.ImageImportStream, destination: types.ImageExportStream) -> None:
    """What comes in goes out, as in containerd, for who tests streams."""
    receiver = ByteReceiver(call.stream(source.stream))
    stream = call.stream(destination.stream)
    sender = ByteSender(stream)
    while data := await receiver.receive():
        await sender.send(data)
    await stream.close()


def _name(message: Any) -> str:
    name: str = message.DESCRIPTOR.full_name
    return name


_HANDLERS: dict[tuple[str, str], _Handler] = {
    (_name(types.OCIRegistry), _name(types.ImageStore)): _pull,
    (_name(types.ImageStore), _name(types.OCIRegistry)): _push,
    (_name(types.ImageStore), _name(types.ImageStore)): _tag,
    (_name(types.ImageImportStream), _name(types.ImageStore)): _import,
    (_name(types.ImageStore), _name(types.ImageExportStream)): _export,
    (_name(types.ImageImportStream), _name(types.ImageExportStream)): _echo,
}


@asynccontextmanager
async def _reporting(stream: Stream) -> AsyncIterator[Report]:
    """Send events to a stream as its client takes them; close it when the block ends. Nobody waits for the client."""
    waiting: asyncio.Queue[AnyMessage | None] = asyncio.Queue()

    def report(event: types.Progress) -> None:
        if waiting.qsize() >= _MAX_EVENTS:
            waiting.get_nowait()
        waiting.put_nowait(typeurl.pack(event))

    async def send() -> None:
        try:
            while (event := await waiting.get()) is not None:
                await stream.send(event)
            await stream.close()
        except Unavailable:
            pass  # who watched has left; what was watched goes on

    sending = asyncio.ensure_future(send())
    try:
        yield report
    finally:
        waiting.put_nowait(None)
        try:
            await asyncio.wait([sending], timeout=_PATIENCE)
        finally:
            if not sending.done():
                sending.cancel()
                stream.abort()


@asynccontextmanager
async def _logging(sender: ByteSender) -> AsyncIterator[Callable[[str], None]]:
    """Send lines to a client's stream of bytes, as far as it takes them."""
    waiting: asyncio.Queue[str] = asyncio.Queue()

    async def send() -> None:
        try:
            while True:
                await sender.send((await waiting.get() + "\n").encode())
        except (Unavailable, InvalidArgument):
            pass  # nobody reads them

    sending = asyncio.ensure_future(send())
    try:
        yield waiting.put_nowait
    finally:
        sending.cancel()
        await asyncio.wait([sending])


class _Asking:
    """Asks a client for credentials, one question at a time."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lock = asyncio.Lock()

    async def credentials(self, host: str, reference: str, challenges: Sequence[str]) -> Credentials | None:
        """Return what the client has for a host; None if it has nothing."""
        from wherry.registry.client import Credentials, CredentialsKind

        async with self._lock:
            question = types.AuthRequest(host=host, reference=reference, wwwauthenticate=challenges)
            await self._stream.send(typeurl.pack(question))
            message = await self._stream.receive()
        if message is None:
            return None
        answer = typeurl.unpack(message)
        if not isinstance(answer, types.AuthResponse):
            raise InvalidArgument(f"asked for credentials, the client sent {message.type_url}")
        if answer.authType == types.NONE:
            return None
        return Credentials(answer.username, answer.secret, CredentialsKind(answer.authType))
