"""The process document of an exec: the container's own, changed."""

from __future__ import annotations

import json

from wherry.api.services.containers.v1 import containers_pb2
from wherry.oci import spec as oci_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from wherry.client.client import Client


async def exec_process(
    client: Client,
    container: str,
    args: Sequence[str],
    *,
    terminal: bool = False,
    env: Sequence[str] = (),
    cwd: str = "",
    user: str = "",
) -> dict[str, Any]:
    """Return the OCI process document of a command to run beside a container's own process.

    NotFound without such a container; a user that is a name is looked up in the running container's files.
    """
    request = containers_pb2.GetContainerRequest(id=container)
    response = await client.containers.get(request, metadata=client.metadata)
    spec = json.loads(response.container.spec.value)
    process: dict[str, Any] = spec["process"]
    process["args"] = list(args)
    process["terminal"] = terminal
    if terminal:
        oci_spec.set_terminal(spec)
    oci_spec.add_environment(spec, env)
    if cwd:
        process["cwd"] = cwd
    if user:
        process["user"] = await _user(client, container, user)
    return process


async def _user(client: Client, container: str, user: str) -> dict[str, object]:
    from wherry.api.services.tasks.v1 import tasks_pb2
    from wherry.client.rootfs_mounted import read_files_below
    from wherry.oci.user import resolve

    task = await client.tasks.get(tasks_pb2.GetRequest(container_id=container), metadata=client.metadata)
    passwd, group = read_files_below(f"/proc/{task.process.pid}/root", ("/etc/passwd", "/etc/group"))
    return resolve(user, passwd, group).to_json()
