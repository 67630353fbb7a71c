"""Containers that live their whole lives while something is killed, and what must be true afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from tests.faults.inject import sitecustomize as inject
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import Wherryd
from tests.shim.bundle import process
from wherry.api.events.events_pb2 import TaskExit
from wherry.api.types.task import task_pb2
from wherry.client.client import Client
from wherry.client.events import subscribe
from wherry.client.run import RunOptions, Task, Timing, create_container
from wherry.client.tasks import Tasks
from wherry.errors import Error, NotFound, Unavailable
from wherry.rpc.ttrpc_channel import TtrpcChannel

#: What ends containers: their own program, when it is told to; and everybody else.
TOLD, KILLED = 7, 137

SCRIPT = f"trap 'exit {TOLD}' TERM; : > /ready; while :; do sleep 0.02; done"

#: Lives at the same time, and seconds that one may take while others are killed around it.
AT_ONCE, PATIENCE = 4, 60.0


class Life:
    """One container: what was done to it, and what was said of its end."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.pid = 0
        #: Whether a signal that ends it was acknowledged.
        self.told = False
        #: Whether its client has nothing more to do, or has given up.
        self.over = False
        self.statuses: set[int] = set()


class Fleet:
    """A daemon with named steps, started again whenever it dies, and lives to try it with."""

    def __init__(self, daemon: Wherryd, archive: Path, seed: int) -> None:
        self.daemon = daemon
        self.faults = Path(daemon._env["WHERRY_TEST_FAULTS"])
        self.namespace = daemon.namespace()
        self.chance = random.Random(seed)
        self.restarts = 0
        self.kills: Counter[str] = Counter()
        self._numbers = itertools.count()
        self._exits: defaultdict[str, set[int]] = defaultdict(set)
        daemon.ctr("images", "import", archive, namespace=self.namespace).check()

    # -- one round --------------------------------------------------------------------------------------------------

    async def round(self, kill: Callable[[list[Life]], bool] | None = None, steps: tuple[str, ...] = ()) -> None:
        """Let some containers live while the armed steps, and `kill` at a random moment, do their work."""
        for step in steps:
            (self.faults / f"armed {step}").touch()
        lives = [Life(f"{self.daemon.id()}-{next(self._numbers)}") for _ in range(AT_ONCE)]
        keeping = asyncio.create_task(self._keep_daemon())
        listening = asyncio.create_task(self._listen())
        try:
            killing = asyncio.create_task(self._strike(kill, lives))
            await asyncio.gather(*(self._live(life) for life in lives))
            await killing
        finally:
            for task in (keeping, listening):
                task.cancel()
            await asyncio.gather(keeping, listening, return_exceptions=True)
        shims_died = self._count(steps)
        while not await self._settled(lives):
            await asyncio.sleep(0.02)  # the daemon was killed, and was not known to be dead yet
        self._judge(lives, shims_died=shims_died or kill is not None)

    async def _strike(self, kill: Callable[[list[Life]], bool] | None, lives: list[Life]) -> None:
        if kill is not None:
            await asyncio.sleep(self.chance.uniform(0, 0.3))
            while not kill(lives) and not all(life.over for life in lives):
                await asyncio.sleep(0.01)

    def _count(self, steps: tuple[str, ...]) -> bool:
        """Count the steps that were hit, and disarm the others; whether a shim was among them."""
        for step in steps:
            with contextlib.suppress(FileNotFoundError):
                (self.faults / f"armed {step}").unlink()
        hits = [path.name.removeprefix("hit ").rpartition(" ")[0] for path in self.faults.glob("hit *")]
        for path in self.faults.glob("hit *"):
            path.unlink()
        self.kills.update(hits)
        return any(hit.startswith(("wherry.shim", "wherry.runc")) for hit in hits)

    async def _keep_daemon(self) -> None:
        while True:
            self._ensure_daemon()
            await asyncio.sleep(0.02)

    def _ensure_daemon(self) -> None:
        process = self.daemon._process
        if process is None or process.poll() is not None:
            self.daemon.start()
            self.restarts += 1

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(Error, OSError):
                client = await self._client()
                async for envelope in subscribe(client, [f'topic=="/tasks/exit",namespace=={self.namespace}']):
                    event = TaskExit.FromString(envelope.event.value)
                    if event.id == event.container_id:
                        self._exits[event.id].add(event.exit_status)
            await asyncio.sleep(0.02)

    async def _client(self) -> Client:
        return Client(await TtrpcChannel.connect(f"{self.daemon.address}.ttrpc"), self.namespace)

    async def _live(self, life: Life) -> None:
        """Be a client that does all there is to do, and gives up at the first error."""
        try:
            async with asyncio.timeout(PATIENCE):
                client = await self._client()
                try:
                    await self._work(client, life)
                finally:
                    await client.channel.close()
        except (Error, OSError):
            pass  # the daemon or the shim was killed under it
        life.over = True

    async def _work(self, client: Client, life: Life) -> None:
        options = RunOptions(["sh", "-c", SCRIPT])
        options.id = life.id
        # One after the other by each of the two drivers.
        options.runc_binary = "runc" if int(life.id.rpartition("-")[2]) % 2 else ""
        prepared = await create_container(client, BUSYBOX, options, Timing())
        task = await Task.create(client, prepared, "", "", "", False)
        life.pid = await task.start()
        ready = process("sh", "-c", "until [ -e /ready ]; do sleep 0.01; done")
        await task.exec("e", ready, "", "", "", False)
        await task.start("e")
        assert await task.wait("e") in (0, KILLED)
        await task.delete("e")
        await task.kill(signal.SIGTERM)
        life.told = True
        life.statuses.add(await task.wait())
        await task.delete()

    # -- and what must be true afterwards -----------------------------------------------------------------------------

    async def _settled(self, lives: list[Life]) -> bool:
        self._ensure_daemon()
        try:
            client = await self._client()
            await self._settle(client, lives)
            await client.channel.close()
        except Unavailable:
            return False
        return True

    async def _settle(self, client: Client, lives: list[Life]) -> None:
        """Do what a client would that finds things as they are, and have the rest collected."""
        for life in lives:
            tasks = Tasks(client)
            with contextlib.suppress(NotFound):
                found = await tasks.get(life.id)
                if found.status == task_pb2.STOPPED:
                    life.statuses.add(found.exit_status)
                elif found.status == task_pb2.RUNNING and life.told:
                    life.statuses.add(await tasks.task(life.id).wait())
                await tasks.end(life.id)
            with contextlib.suppress(NotFound):
                await client.snapshots().remove(life.id)
            await self._remove_record(client, life.id)
            life.statuses |= self._exits.pop(life.id, set())
        for lease in await client.leases.list():
            await client.leases.delete(lease.id, sync=True)

    async def _remove_record(self, client: Client, id: str) -> None:
        from wherry.client.containers import Containers

        with contextlib.suppress(NotFound):
            await Containers(client).delete(id)

    def _judge(self, lives: list[Life], *, shims_died: bool) -> None:
        for life in lives:
            said = life.statuses
            assert len(said) <= 1, f"{life.id}: {said}"
            allowed = {TOLD} if life.told and not shims_died else {TOLD, KILLED}
            assert said <= allowed, f"{life.id}: {said}, and not {allowed}"
        left = leaks.remaining(lambda: self._left(lives))
        assert not left, "left behind:\n" + "\n".join(left)

    def _left(self, lives: list[Life]) -> list[str]:
        daemon, namespace = self.daemon, self.namespace
        left = [f"mount: {line}" for line in leaks.mounts() if f"{daemon.directory}/" in line]
        left += [f"process: {line}" for line in leaks.processes(namespace)]
        left += [f"cgroup: {path}" for path in leaks.cgroups(namespace)]
        left += [f"runc state: {path}" for path in leaks.entries(Path("/run/containerd/runc") / namespace)]
        left += [f"wherry-runc state: {id}" for id in leaks.states_of_ours(namespace)]
        for top in (daemon.state, daemon.root):
            for runtimes in top.glob("io.containerd.runtime.*"):
                left += [f"bundle: {path}" for path in leaks.entries(runtimes / namespace)]
        for life in lives:
            socket = leaks.shim_socket(daemon.address, namespace, life.id)
            left += [f"socket: {socket}"] if socket.exists() else []
            left += [f"process of {life.id}: {life.pid}"] if life.pid and _of_container(life.pid, life.id) else []
        for noun in ("containers", "tasks", "leases"):
            left += [f"{noun}: {name}" for name in daemon.listed(noun, namespace)]
        snapshots = daemon.ctr("snapshots", "ls", namespace=namespace).check().text.splitlines()[1:]
        left += [f"snapshot: {line}" for line in snapshots if not line.endswith("Committed ")]
        ingests = daemon.ctr("content", "active", namespace=namespace).check().text.splitlines()[1:]
        return left + [f"ingest: {line}" for line in ingests]

    # -- kills at random moments --------------------------------------------------------------------------------------

    def kill_daemon(self, _lives: list[Life]) -> bool:
        """Kill the daemon; whoever keeps it starts it again."""
        return self._kill("daemon", self.daemon.pid)

    def kill_a_shim(self, _lives: list[Life]) -> bool:
        """Kill one of the shims that there are; False if there is none."""
        shims = [line for line in leaks.processes(self.namespace) if " -id " in line]
        return bool(shims) and self._kill("a_shim", int(self.chance.choice(shims).split()[0]))

    def kill_an_init(self, lives: list[Life]) -> bool:
        """Kill the first process of one of the containers; False if there is none."""
        running = [life for life in lives if life.pid and _of_container(life.pid, life.id)]
        return bool(running) and self._kill("an_init", self.chance.choice(running).pid)

    def _kill(self, victim: str, pid: int) -> bool:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.kills[victim] += 1
        return True


def daemon_steps() -> list[str]:
    return inject.names("wherry.daemon")


def shim_steps() -> list[str]:
    return inject.names("wherry.shim") + inject.names("wherry.runc")


def _of_container(pid: int, id: str) -> bool:
    try:
        return id in Path(f"/proc/{pid}/cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
