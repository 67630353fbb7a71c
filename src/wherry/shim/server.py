"""One shim, from its socket to its end."""

from __future__ import annotations

import asyncio
import codecs
import os
import signal
import socket

from wherry.linux import loop as _loop_devices  # noqa: F401 - what mounts would import late
from wherry.linux import process
from wherry.rpc.ttrpc_server import TtrpcServer
from wherry.shim.core import Core
from wherry.shim.events import V1_TOPICS, Publisher
from wherry.shim.reaper import Reaper
from wherry.shim.sandbox import SandboxService
from wherry.shim.service_v1 import ShimService
from wherry.shim.service_v2 import TaskService, TaskServiceV3
from wherry.shim.tasks import Tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

# A shim imports everything at its start, since the package may be replaced while it lives; codecs are found by import.
for _codec in ("ascii", "latin-1", "unicode_escape", "utf-8"):
    codecs.lookup(_codec)

#: Seconds that the shim takes at its end to deliver the last events.
_FLUSH_TIMEOUT = 5.0


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
    def publish(self, topic: str, event: Message) -> None:
        if topic in V1_TOPICS:
            super().publish(topic, event)


def serve(sock: socket.socket, settings: Settings) -> None:
    """Be a shim on a listening socket until it is shut down; the socket's file is removed then.

    The calling process becomes a subreaper and gives up its handling of SIGCHLD, SIGPIPE, SIGINT, SIGTERM and SIGHUP;
    no descriptor but the standard ones is passed on to programs any more.
    """
    process.become_subreaper()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # A service manager that stops the daemon's group must not take the containers' parents with it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The kernel hangs up a process group that has no parent in its session when one of its members is stopped.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _keep_descriptors()
    asyncio.run(_serve(sock, settings))


def _keep_descriptors() -> None:
    """Mark what this process was started with to be closed in programs: a container must not inherit our socket."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2:
            try:
                os.set_inheritable(fd, False)
            except OSError:
                continue  # that of the listing itself, closed by now


async def _serve(sock: socket.socket, settings: Settings) -> None:
    reaper = Reaper()
    publisher = (_V1Publisher if settings.version == 1 else Publisher)(
        settings.namespace,
        ttrpc_address=settings.ttrpc_address,
        address=settings.address,
        binary=settings.publish_binary,
        reaper=reaper,
    )
    remove = _SocketFile(sock.getsockname()).remove
    async with asyncio.TaskGroup() as group:
        tasks = Tasks(group)
        core = Core(settings.namespace, publisher, reaper, tasks, settings.criu)
        server = TtrpcServer(
            [
                TaskService(core),
                TaskServiceV3(core),
                ShimService(core, settings.runtime_root, settings.systemd_cgroup),
                SandboxService(core, tasks, publisher.flush),
            ]
        )
        publishing = tasks.start(publisher.run())
        serving = tasks.start(server.serve(sock))
        await core.ended.wait()
        # First of all, so that nobody finds it and is then left alone.
        remove()
        # The answer to Shutdown goes out before the connections close.
        await asyncio.sleep(0)
        await server.close()
        await serving
        await publisher.flush(_FLUSH_TIMEOUT)
        publishing.cancel()
    reaper.close()


class _SocketFile:
    """The file of the listening socket: another shim's may have taken its name by the time that ours ends."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity = self._look()

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        # The number of an inode may be given to the next file at once.
        return found.st_dev, found.st_ino, found.st_ctime_ns

    def remove(self) -> None:
        if self._identity is not None and self._look() == self._identity:
            os.unlink(self._path)
