"""Finding a daemon and connecting to it: wherryd over ttrpc, anything of containerd's over gRPC."""

from __future__ import annotations

import os

from wherry.api.services.version.v1 import version_pb2
from wherry.api.wellknown_pb2 import Empty
from wherry.errors import Unavailable, Unimplemented
from wherry.rpc import socket_path
from wherry.rpc.blocking_channel import BlockingTtrpcChannel
from wherry.rpc.channel import Stub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from wherry.rpc.channel import Channel as Channel
    from wherry.rpc.grpc_channel import BlockingGrpcChannel

    #: What a synchronous client calls through.
    BlockingChannel = BlockingTtrpcChannel | BlockingGrpcChannel

DEFAULT_ADDRESS = "/run/wherry/wherry.sock"
DEFAULT_NAMESPACE = "default"
CONFIG_FILE = "/etc/wherry/config.toml"

#: Seconds to wait for a daemon to take a connection.
_TIMEOUT = 10.0


def find_address(flag: str | None, environment: Mapping[str, str]) -> str:
    """Return the socket to connect to: the flag, WHERRY_ADDRESS, CONTAINERD_ADDRESS, wherryd's file, the default."""
    for found in (flag, environment.get("WHERRY_ADDRESS"), environment.get("CONTAINERD_ADDRESS")):
        if found:
            return found.removeprefix("unix://")
    try:
        with open(CONFIG_FILE, "rb") as file:
            import tomllib  # only where there is a file: it costs 5 ms

            address = tomllib.load(file).get("address")
    except (OSError, ValueError):
        address = None  # wherryd itself tells what is wrong with its file
    return address if isinstance(address, str) else DEFAULT_ADDRESS


def find_namespace(flag: str | None, environment: Mapping[str, str]) -> str:
    """Return the namespace to work in: the flag, WHERRY_NAMESPACE, CONTAINERD_NAMESPACE, "default"."""
    for found in (flag, environment.get("WHERRY_NAMESPACE"), environment.get("CONTAINERD_NAMESPACE")):
        if found:
            return found
    return DEFAULT_NAMESPACE


def connect(address: str) -> BlockingChannel:
    """Connect to the daemon at a socket. Unavailable, saying what to do, if there is none; InvalidArgument for a path
    that is too long for one."""
    socket_path.check(address)
    if os.path.exists(address + ".ttrpc"):
        try:
            channel = BlockingTtrpcChannel.connect(address + ".ttrpc", _TIMEOUT)
        except Unavailable:
            raise _nobody(address) from None
        try:
            # containerd has this socket too, for its shims alone.
            channel.run(Stub(channel, version_pb2.DESCRIPTOR.services_by_name["Version"]).version(Empty()))
        except Unimplemented:
            channel.run(channel.close())
        else:
            return channel
    if not os.path.exists(address):
        raise _nobody(address)
    from wherry.rpc.grpc_channel import BlockingGrpcChannel

    return BlockingGrpcChannel.connect(address, _TIMEOUT)


async def connect_in_loop(address: str) -> Channel:
    """Connect to the wherryd at a socket once more, for use in the running event loop. Unavailable if it has gone."""
    from wherry.rpc.ttrpc_channel import TtrpcChannel

    try:
        return await TtrpcChannel.connect(address + ".ttrpc", _TIMEOUT)
    except Unavailable:
        raise _nobody(address) from None


def _nobody(address: str) -> Unavailable:
    return Unavailable(
        f"no daemon answers at {address}: start one with `wherryd` (or `systemctl start wherryd`), or name its socket "
        "with --address or WHERRY_ADDRESS"
    )
