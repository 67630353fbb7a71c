"""Services: classes with one async method an RPC. Routing comes from the protobuf descriptors.

A service names its descriptor and has, for each RPC ``ListPids`` it serves, a method ``list_pids``:

* unary: ``async def get(self, request, context) -> Response``
* server stream: ``def list(self, request, context) -> AsyncIterator[Response]`` (an async generator)
* client or two-way stream: ``def write(self, requests, context) -> AsyncIterator[Response]``

An RPC without a method is answered UNIMPLEMENTED, which is what clients fall back on.
"""

from __future__ import annotations

from wherry.protobuf import message_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, ClassVar

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message


class Method:
    """One RPC: its names, its message classes, whether either side streams, and what serves it."""

    __slots__ = ("client_streaming", "handler", "name", "request", "response", "server_streaming", "service")

    def __init__(self, service: str, descriptor: MethodDescriptor, handler: Callable[..., Any] | None = None) -> None:
        self.service = service
        self.name: str = descriptor.name
        self.request: type[Message] = message_class(descriptor.input_type.full_name)
        self.response: type[Message] = message_class(descriptor.output_type.full_name)
        self.client_streaming: bool = descriptor.client_streaming
        self.server_streaming: bool = descriptor.server_streaming
        self.handler = handler

    @property
    def streaming(self) -> bool:
        return self.client_streaming or self.server_streaming


def snake_case(name: str) -> str:
    """Return the Python name of an RPC: ``ListPids`` is ``list_pids``, ``CloseIO`` is ``close_io``."""
    letters = []
    for index, letter in enumerate(name):
        if letter.isupper() and index and (not name[index - 1].isupper() or name[index + 1 : index + 2].islower()):
            letters.append("_")
        letters.append(letter.lower())
    return "".join(letters)


class Service:
    """The base of every service: `descriptor` says which RPCs there are."""

    descriptor: ClassVar[ServiceDescriptor]

    def methods(self) -> Iterator[Method]:
        """Yield the RPCs that this service has a method for."""
        for descriptor in self.descriptor.methods:
            handler = getattr(self, snake_case(descriptor.name), None)
            if handler is not None:
                yield Method(self.descriptor.full_name, descriptor, handler)
