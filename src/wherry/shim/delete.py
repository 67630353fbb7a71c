"""`delete`: remove what a shim that is gone left of its container. No event loop, no thread."""

from __future__ import annotations

import os
import time

from wherry.api import typeurl
from wherry.api.runtime.task.v2.task_pb2 import DeleteResponse
from wherry.linux import mount
from wherry.linux.process import open_by_argument, wait_all
from wherry.shim import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.api.runtime.runc.v1.options_pb2 import Options

#: 128 + SIGKILL: nobody saw how it ended.
_UNSEEN_EXIT = 137

#: Seconds for what a dead shim had asked of the OCI runtime.
_RUNTIME_TIMEOUT = 5.0

#: What the stock shims answer for a container that never had a process.
_NO_PID = (1 << 32) - 1


def delete(bundle: str, namespace: str, id: str) -> bytes:
    """Kill and delete the container, unmount its root file system; return a marshalled DeleteResponse.

    Everything may be gone already: after a normal end it is.
    """
    recorded = record.read(bundle)
    # A create that the shim had asked for goes on without it, and would make what is removed now.
    wait_all(open_by_argument(os.path.join(os.path.abspath(bundle), "log.json")), _RUNTIME_TIMEOUT)
    pid = _init_pid(bundle)
    if pid is not None or os.path.exists(os.path.join(bundle, "log.json")):
        _delete_container(recorded, namespace, id)
    mount.unmount_all(os.path.join(bundle, "rootfs"), mount.MNT_DETACH)
    status, at = record.read_exit(bundle) or (_UNSEEN_EXIT, time.time_ns())
    response = DeleteResponse(pid=_NO_PID if pid is None else pid, exit_status=status, exited_at=typeurl.timestamp(at))
    return response.SerializeToString()


def _init_pid(bundle: str) -> int | None:
    try:
        with open(os.path.join(bundle, "init.pid")) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _delete_container(recorded: Options, namespace: str, id: str) -> None:
    root = record.runtime_root(recorded, namespace)
    binary = record.runtime_binary(recorded)
    if binary == record.BUILTIN:
        _delete_builtin(root, id)
        return
    if not record.has_state(root, id):
        return
    command = [binary, "--root", root]
    if recorded.systemd_cgroup:
        command.append("--systemd-cgroup")
    command += ["delete", "--force", id]
    null = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)]
    try:
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=null)
    except OSError:
        return  # the runtime was removed: its containers' mounts go all the same
    os.waitpid(pid, 0)


def _delete_builtin(root: str, id: str) -> None:
    from wherry.errors import Error
    from wherry.runc.container import Container

    try:
        Container.load(root, id).delete(force=True)
    except Error:
        return  # there is none, or its hook failed: its mounts go all the same
