"""The table of what a shim answers: every method in every state, as text that two shims can be compared by."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import wherry.api.runtime.linux.runctypes.runc_pb2
import wherry.api.runtime.runc.v1.options_pb2  # noqa: F401 - so that process details can be unpacked
from tests.shim.lab import Container, Lab, eventually
from tests.shim.peers import V1, Shim
from wherry.api import typeurl
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.errors import Error

Call = Callable[[Container], Awaitable[Any]]
Table = dict[tuple[str, str], str]

#: Seconds after which a wait is taken to block.
_BLOCKS = 0.4

_STATUS = {0: "unknown", 1: "created", 2: "running", 3: "stopped", 4: "paused", 5: "pausing"}

_SLEEP = ("sleep", "1000")


# -- states of init ---------------------------------------------------------------------------------------------------


async def absent(container: Container) -> None:
    """Nothing was created."""


async def created(container: Container) -> None:
    await container.create()


async def running(container: Container) -> None:
    await container.create()
    await container.start()


async def paused(container: Container) -> None:
    await running(container)
    await container.pause()


async def stopped(container: Container) -> None:
    await running(container)
    await container.kill()
    await container.wait()


async def killed_before_start(container: Container) -> None:
    await container.create()
    await container.kill()
    await container.wait()


async def deleted(container: Container) -> None:
    await stopped(container)
    await container.delete()


# -- states of an exec ------------------------------------------------------------------------------------------------


async def exec_created(container: Container) -> None:
    await running(container)
    await container.exec("e", *_SLEEP)


async def exec_running(container: Container) -> None:
    await exec_created(container)
    await container.start("e")


async def exec_running_in_paused(container: Container) -> None:
    await exec_running(container)
    await container.pause()


async def exec_created_in_paused(container: Container) -> None:
    await exec_created(container)
    await container.pause()


async def exec_stopped(container: Container) -> None:
    await running(container)
    await container.exec("e", "sh", "-c", "exit 7")
    await container.start("e")
    await container.wait("e")


async def exec_failed(container: Container) -> None:
    await running(container)
    await container.exec("e", "/no/such/program")
    with contextlib.suppress(Error):
        await container.start("e")


async def exec_deleted(container: Container) -> None:
    await exec_stopped(container)
    await container.delete("e")


async def exec_created_in_created(container: Container) -> None:
    await container.create()
    await container.exec("e", *_SLEEP)


async def exec_created_in_stopped(container: Container) -> None:
    await exec_created(container)
    await container.kill()
    await container.wait()


async def exec_running_in_stopped(container: Container) -> None:
    await exec_running(container)
    await container.kill()
    await container.wait()


# -- methods ----------------------------------------------------------------------------------------------------------


async def _resources(container: Container) -> None:
    await container.update({"pids": {"limit": 50}})


async def _nonsense(container: Container) -> None:
    resources = AnyMessage(type_url=typeurl.LINUX_RESOURCES, value=b"{")
    await container.shim.call("update", resources=resources, **container.named)


#: Those of init.
METHODS: dict[str, Call] = {
    "state": lambda c: c.state(),
    "wait": lambda c: c.wait(),
    "pids": lambda c: c.pids(),
    "resize": lambda c: c.resize(),
    "close io": lambda c: c.close_io(),
    "update": _resources,
    "update with nonsense": _nonsense,
    "pause": lambda c: c.pause(),
    "resume": lambda c: c.resume(),
    "exec": lambda c: c.exec("new", "true"),
    "exec with nonsense": lambda c: c.exec("bad", document=[1]),
    "start unknown exec": lambda c: c.start("nothing"),
    "state of unknown exec": lambda c: c.state("nothing"),
    "kill unknown exec": lambda c: c.kill(9, "nothing"),
    "delete unknown exec": lambda c: c.delete("nothing"),
    "wait for unknown exec": lambda c: c.wait("nothing"),
    "resize unknown exec": lambda c: c.resize("nothing"),
    "close io of unknown exec": lambda c: c.close_io("nothing"),
    "kill 0": lambda c: c.kill(0),
    "kill 999": lambda c: c.kill(999),
    "kill all 0": lambda c: c.kill(0, all=True),
    "kill WINCH": lambda c: c.kill(28),
    "start": lambda c: c.start(),
    "kill": lambda c: c.kill(9),
    "kill all": lambda c: c.kill(9, all=True),
    "delete": lambda c: c.delete(),
    "stats": lambda c: c.stats(),
}

#: Those of an exec called "e".
EXEC_METHODS: dict[str, Call] = {
    "state": lambda c: c.state("e"),
    "wait": lambda c: c.wait("e"),
    "pids": lambda c: c.pids(),
    "resize": lambda c: c.resize("e"),
    "close io": lambda c: c.close_io("e"),
    "exec": lambda c: c.exec("e", "true"),
    "kill 0": lambda c: c.kill(0, "e"),
    "kill 999": lambda c: c.kill(999, "e"),
    "kill": lambda c: c.kill(9, "e"),
    "start": lambda c: c.start("e"),
    "delete": lambda c: c.delete("e"),
    "delete init": lambda c: c.delete(),
}

STATES: dict[Callable[[Container], Awaitable[None]], dict[str, Call]] = {
    **dict.fromkeys((absent, created, running, paused, stopped, killed_before_start, deleted), METHODS),
    **dict.fromkeys(
        (
            exec_created,
            exec_running,
            exec_running_in_paused,
            exec_created_in_paused,
            exec_stopped,
            exec_failed,
            exec_deleted,
            exec_created_in_created,
            exec_created_in_stopped,
            exec_running_in_stopped,
        ),
        EXEC_METHODS,
    ),
}


async def table(lab: Lab, kind: type[Shim], skipped: set[tuple[str, str]]) -> Table:
    """Ask everything in every state, of a fresh container whenever the last answer changed its state."""
    answers: Table = {}
    for bring, methods in STATES.items():
        name = bring.__name__
        container: Container | None = None
        for method, call in methods.items():
            if (name, method) in skipped or (method == "stats" and issubclass(kind, V1)):
                continue
            if container is None:
                container = await lab.shim(kind, *_SLEEP)
                await bring(container)
                before = await _fingerprint(container)
            answers[name, method] = await _answer(container, call)
            # A kill's effect may be seen only later.
            if method.startswith(("kill", "start")) or await _fingerprint(container) != before:
                await _end(container)
                container = None
        if container is not None:
            await _end(container)
    return answers


async def sequence(
    lab: Lab, kind: type[Shim], bring: Callable[[Container], Awaitable[None]], *, kill: bool = True
) -> list[str]:
    """Bring a container to a state, kill it, delete it; return the events that were sent meanwhile."""
    before = len(lab.sink.events)
    container = await lab.shim(kind, *_SLEEP)
    await bring(container)
    with contextlib.suppress(Error):
        if kill:
            await container.kill(9)
            await container.wait()
        await container.delete()
    await _end(container)
    if not container.v1:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await eventually(lambda: "/tasks/delete" in lab.sink.topics[before:])
    await asyncio.sleep(0.1)
    return [_describe_event(container, topic, event) for topic, event in lab.sink.events[before:]]


def _describe_event(container: Container, topic: str, event: Any) -> str:
    words = [topic]
    for field, value in event.ListFields():
        if field.name == "pid":
            value = "some" if value else 0
        elif field.name == "exited_at":
            value = _time(value)
        elif field.name in ("bundle", "rootfs"):
            value = bool(value)
        elif field.message_type is not None:
            value = str(value).split()
        words.append(f"{field.name}={str(value).replace(container.id, 'ID')}")
    return " ".join(words)


async def _fingerprint(container: Container) -> tuple[Any, ...]:
    marks = []
    for exec_id in ("", "e", "new", "bad"):
        try:
            state = await container.state(exec_id)
            marks.append((state.status, bool(state.pid)))
        except Error as error:
            marks.append((error.code, False))
    return tuple(marks)


async def _answer(container: Container, call: Call) -> str:
    try:
        async with asyncio.timeout(None) as limit:
            if call in (METHODS["wait"], EXEC_METHODS["wait"]):
                limit.reschedule(asyncio.get_running_loop().time() + _BLOCKS)
            response = await call(container)
    except TimeoutError:
        return "blocks"
    except Error as error:
        text = error.message.strip()
        for name, stand_in in (
            (container.id, "ID"),
            (str(container.lab.directory), "DIR"),
            (container.lab.namespace, "NAMESPACE"),
        ):
            text = text.replace(name, stand_in)
        return f"{type(error).__name__}: {text}"
    return f"ok {_describe(container, response)}".strip()


def _describe(container: Container, response: Any) -> str:
    if response is None:
        return ""
    if isinstance(response, int):
        return "pid" if response else "no pid"
    if not hasattr(response, "DESCRIPTOR"):
        return " ".join(sorted(_info(process).replace(container.id, "ID") for process in response)) or "none"
    if "cgroups" in response.DESCRIPTOR.full_name:
        return "figures"
    fields = response.DESCRIPTOR.fields_by_name
    words = []
    if "status" in fields:
        words.append(_STATUS[response.status])
        words.append(response.id.replace(container.id, "ID"))
    for name in ("pid", "exit_status", "exited_at"):
        if name in fields:
            value = getattr(response, name)
            text = str(value) if name == "exit_status" else "some" if value else "0"
            words.append(f"{name}={_time(value) if name == 'exited_at' else text}")
    return " ".join(words)


def _info(process: Any) -> str:
    if not process.info.type_url:
        return "process"
    details: Any = typeurl.unpack(process.info)
    return f"{process.info.type_url}={details.exec_id}"


def _time(stamp: Any) -> str:
    return "never" if typeurl.nanoseconds(stamp) is None else "time"


async def _end(container: Container) -> None:
    for exec_id in ("new", "bad", "e"):
        with contextlib.suppress(Error):
            await container.delete(exec_id)
    with contextlib.suppress(Error):
        await container.resume()
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Error):
                await container.kill(9, all=True)
            try:
                await container.delete()
            except Error as error:
                if "running" not in error.message and "paused" not in error.message:
                    break
                await asyncio.sleep(0.02)
    await container.end_shim()
