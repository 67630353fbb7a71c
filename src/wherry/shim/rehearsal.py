"""A rehearsal: one call to a shim's services over a socket pair, before there is anybody to call.

Pages that a forked process touches for the first time are copied then: some thousand of them in a first call. A shim
that was forked ahead of its container has that behind it.
"""

from __future__ import annotations

import asyncio
import socket

from wherry.api.runtime.task.v3 import task_pb2
from wherry.rpc.channel import Stub
from wherry.rpc.ttrpc_channel import TtrpcChannel
from wherry.rpc.ttrpc_server import TtrpcServer
from wherry.shim.core import Core
from wherry.shim.events import Publisher
from wherry.shim.reaper import Reaper
from wherry.shim.service_v1 import ShimService
from wherry.shim.service_v2 import TaskService, TaskServiceV3
from wherry.shim.tasks import Tasks


def rehearse() -> None:
    """Serve one call to ourselves."""
    asyncio.run(_rehearse())


async def _rehearse() -> None:
    reaper = Reaper()
    # Autobound: an abstract name of the kernel's choice, for the length of one call between this process and itself.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind("")
        listener.listen(1)
        publisher = Publisher("rehearsal", ttrpc_address="", address="", binary="", reaper=reaper)
        async with asyncio.TaskGroup() as group:
            tasks = Tasks(group)
            core = Core("rehearsal", publisher, reaper, tasks)
            server = TtrpcServer([TaskService(core), TaskServiceV3(core), ShimService(core, "", False)])
            serving = tasks.start(server.serve(listener))
            await asyncio.sleep(0)
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.connect(listener.getsockname())
            channel = await TtrpcChannel.from_socket(client)
            stub = Stub(channel, task_pb2.DESCRIPTOR.services_by_name["Task"])
            await stub.connect(task_pb2.ConnectRequest(id="rehearsal"))
            await channel.close()
            await server.close()
            await serving
    reaper.close()
