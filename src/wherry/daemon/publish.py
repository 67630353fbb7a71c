"""`wherryd publish`: how a shim without a ttrpc connection sends an event. It runs for each, so it imports little."""

from __future__ import annotations

import os
import sys

from wherry.errors import Error, InvalidArgument, Unavailable, Unimplemented
from wherry.protobuf import import_only_the_core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from wherry.rpc.blocking_channel import BlockingTtrpcChannel
    from wherry.rpc.grpc_channel import BlockingGrpcChannel

#: Seconds that an event may take: a shim's own limit.
_TIMEOUT = 5.0

_USAGE = """\
usage: wherryd --address SOCKET publish --topic TOPIC --namespace NAMESPACE

Publish an event: a serialized google.protobuf.Any, read from standard input. Shims run this.
"""

_NEEDED = ("address", "topic", "namespace")
#: Flags of the daemon's that may stand before the command and mean nothing here.
_IGNORED = ("config", "root", "state", "log-level", "log-format")


def main(arguments: Sequence[str]) -> int:
    """Run the command line `[flags] publish [flags]` and return its exit status."""
    if "-h" in arguments or "--help" in arguments:
        sys.stdout.write(_USAGE)
        return 0
    try:
        flags = parse(arguments, os.environ.get("WHERRY_ADDRESS", ""))
    except InvalidArgument as error:
        sys.stderr.write(f"wherryd publish: {error.message.removesuffix(f': {error.kind}')}\n{_USAGE}")
        return 2
    try:
        publish(flags["address"], flags["topic"], flags["namespace"], sys.stdin.buffer.read())
    except Error as error:
        sys.stderr.write(f"wherryd publish: {error.message}\n")
        return 1
    return 0


def parse(arguments: Sequence[str], address: str) -> dict[str, str]:
    """Return the values of the flags, written with one dash or two, as Go's flags are. InvalidArgument for others."""
    flags = {"address": address}
    words = iter(arguments)
    for word in words:
        if word == "publish":
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name not in (*_NEEDED, *_IGNORED):
            raise InvalidArgument(f"unknown argument {word}")
        flags[name] = value if equals else next(words, "")
    for name in _NEEDED:
        if not flags.get(name):
            raise InvalidArgument(f"--{name} is required")
    return flags


def publish(address: str, topic: str, namespace: str, data: bytes) -> None:
    """Publish a serialized Any on the daemon with this gRPC address: wherryd, or containerd itself.

    Raises the daemon's error; Unavailable if nobody answers.
    """
    import_only_the_core()
    from wherry.api.wellknown_pb2 import Any
    from wherry.rpc.blocking_channel import BlockingTtrpcChannel

    try:
        event = Any.FromString(data)
    except Exception:
        raise InvalidArgument("standard input is no google.protobuf.Any") from None
    path = address.removeprefix("unix://")
    try:
        _publish(BlockingTtrpcChannel.connect(path + ".ttrpc", _TIMEOUT), topic, namespace, event)
    except (Unavailable, Unimplemented):
        # containerd has this service on its gRPC socket only.
        from wherry.rpc.grpc_channel import BlockingGrpcChannel

        _publish(BlockingGrpcChannel.connect(path, _TIMEOUT), topic, namespace, event)


def _publish(channel: BlockingTtrpcChannel | BlockingGrpcChannel, topic: str, namespace: str, event: Any) -> None:
    from wherry.api.services.events.v1 import events_pb2
    from wherry.rpc.channel import Stub
    from wherry.rpc.context import metadata_for

    stub = Stub(channel, events_pb2.DESCRIPTOR.services_by_name["Events"])
    request = events_pb2.PublishRequest(topic=topic, event=event)
    try:
        channel.run(stub.publish(request, metadata=metadata_for(namespace), timeout=_TIMEOUT))
    finally:
        channel.run(channel.close())
