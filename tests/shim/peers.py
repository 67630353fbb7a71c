"""Shims to drive: the core of ours in a process of its own, and Debian's of either version."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.harness.command import environment
from tests.shim.sink import Sink
from wherry.api.runtime.linux.shim.v1 import shim_pb2 as v1
from wherry.api.runtime.task.v2 import task_pb2 as v2
from wherry.api.runtime.task.v3 import task_pb2 as v3
from wherry.api.wellknown_pb2 import Empty
from wherry.linux.own_executable import protected_file
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.rpc.ttrpc_channel import TtrpcChannel

#: Runs the core of our shim on an inherited socket, and writes down every import that comes after its start.
_OURS = """
import os, socket, sys
os.close(PROGRAM)
from wherry.protobuf import import_only_the_core
import_only_the_core()
from wherry.shim.log import log_to
from wherry.shim.server import Settings, serve

class Late:
    def find_spec(self, name, path=None, target=None):
        with open(sys.argv[2], "a") as report:
            report.write(name + "\\n")

sys.meta_path.insert(0, Late())
log_to(2, 10)
serve(
    socket.socket(fileno=int(sys.argv[1])),
    Settings(sys.argv[3], sys.argv[4], sys.argv[5], sys.argv[6], version=int(sys.argv[7])),
)
"""


class Shim:
    """A running shim and a client of it. `call` makes a request of any of its RPCs and awaits the answer."""

    def __init__(self, namespace: str, bundle: Path, sink: Sink) -> None:
        self.namespace = namespace
        self.bundle = bundle
        self.sink = sink
        self.pid = 0
        self.late_imports = bundle.with_suffix(".late")
        self.log = bundle.with_suffix(".log")
        self.messages: Any = v2
        self._channel: TtrpcChannel | None = None
        self._stub: Stub

    async def start(self) -> None:
        raise NotImplementedError

    async def _connect(self, path: str, service: str = "Task") -> None:
        self._channel = await TtrpcChannel.connect(path)
        self._stub = Stub(self._channel, self.messages.DESCRIPTOR.services_by_name[service])

    async def call(self, method: str, *, message: str = "", timeout: float = 60.0, **fields: Any) -> Any:
        """Call an RPC by its Python name, with the fields of its request."""
        kind = message or _REQUESTS.get(method, "".join(word.title() for word in method.split("_")) + "Request")
        request = Empty() if kind == "Empty" else getattr(self.messages, kind)(**fields)
        call = getattr(self._stub, method)
        return await call(request, metadata=metadata_for(self.namespace), timeout=timeout)

    async def shut_down(self, id: str) -> None:
        """Ask it to end, and wait until the connection ends."""
        with contextlib.suppress(Exception):  # the answer may be lost
            await self.call("shutdown", id=id)
        assert self._channel is not None
        async with asyncio.timeout(30):
            await self._channel.closed

    async def close(self) -> None:
        """End it, however."""
        if self._channel is not None:
            await self._channel.close()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))


_REQUESTS = {
    "create": "CreateTaskRequest",
    "exec": "ExecProcessRequest",
    "checkpoint": "CheckpointTaskRequest",
    "update": "UpdateTaskRequest",
    "close_io": "CloseIORequest",
}


def listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


class Ours(Shim):
    """The core of our shim."""

    async def start(self) -> None:
        path = self.bundle.with_suffix(".sock")
        with listen(path) as sock, open(self.log, "ab") as log, open(protected_file(), "rb") as program:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _OURS.replace("PROGRAM", str(program.fileno()))),
                    *(str(sock.fileno()), str(self.late_imports)),
                    *(self.namespace, "/run/none.sock", *self._events(), str(self._version())),
                ],
                executable=f"/proc/self/fd/{program.fileno()}",
                pass_fds=[sock.fileno(), program.fileno()],
                cwd=self.bundle,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid
        await self._connect(str(path))

    def _events(self) -> list[str]:
        return [self.sink.path, ""]

    def _version(self) -> int:
        return 2

    async def close(self) -> None:
        await super().close()
        self._process.wait()

    async def shut_down(self, id: str) -> None:
        await super().shut_down(id)
        await self.ended()  # it tells its last events after its connections are closed

    async def ended(self) -> int:
        """Return its exit status when it has ended."""
        async with asyncio.timeout(30):
            while self._process.poll() is None:
                await asyncio.sleep(0.01)
        return self._process.returncode


class OursV3(Ours):
    """The same, spoken to by the names of version 3."""

    def __init__(self, namespace: str, bundle: Path, sink: Sink) -> None:
        super().__init__(namespace, bundle, sink)
        self.messages = v3

    def _version(self) -> int:
        return 3


class StockV2(Shim):
    """Debian's containerd-shim-runc-v2, started by its own command line."""

    _path = ""

    async def start(self) -> None:
        address = f"{self.bundle.parent}/d.sock"
        # It ends without a reader of its log.
        os.mkfifo(self.bundle / "log", 0o700)
        self._log_fifo = os.open(self.bundle / "log", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        started = subprocess.run(
            [
                *("containerd-shim-runc-v2", "-namespace", self.namespace, "-address", address),
                *("-publish-binary", str(self.sink.binary), "-id", self.bundle.name, "start"),
            ],
            cwd=self.bundle,
            env=environment({"TTRPC_ADDRESS": self.sink.path}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        )
        path = started.stdout.decode().strip().removeprefix("unix://")
        self._path = path
        await self._connect(path)
        self.pid = (await self.call("connect", id=self.bundle.name)).shim_pid

    async def close(self) -> None:
        await super().close()
        os.close(self._log_fifo)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


class V1(Shim):
    """A shim spoken to by version 1."""

    def __init__(self, namespace: str, bundle: Path, sink: Sink) -> None:
        super().__init__(namespace, bundle, sink)
        self.messages = v1

    async def call(self, method: str, *, message: str = "", timeout: float = 60.0, **fields: Any) -> Any:
        if method in ("delete", "pause", "resume", "shim_info"):
            message = "Empty"
        if method == "create":
            fields.setdefault("runtime", "runc")
        return await super().call(method, message=message, timeout=timeout, **fields)


class OursV1(V1, Ours):
    """The core of ours, serving version 1 and publishing as it does."""

    async def _connect(self, path: str, service: str = "Shim") -> None:
        await super()._connect(path, service)

    def _events(self) -> list[str]:
        return ["", str(self.sink.binary)]

    def _version(self) -> int:
        return 1


class StockV1(V1):
    """Debian's containerd-shim: it is given its listening socket as descriptor 3."""

    async def start(self) -> None:
        path = self.bundle.with_suffix(".sock")
        work = self.bundle.with_suffix(".work")
        work.mkdir()
        with listen(path) as sock, open(self.log, "ab") as log:
            command = ["containerd-shim", "-namespace", self.namespace, "-workdir", str(work)]
            command += ["-address", f"{self.bundle.parent}/d.sock", "-containerd-binary", str(self.sink.binary)]
            number = sock.fileno()
            self._process = subprocess.Popen(
                command,
                pass_fds=[3],
                preexec_fn=lambda: os.dup2(number, 3),  # before all but 3 are closed
                cwd=self.bundle,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid
        await self._connect(str(path), "Shim")

    async def close(self) -> None:
        await super().close()
        self._process.wait()
