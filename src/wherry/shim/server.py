"""One shim, from its socket to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket

from wherry.linux import process
from wherry.rpc.ttrpc_server import TtrpcServer
from wherry.shim.core import Core
from wherry.shim.events import Publisher
from wherry.shim.reaper import Reaper
from wherry.shim.service_v1 import ShimService
from wherry.shim.service_v2 import TaskService, TaskServiceV3

log = logging.getLogger(__name__)

#: Events of runtime v1 that the shim itself publishes; the daemon publishes the others.
_V1_TOPICS = frozenset({"/tasks/exit"})


class Settings:
    """What a shim is told when it starts. `address` is the daemon's gRPC socket, `ttrpc_address` that for events."""

    def __init__(
        self,
        namespace: str,
        address: str = "",
        ttrpc_address: str = "",
        publish_binary: str = "",
        *,
        version: int = 2,
        runtime_root: str = "",
        systemd_cgroup: bool = False,
        criu: str = "",
        debug: bool = False,
    ) -> None:
        self.namespace = namespace
        self.address = address
        self.ttrpc_address = ttrpc_address
        self.publish_binary = publish_binary
        self.version = version
        self.runtime_root = runtime_root
        self.systemd_cgroup = systemd_cgroup
        self.criu = criu
        self.debug = debug


class _V1Publisher(Publisher):
    def publish(self, topic: str, event: object) -> None:
        if topic in _V1_TOPICS:
            super().publish(topic, event)  # type: ignore[arg-type]


def serve(sock: socket.socket, settings: Settings) -> None:
    """Be a shim on a listening socket until it is shut down; then remove the socket's file.

    The calling process becomes a subreaper and gives up its handling of SIGCHLD, SIGPIPE and SIGTERM.
    """
    process.become_subreaper()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # A service manager that stops the daemon's group must not take the containers' parents with it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    path = sock.getsockname()
    asyncio.run(_serve(sock, settings))
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # the daemon was quicker


async def _serve(sock: socket.socket, settings: Settings) -> None:
    reaper = Reaper()
    publisher = (_V1Publisher if settings.version == 1 else Publisher)(
        settings.namespace,
        ttrpc_address=settings.ttrpc_address,
        address=settings.address,
        binary=settings.publish_binary,
        reaper=reaper,
    )
    async with asyncio.TaskGroup() as tasks:
        core = Core(settings.namespace, publisher, reaper, tasks, settings.criu)
        server = TtrpcServer(
            [
                TaskService(core),
                TaskServiceV3(core),
                ShimService(core, settings.runtime_root, settings.systemd_cgroup),
            ]
        )
        publishing = tasks.create_task(publisher.run())
        serving = tasks.create_task(server.serve(sock))
        await core.ended.wait()
        # The answer to Shutdown goes out before the connections close.
        await asyncio.sleep(0)
        await server.close()
        await serving
        await core.flush()
        publishing.cancel()
    reaper.close()
