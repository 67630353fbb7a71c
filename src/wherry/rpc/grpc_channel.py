"""A channel over gRPC: to wherryd, and to containerd itself. For event loops, and one that brings its own."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import grpc
import grpc.aio

from wherry.errors import Error, Unavailable, from_status
from wherry.rpc.grpc_transport import OPTIONS, target
from wherry.rpc.service import Method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from wherry.rpc.channel import Metadata

T = TypeVar("T")

#: What the C library says where the server reset the stream with no status. A call that we cancel ends otherwise.
_RESET = "CANCELLED"

_OPTIONS = [
    *OPTIONS,
    # Go's servers put long texts into the header that ends a call; the C library's own limit is 8 KiB.
    ("grpc.max_metadata_size", 1 << 20),
    # A daemon that restarts is back within a second, and the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name, the least time that one attempt is given. A busy daemon takes connections late.
    ("grpc.min_reconnect_backoff_ms", 10000),
    ("grpc.max_reconnect_backoff_ms", 3000),
]


def _error(error: grpc.aio.AioRpcError) -> Error:
    if error.code() is grpc.StatusCode.CANCELLED and error.details() == _RESET:
        return Unavailable("grpc: the server ended the call without an answer, as one that stops does")
    return from_status(error.code().value[0], error.details() or "")


def _closed() -> Error:
    return Unavailable("grpc: the client connection is closing")


def _cancelled_itself() -> bool:
    """Tell whether a CancelledError is this task's own: gRPC raises one, too, when its channel is closed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class GrpcChannel:
    """Calls over one gRPC connection to a unix socket, made when it is needed and again when it was lost."""

    def __init__(self, path: str) -> None:
        self._channel = grpc.aio.insecure_channel(target(path), options=_OPTIONS)
        self._calls: dict[tuple[str, str], Any] = {}

    def _call(self, method: Method) -> Any:
        call = self._calls.get((method.service, method.name))
        if call is None:
            kind = ("stream" if method.client_streaming else "unary") + (
                "_stream" if method.server_streaming else "_unary"
            )
            call = self._calls[method.service, method.name] = getattr(self._channel, kind)(
                f"/{method.service}/{method.name}",
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
        return call

    async def unary(
        self, method: Method, request: Message, *, metadata: Metadata = (), timeout: float | None = None
    ) -> Any:
        try:
            return await self._call(method)(request, metadata=tuple(metadata), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise _error(error) from None
        except grpc.aio.UsageError:
            raise _closed() from None
        except asyncio.CancelledError:
            if _cancelled_itself():
                raise
            raise _closed() from None

    async def stream(
        self,
        method: Method,
        requests: Message | AsyncIterator[Message],
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> AsyncGenerator[Any, None]:
        failure: Exception | None = None

        async def each(one_or_more: Message | AsyncIterator[Message]) -> AsyncGenerator[Any, None]:
            # gRPC logs what an iterator of requests raises, and forgets it.
            nonlocal failure
            try:
                if hasattr(one_or_more, "SerializeToString"):
                    yield one_or_more
                else:
                    async for request in one_or_more:
                        yield request
            except Exception as error:
                failure = error
                call.cancel()
            finally:
                if isinstance(one_or_more, AsyncGenerator):
                    await one_or_more.aclose()

        call: Any = None
        try:
            sent = each(requests) if method.client_streaming else requests
            call = self._call(method)(sent, metadata=tuple(metadata), timeout=timeout)
            if method.server_streaming:
                async for response in call:
                    yield response
            else:
                yield await call
        except grpc.aio.AioRpcError as error:
            raise _error(error) from None
        except grpc.aio.UsageError:
            raise _closed() from None
        except asyncio.CancelledError:
            if failure is not None:
                raise failure from None
            if _cancelled_itself():
                raise
            raise _closed() from None
        finally:
            if call is not None:
                call.cancel()

    async def close(self) -> None:
        await self._channel.close()


class BlockingGrpcChannel:
    """A GrpcChannel with an event loop of its own, run when `run` is: the face of BlockingTtrpcChannel over gRPC."""

    #: Its coroutines may await anything of the loop's.
    suspends = True

    def __init__(self, path: str) -> None:
        # poll, unlike epoll, also takes regular files: a standard input may be one.
        self._loop = asyncio.SelectorEventLoop(selectors.PollSelector())
        self._channel: GrpcChannel
        self._task: asyncio.Task[Any] | None = None
        self._failure: BaseException | None = None
        self._dropped: set[asyncio.Task[Any]] = set()
        self._called_back = asyncio.Event()

        async def make() -> GrpcChannel:
            return GrpcChannel(path)

        self._channel = self._loop.run_until_complete(make())

    @classmethod
    def connect(cls, path: str, timeout: float | None = 10.0) -> BlockingGrpcChannel:
        """Make a channel to a unix socket. Unavailable if nobody answers there within `timeout` seconds."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(timeout)
            try:
                probe.connect(path)
            except OSError as error:
                raise Unavailable(f"connect to {path}: {(error.strerror or str(error)).lower()}") from None
        return cls(path)

    @property
    def closed(self) -> bool:
        """Whether the channel was closed; a connection that is lost is made again."""
        return self._loop.is_closed()

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back whenever a descriptor can be read, or hangs up, while a call waits."""

        def call_back() -> None:
            self._called_back.set()
            try:
                callback()
            except BaseException as error:
                # Raised from `run`, as the blocking channel's callbacks do, instead of being logged.
                self._failure = error
                if self._task is not None:
                    self._task.cancel()

        self._loop.add_reader(fd, call_back)

    def remove_reader(self, fd: int) -> None:
        """Undo add_reader; nothing happens if there was none."""
        self._loop.remove_reader(fd)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end and return its result."""
        self._task = task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        except asyncio.CancelledError:
            if self._failure is None:
                raise
            failure, self._failure = self._failure, None
            raise failure from None
        finally:
            self._task = None
            if not task.done():  # an interrupt left the loop
                task.cancel()
                self._loop.run_until_complete(asyncio.wait((task,)))

    def wait(self, timeout: float | None = None) -> None:
        """Wait until a reader was called back, or `timeout` seconds passed."""

        async def called_back() -> None:
            self._called_back.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._called_back.wait()
            except TimeoutError:
                pass  # which is what was asked for

        self.run(called_back())

    async def unary(
        self, method: Method, request: Message, *, metadata: Metadata = (), timeout: float | None = None
    ) -> Any:
        return await self._channel.unary(method, request, metadata=metadata, timeout=timeout)

    def start_unary(self, method: Method, request: Message, *, metadata: Metadata = ()) -> None:
        """Send a call whose answer is dropped when it comes."""
        task = self._loop.create_task(self._channel.unary(method, request, metadata=metadata))
        self._dropped.add(task)
        task.add_done_callback(self._dropped.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def stream(
        self,
        method: Method,
        requests: Message | AsyncIterator[Message],
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> AsyncGenerator[Any, None]:
        return self._channel.stream(method, requests, metadata=metadata, timeout=timeout)

    async def close(self) -> None:
        """Close the channel and end what `start_unary` left; the loop itself ends with the object."""
        for task in self._dropped:
            task.cancel()
        await self._channel.close()
