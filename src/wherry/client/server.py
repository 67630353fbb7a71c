"""The daemon itself: its version and its parts."""

from __future__ import annotations

from wherry.api.services.introspection.v1 import introspection_pb2
from wherry.api.wellknown_pb2 import Empty
from wherry.errors import Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from wherry.api.services.introspection.v1.introspection_pb2 import Plugin as Plugin
    from wherry.client.client import Client


class ServerVersion:
    """What a daemon says of itself; "" for what it does not say."""

    __slots__ = ("revision", "uuid", "version")

    def __init__(self, version: str, revision: str, uuid: str) -> None:
        self.version = version
        self.revision = revision
        self.uuid = uuid


async def version(client: Client) -> ServerVersion:
    """Return the daemon's version and its id, which a restart does not change."""
    answer = await client.version.version(Empty())
    try:
        uuid = (await client.introspection.server(Empty())).uuid
    except Unimplemented:
        uuid = ""
    return ServerVersion(answer.version, answer.revision, uuid)


async def plugins(client: Client, filters: Iterable[str] = ()) -> list[Plugin]:
    """Return the daemon's parts that match one of the filters; all of them if there is none."""
    response = await client.introspection.plugins(introspection_pb2.PluginsRequest(filters=filters))
    return list(response.plugins)
