"""The states of a container's processes, and what each refuses, in containerd's words.

What a state does not name it allows. Refusals are of no kind (UNKNOWN), as containerd's are.
"""

from __future__ import annotations

from wherry.api.types.task import task_pb2
from wherry.errors import Unknown


class State:
    """One state: the status that it shows as, and its refusals by operation."""

    __slots__ = ("_refusals", "name", "status")

    def __init__(self, name: str, status: task_pb2.Status, **refusals: str) -> None:
        self.name = name
        self.status = status
        self._refusals = refusals

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def require(self, operation: str) -> None:
        """Raise this state's refusal of an operation, if it has one."""
        refusal = self._refusals.get(operation)
        if refusal is not None:
            raise Unknown(refusal)


# -- of init, the process whose life is the container's --------------------------------------------------------------

CREATED = State(
    "created",
    task_pb2.CREATED,
    pause="cannot pause task in created state",
    resume="cannot resume task in created state",
    checkpoint="cannot checkpoint a task in created state",
)
#: Nothing runs yet; start restores a checkpoint.
CREATED_FROM_CHECKPOINT = State(
    "created from checkpoint",
    task_pb2.CREATED,
    pause="cannot pause task in created state",
    resume="cannot resume task in created state",
    checkpoint="cannot checkpoint a task in created state",
    exec="cannot exec in a created state",
)
RUNNING = State(
    "running",
    task_pb2.RUNNING,
    start="cannot start a running process",
    delete="cannot delete a running process",
    resume="cannot resume a running process",
)
#: While the runtime pauses it. Nothing meets this state but looks, kills and the exit.
PAUSING = State("pausing", task_pb2.PAUSING)
PAUSED = State(
    "paused",
    task_pb2.PAUSED,
    start="cannot start a paused process",
    delete="cannot delete a paused process",
    pause="cannot pause a paused container",
    exec="cannot exec in a paused state",
)
STOPPED = State(
    "stopped",
    task_pb2.STOPPED,
    start="cannot start a stopped process",
    pause="cannot pause a stopped container",
    resume="cannot resume a stopped container",
    update="cannot update a stopped container",
    checkpoint="cannot checkpoint a stopped container",
    exec="cannot exec in a stopped state",
)
#: Of a container that no request can name any more, and of a deleted exec.
DELETED = State(
    "deleted",
    task_pb2.STOPPED,
    start="cannot start a deleted process",
    delete="cannot delete a deleted process",
)

# -- of execs --------------------------------------------------------------------------------------------------------

EXEC_CREATED = State("created", task_pb2.CREATED)
EXEC_RUNNING = State(
    "running",
    task_pb2.RUNNING,
    start="cannot start a running process",
    delete="cannot delete a running process",
)
EXEC_STOPPED = State(
    "stopped",
    task_pb2.STOPPED,
    start="cannot start a stopped process",
    resize="cannot resize a stopped container",
)
#: Its start failed: it looks created, waits for it end, and it can only be deleted. containerd's shims die of a second
#: start, so these words are ours.
EXEC_FAILED = State("failed", task_pb2.CREATED, start="cannot start a process whose start has failed")
