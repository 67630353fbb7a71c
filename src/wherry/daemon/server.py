"""The daemon: everything made in its order, and undone in the reverse."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import AsyncExitStack

from wherry.daemon import log as daemon_log
from wherry.daemon import sockets
from wherry.daemon.collector import Collector
from wherry.daemon.config import Config
from wherry.daemon.exchange import Exchange
from wherry.daemon.mounts.manager import MountManager
from wherry.daemon.notify import notify
from wherry.daemon.plugins import plugins
from wherry.daemon.runtime import shims
from wherry.daemon.runtime.info import runtime_info
from wherry.daemon.runtime.shim_manager import ShimManager
from wherry.daemon.services.checkpoints import CheckpointArchives
from wherry.daemon.services.containers import ContainersService
from wherry.daemon.services.content import ContentService
from wherry.daemon.services.diff import DiffService
from wherry.daemon.services.events import EventsService, TtrpcEventsService
from wherry.daemon.services.health import HealthService
from wherry.daemon.services.images import ImagesService
from wherry.daemon.services.introspection import IntrospectionService
from wherry.daemon.services.leases import LeasesService
from wherry.daemon.services.mounts import MountsService
from wherry.daemon.services.namespaces import NamespacesService
from wherry.daemon.services.sandbox_controller import SandboxControllerService
from wherry.daemon.services.sandbox_store import SandboxStoreService
from wherry.daemon.services.snapshots import SnapshotsService
from wherry.daemon.services.streaming import StreamingService, Streams
from wherry.daemon.services.tasks import TasksService
from wherry.daemon.services.transfer import TransferService
from wherry.daemon.services.version import VersionService
from wherry.errors import FailedPrecondition
from wherry.images import process
from wherry.linux import ksm
from wherry.rpc.local_channel import LocalChannel
from wherry.rpc.service import Service
from wherry.rpc.ttrpc_server import TtrpcServer
from wherry.store.containers import ContainerStore
from wherry.store.content import ContentStore
from wherry.store.database import Database
from wherry.store.images import ImageStore
from wherry.store.leases import LeaseStore
from wherry.store.mounts import MountStore
from wherry.store.namespaces import NamespaceStore
from wherry.store.sandboxes import SandboxStore
from wherry.store.snapshots import Snapshotters, snapshotters
from wherry.store.snapshots.abandoned import UNPACKING, forget_abandoned
from wherry.transfer.session import Limits, Transfers
from wherry.transfer.verifier import Verifiers
from wherry.zygote.client import Zygote

log = logging.getLogger(__name__)

#: What the zygote has imported: the shim, what becomes another program, and the worker for layers.
ZYGOTE_TARGETS = (*shims.TARGETS, process.TARGET)

#: The database's file, below the root.
_DATABASE = "meta.db"


def run(config: Config) -> None:
    """Be the daemon until SIGTERM or SIGINT. FailedPrecondition if another one is in the way."""
    daemon_log.log_to_stderr(config.log_level, config.log_format)
    os.umask(0o022)
    try:
        asyncio.run(_run(config))
    except BaseExceptionGroup as group:
        raise _first(group) from group


async def _run(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as undo:
        undo.callback(os.close, sockets.lock(config.root, "root"))
        undo.callback(os.close, sockets.lock(config.state, "state"))
        for path in (config.address, config.ttrpc_address):
            sockets.make_way(path)
        await Daemon(config).start(undo)
        log.info("serving", extra={"address": config.address, "pid": os.getpid()})
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
        log.info("stopping: containers go on")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what went wrong first of what a group of tasks ended with."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Daemon:
    """One daemon's parts."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.exchange = Exchange()

    async def start(self, undo: AsyncExitStack) -> None:
        """Make the parts, find the tasks that are there, and serve; `undo` takes everything down again."""
        config = self.config
        # gRPC starts threads as soon as it is imported: the zygote is there before it, and makes all our children.
        if config.ksm and ksm.switch() != "1":
            log.warning("ksm: the kernel merges nothing; `echo 1 >/sys/kernel/mm/ksm/run` turns it on, if it has KSM")
        zygote = await Zygote.start(ZYGOTE_TARGETS, mergeable=config.ksm and bool(ksm.switch()))
        undo.push_async_callback(zygote.close)
        _raise_open_files()
        database = _open_database(os.path.join(config.root, _DATABASE))
        undo.callback(database.close)
        content = ContentStore(database, os.path.join(config.root, "io.containerd.content.v1.content"))
        await content.collect()
        spawn = process.zygote_spawner(zygote.fork)
        await forget_abandoned(database)
        layers = snapshotters(database, config.root, process.copier(spawn), process.settler(spawn))
        for snapshotter in layers.values():
            await snapshotter.collect()
            undo.push_async_callback(snapshotter.close)
        tasks = await undo.enter_async_context(asyncio.TaskGroup())
        background: list[asyncio.Task[None]] = []
        # On the way out, before the group waits for its tasks.
        undo.callback(lambda: [task.cancel() for task in background])
        collector = Collector(database, content, layers, self.exchange, config.gc)
        mounts = MountManager(MountStore(database), root=config.root, state=config.state, tasks=tasks)
        await mounts.start()
        collector.followers.append(mounts.collect)
        manager = ShimManager(
            root=config.root,
            state=config.state,
            address=config.address,
            ttrpc_address=config.ttrpc_address,
            shims_configured=config.runtimes,
            zygote=zygote,
            exchange=self.exchange,
            mounts=mounts,
            debug=config.log_level == "debug",
            no_shim=config.no_shim,
        )
        services = self._services(database, content, layers, collector, manager, mounts, spawn)
        # The ttrpc socket is there before shims are called: they have events to deliver.
        ttrpc = TtrpcServer(services)
        background.append(tasks.create_task(ttrpc.serve(sockets.listen(config.ttrpc_address))))
        undo.callback(_remove, config.ttrpc_address)
        found = asyncio.Event()
        background.append(tasks.create_task(manager.run(found)))
        await found.wait()
        background.append(tasks.create_task(collector.run()))
        from wherry.rpc.grpc_server import GrpcServer

        grpc = GrpcServer(services)
        await grpc.start(config.address)
        undo.callback(_remove, config.address)
        undo.push_async_callback(grpc.stop)

    def _services(
        self,
        database: Database,
        content: ContentStore,
        layers: Snapshotters,
        collector: Collector,
        manager: ShimManager,
        mounts: MountManager,
        spawn: process.Spawn,
    ) -> Sequence[Service]:
        exchange = self.exchange
        containers = ContainerStore(database)
        services: list[Service] = [
            VersionService(),
            IntrospectionService(plugins(self.config, layers), self.config.root, runtime_info(self.config.runtimes)),
            NamespacesService(NamespaceStore(database), exchange),
            ContainersService(containers, exchange, collector),
            ImagesService(ImageStore(database), exchange, collector),
            LeasesService(LeaseStore(database), collector),
            EventsService(exchange),
            TtrpcEventsService(exchange),
            ContentService(content, collector),
            SnapshotsService(layers, exchange, collector),
            DiffService(content, spawn, os.path.join(self.config.state, "layers")),
            TasksService(manager, containers, CheckpointArchives(content)),
            MountsService(mounts, MountStore(database)),
            SandboxStoreService(SandboxStore(database)),
            SandboxControllerService(manager, SandboxStore(database)),
        ]
        wanted = self.config.transfer
        streams = Streams()
        transfers = Transfers(
            LocalChannel(services),
            Limits(
                wanted.max_concurrent_downloads,
                wanted.max_concurrent_uploads,
                wanted.max_concurrent_unpacks or len(os.sched_getaffinity(0)),
            ),
            {UNPACKING: str(os.getpid())},
        )
        verifiers = Verifiers(wanted.verifiers, wanted.max_verifiers, wanted.verifier_timeout)
        services.append(StreamingService(streams))
        services.append(TransferService(transfers, streams, verifiers, wanted.hosts.split(":")))
        services.append(HealthService([service.descriptor.full_name for service in services]))
        return services


def _open_database(path: str) -> Database:
    try:
        return Database(path)
    except sqlite3.Error as error:
        raise FailedPrecondition(f"metadata database {path}: {error}") from None


def _raise_open_files() -> None:
    """Use as many descriptors as the administrator allows: every task has some.

    The zygote is there already, so shims and containers keep the limit that the daemon was started with.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
