"""containerd.services.introspection.v1.Introspection."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wherry.api.rpc.status_pb2 import Status
from wherry.api.services.introspection.v1 import introspection_pb2 as api
from wherry.api.types.types_pb2 import Platform, RuntimeRequest
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.api.wellknown_pb2 import Empty
from wherry.errors import InvalidArgument, NotFound
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service
from wherry.store import filters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    #: Asks a runtime's shim what it is; takes a runtime's name or path and its options.
    RuntimeInfo = Callable[[str, AnyMessage], Awaitable[AnyMessage]]

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
_UUID_FILE = "uuid"


@dataclass(frozen=True)
class Plugin:
    """A part of this server, by containerd's names for its type and id."""

    type: str
    id: str
    requires: Sequence[str] = ()
    exports: Mapping[str, str] = field(default_factory=dict)
    capabilities: Sequence[str] = ()
    on_platform: bool = False
    error: str = ""


def host_platform() -> Platform:
    """Return the platform whose containers run here."""
    machine = platform.machine()
    return Platform(os="linux", architecture=_ARCHITECTURES.get(machine, machine))


class IntrospectionService(Service):
    """Which plugins this server has, and which server it is. No call needs a namespace."""

    descriptor = api.DESCRIPTOR.services_by_name["Introspection"]

    def __init__(self, plugins: Sequence[Plugin], root: str, runtime_info: RuntimeInfo) -> None:
        self._plugins = plugins
        self._uuid = _stored_uuid(os.path.join(root, _UUID_FILE))
        self._runtime_info = runtime_info

    async def plugins(self, request: Any, context: CallContext) -> api.PluginsResponse:
        try:
            matches = filters.parse_all(request.filters)
        except InvalidArgument as error:
            # containerd names the kind of an error in a filter once for the parser and once for the service.
            raise InvalidArgument(f"{error.message}: {error.kind}") from None
        found = [_to_message(plugin) for plugin in self._plugins if matches(_adaptor(plugin))]
        return api.PluginsResponse(plugins=found)

    async def server(self, request: Empty, context: CallContext) -> api.ServerResponse:
        return api.ServerResponse(uuid=self._uuid, pid=os.getpid(), pidns=os.stat("/proc/self/ns/pid").st_ino)

    async def plugin_info(self, request: Any, context: CallContext) -> api.PluginInfoResponse:
        for plugin in self._plugins:
            if (plugin.type, plugin.id) == (request.type, request.id):
                break
        else:
            raise NotFound(f"plugin {request.type}.{request.id}")
        response = api.PluginInfoResponse(plugin=_to_message(plugin))
        if plugin.type == "io.containerd.runtime.v2" and request.HasField("options"):
            try:
                asked = RuntimeRequest.FromString(request.options.value)
            except Exception as error:
                raise InvalidArgument(f"options of the runtime plugin: {error}") from None
            response.extra.CopyFrom(await self._runtime_info(asked.runtime_path, asked.options))
        return response


def _to_message(plugin: Plugin) -> api.Plugin:
    return api.Plugin(
        type=plugin.type,
        id=plugin.id,
        requires=plugin.requires,
        platforms=[host_platform()] if plugin.on_platform else [],
        exports=plugin.exports,
        capabilities=plugin.capabilities,
        init_err=Status(code=2, message=plugin.error) if plugin.error else None,
    )


def _adaptor(plugin: Plugin) -> filters.Adaptor:
    def ask(path: list[str]) -> tuple[str, bool]:
        if path == ["type"]:
            return plugin.type, True
        if path == ["id"]:
            return plugin.id, True
        return "", False

    return ask


def _stored_uuid(path: str) -> str:
    try:
        with open(path) as file:
            return str(uuid.UUID(file.read().strip()))
    except (FileNotFoundError, ValueError):
        made = str(uuid.uuid4())
        with open(path, "w") as file:
            file.write(made)
        return made
