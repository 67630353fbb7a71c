"""A place for one test of a shim: names that nobody else has, a shim, FIFOs; and a look at what is left at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import wherry.api.metrics.cgroups.v1.metrics_pb2
import wherry.api.metrics.cgroups.v2.metrics_pb2  # noqa: F401 - so that figures can be unpacked
from tests.harness import leaks
from tests.harness.command import run
from tests.harness.names import Names
from tests.shim import bundle as bundles
from tests.shim.peers import Ours, Shim
from tests.shim.sink import Sink
from wherry.api import typeurl
from wherry.api.types.types_pb2 import Mount
from wherry.api.wellknown_pb2 import Any as AnyMessage


class Lab:
    """One test's directory, namespace, event sink and shims."""

    def __init__(self, rootfs: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ws-", dir="/tmp"))
        self.rootfs = rootfs
        self.names = Names()
        self.namespace = self.names.namespace("ts")
        self.sink = Sink(self.directory)
        self._shims: list[Shim] = []

    async def shim(
        self, kind: type[Shim], *arguments: str, spec: dict[str, Any] | bytes | None = None, **how: Any
    ) -> Container:
        """Start a shim with a bundle for a container that runs a command; `how` goes to bundle.spec."""
        id = self.names.id("c")
        document = spec if spec is not None else bundles.spec(self.namespace, id, arguments, **how)
        path = bundles.make(self.directory / id, document)
        shim = kind(self.namespace, path, self.sink)
        self._shims.append(shim)
        await shim.start()
        return Container(self, shim, id, path, terminal=bool(how.get("terminal")))

    def another(self, first: Container, *arguments: str, **how: Any) -> Container:
        """Return a further container for a shim that runs already."""
        id = self.names.id("c")
        path = bundles.make(self.directory / id, bundles.spec(self.namespace, id, arguments, **how))
        return Container(self, first.shim, id, path, terminal=bool(how.get("terminal")))

    async def finish(self) -> list[str]:
        """End everything; returns what was left behind, each as a sentence."""
        left: list[str] = []
        for shim in self._shims:
            with contextlib.suppress(FileNotFoundError):
                if shim.threads() != 1 and isinstance(shim, Ours):
                    left.append(f"threads in the shim: {shim.threads()}")
            await shim.close()
            if shim.late_imports.exists():
                left.append(f"imported after the start: {shim.late_imports.read_text()}")
        await self.sink.stop()
        left += await asyncio.to_thread(leaks.remaining, self._left)
        leaks.unmount(self.directory)
        if left:
            self._remove()
        leaks.tidy(self.names)
        shutil.rmtree(self.directory)
        return left

    def _remove(self) -> None:
        """Remove what was reported, so that it is nobody else's trouble."""
        root = f"/run/containerd/runc/{self.namespace}"
        for id in self.names.ids:
            run(["runc", "--root", root, "delete", "--force", id])
        for path in leaks.cgroups(self.namespace):
            with contextlib.suppress(OSError):
                path.rmdir()

    def _left(self) -> list[str]:
        left = [f"mount: {line}" for line in leaks.mounts() if f"{self.directory}/" in line]
        left += [f"process: {line}" for line in leaks.processes(f"{self.directory}/")]
        left += [f"process: {line}" for line in leaks.processes(self.namespace)]
        left += [f"cgroup: {path}" for path in leaks.cgroups(self.namespace)]
        left += [f"runc state: {path}" for path in leaks.entries(Path("/run/containerd/runc") / self.namespace)]
        return left


class Container:
    """A container of a lab: its requests, with its id in them."""

    def __init__(self, lab: Lab, shim: Shim, id: str, path: Path, *, terminal: bool) -> None:
        self.lab = lab
        self.shim = shim
        self.id = id
        self.bundle = path
        self.terminal = terminal
        self.v1 = hasattr(shim.messages, "ShimInfoResponse")

    # -- requests ---------------------------------------------------------------------------------------------------

    def _ids(self, exec_id: str = "") -> dict[str, Any]:
        if self.v1:
            return {"id": exec_id or self.id}
        return {"id": self.id, "exec_id": exec_id} if exec_id else {"id": self.id}

    @property
    def named(self) -> dict[str, Any]:
        """The field that names the container, in requests that name it in every version but the first."""
        return {} if self.v1 else {"id": self.id}

    async def create(self, **fields: Any) -> int:
        fields.setdefault("rootfs", [Mount(type="bind", source=str(self.lab.rootfs), options=["rbind", "ro"])])
        fields.setdefault("terminal", self.terminal)
        created = await self.shim.call("create", id=self.id, bundle=str(self.bundle), **fields)
        return int(created.pid)

    async def start(self, exec_id: str = "") -> int:
        return int((await self.shim.call("start", **self._ids(exec_id))).pid)

    async def state(self, exec_id: str = "") -> Any:
        return await self.shim.call("state", **self._ids(exec_id))

    async def wait(self, exec_id: str = "") -> Any:
        return await self.shim.call("wait", **self._ids(exec_id))

    async def kill(self, signal: int = 9, exec_id: str = "", *, all: bool = False) -> None:
        ids = self._ids(exec_id) if exec_id or not self.v1 else {}
        await self.shim.call("kill", signal=signal, all=all, **ids)

    async def delete(self, exec_id: str = "") -> Any:
        if self.v1 and exec_id:
            return await self.shim.call("delete_process", id=exec_id)
        return await self.shim.call("delete", **({} if self.v1 else self._ids(exec_id)))

    async def exec(self, exec_id: str, *arguments: str, document: Any = None, **fields: Any) -> None:
        made = bundles.process(*arguments, terminal=bool(fields.get("terminal"))) if document is None else document
        packed = AnyMessage(type_url=typeurl.PROCESS, value=json.dumps(made).encode())
        ids: dict[str, Any] = {"id": exec_id} if self.v1 else {"id": self.id, "exec_id": exec_id}
        await self.shim.call("exec", spec=packed, **ids, **fields)

    async def pids(self) -> Any:
        method = "list_pids" if self.v1 else "pids"
        return (await self.shim.call(method, id=self.id)).processes

    async def pause(self) -> None:
        await self.shim.call("pause", **self.named)

    async def resume(self) -> None:
        await self.shim.call("resume", **self.named)

    async def update(self, resources: dict[str, Any]) -> None:
        packed = AnyMessage(type_url=typeurl.LINUX_RESOURCES, value=json.dumps(resources).encode())
        await self.shim.call("update", resources=packed, **self.named)

    async def checkpoint(self, path: str) -> None:
        await self.shim.call("checkpoint", path=path, **self.named)

    async def resize(self, exec_id: str = "", width: int = 80, height: int = 24) -> None:
        await self.shim.call("resize_pty", width=width, height=height, **self._ids(exec_id))

    async def close_io(self, exec_id: str = "") -> None:
        await self.shim.call("close_io", stdin=True, **self._ids(exec_id))

    async def stats(self) -> Any:
        return typeurl.unpack((await self.shim.call("stats", id=self.id)).stats)

    # -- and what they are made of ----------------------------------------------------------------------------------

    async def run_to_end(self, **fields: Any) -> int:
        """Create, start, wait and delete; returns the exit status."""
        await self.create(**fields)
        await self.start()
        status = (await self.wait()).exit_status
        deleted = await self.delete()
        assert deleted.exit_status == status
        return int(status)

    async def stop(self) -> None:
        """Kill it and delete it."""
        with contextlib.suppress(Exception):
            await self.kill(9, all=True)
        await self.wait()
        await self.delete()

    async def end_shim(self) -> None:
        """Have the shim end, as a daemon does after the last delete."""
        if self.v1:
            await self.shim.close()
        else:
            await self.shim.shut_down(self.id)

    def fifo(self, name: str) -> str:
        """Make a FIFO and return its path."""
        path = f"{self.lab.directory}/{self.id}-{name}"
        os.mkfifo(path, 0o700)
        return path


class Reader:
    """A client that reads a FIFO to its end, opened before the container is made, as containerd's clients do."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._data = b""
        self._begun = False
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read)

    @property
    def data(self) -> bytes:
        return self._data

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        self._data += data
        # A FIFO that nobody has opened for writing yet does not wake epoll, so this is the end.
        if not data:
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._ended.set()

    async def ended(self) -> bytes:
        """Return all that came when the writers have closed."""
        async with asyncio.timeout(60):
            await self._ended.wait()
        return self._data

    async def until(self, text: bytes) -> None:
        """Return when the text has come."""
        async with asyncio.timeout(60):
            while text not in self._data:
                await asyncio.sleep(0.005)


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until something is so; TimeoutError after a minute."""
    async with asyncio.timeout(60):
        while True:
            value = condition()
            if not isinstance(value, bool):
                value = await value
            if value:
                return
            await asyncio.sleep(0.01)
