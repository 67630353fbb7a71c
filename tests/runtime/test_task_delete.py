"""Tasks.Delete, by several at once, and of a container that somebody has deleted past the daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import Containerd, ContainerdWithOurShims, Daemon, Wherryd, WherrydWithDebiansShims
from tests.runtime.test_survival import tasks, until
from wherry.api.runtime.task.v2 import task_pb2
from wherry.api.services.tasks.v1 import tasks_pb2
from wherry.errors import NotFound, Unavailable
from wherry.rpc.blocking_channel import BlockingTtrpcChannel
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.rpc.grpc_channel import BlockingGrpcChannel, GrpcChannel

DAEMONS = (Containerd, ContainerdWithOurShims, Wherryd, WherrydWithDebiansShims)


@pytest.mark.parametrize("kind", DAEMONS)
def test_a_container_that_was_deleted(start_daemon: StartDaemon, kind: type[Daemon], busybox_archive: Path) -> None:
    """The daemon says so, and forgets the task: its id can be used again."""
    daemon = start_daemon(kind())
    namespace, id = daemon.namespace(), daemon.id()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    flags = ("run", "--detach", "--null-io", BUSYBOX, id, "true")
    daemon.ctr(*flags, namespace=namespace).check()
    until(lambda: tasks(daemon, namespace)[id][1] == "STOPPED", "stopped")
    shim = BlockingTtrpcChannel.connect(str(leaks.shim_socket(daemon.address, namespace, id)))
    stub = Stub(shim, task_pb2.DESCRIPTOR.services_by_name["Task"])
    shim.run(stub.delete(task_pb2.DeleteRequest(id=id), metadata=metadata_for(namespace), timeout=30.0))
    shim.run(shim.close())
    channel = BlockingGrpcChannel.connect(daemon.address)
    service = Stub(channel, tasks_pb2.DESCRIPTOR.services_by_name["Tasks"])
    with pytest.raises(NotFound):
        request = tasks_pb2.DeleteTaskRequest(container_id=id)
        channel.run(service.delete(request, metadata=metadata_for(namespace), timeout=30.0))
    channel.run(channel.close())
    daemon.ctr("tasks", "start", "--detach", "--null-io", id, namespace=namespace).check()
    until(lambda: tasks(daemon, namespace)[id][1] == "STOPPED", "stopped")
    daemon.ctr("tasks", "rm", id, namespace=namespace).check()
    daemon.ctr("containers", "rm", id, namespace=namespace).check()


async def test_deletes_at_once(wherryd: Wherryd, busybox_archive: Path) -> None:
    namespace, id = wherryd.namespace(), wherryd.id()
    wherryd.ctr("images", "import", busybox_archive, namespace=namespace).check()
    channel = GrpcChannel(wherryd.address)
    service = Stub(channel, tasks_pb2.DESCRIPTOR.services_by_name["Tasks"])
    wherryd.ctr("containers", "create", BUSYBOX, id, "true", namespace=namespace).check()
    for _ in range(5):
        wherryd.ctr("tasks", "start", "--detach", "--null-io", id, namespace=namespace).check()
        until(lambda: tasks(wherryd, namespace)[id][1] == "STOPPED", "stopped")
        request = tasks_pb2.DeleteTaskRequest(container_id=id)
        deletes = (service.delete(request, metadata=metadata_for(namespace), timeout=30.0) for _ in range(8))
        results = await asyncio.gather(*deletes, return_exceptions=True)
        assert sum(not isinstance(result, BaseException) for result in results) == 1
        errors = [result for result in results if isinstance(result, BaseException)]
        # The shim may be gone before it could say so, as under containerd ("ttrpc: closed").
        assert {type(error) for error in errors} <= {NotFound, Unavailable}, errors
        assert not tasks(wherryd, namespace)
    await channel.close()
    wherryd.ctr("containers", "rm", id, namespace=namespace).check()
