"""Processes in a terminal: the shim holds the master and copies between it and the client's FIFOs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.shim import bundle
from tests.shim.lab import Container, Lab, Reader, eventually
from tests.shim.peers import Ours, Shim, StockV2
from wherry.errors import Error

BOTH = pytest.mark.parametrize("kind", [Ours, StockV2])


class Client:
    """A terminal's user."""

    def __init__(self, container: Container, name: str = "") -> None:
        self.stdin = container.fifo(f"{name}in")
        self.stdout = container.fifo(f"{name}out")
        self.screen = Reader(self.stdout)
        self.fields = {"stdin": self.stdin, "stdout": self.stdout, "terminal": True}
        self._keyboard = -1

    def type(self, text: bytes) -> None:
        if self._keyboard < 0:
            self._keyboard = os.open(self.stdin, os.O_WRONLY)
        os.write(self._keyboard, text)

    def leave(self) -> None:
        os.close(self._keyboard)


@BOTH
async def test_typing_and_reading(lab: Lab, kind: type[Shim]) -> None:
    container = await lab.shim(kind, "sh", "-c", "tty; read line; echo got $line; exit 6", terminal=True)
    client = Client(container)
    await container.create(**client.fields)
    await container.start()
    await client.screen.until(b"/dev/pts/0\r\n")
    client.type(b"hello\n")
    assert (await container.wait()).exit_status == 6
    assert await client.screen.ended() == b"/dev/pts/0\r\nhello\r\ngot hello\r\n"
    client.leave()
    await container.delete()
    await container.end_shim()


@BOTH
async def test_size(lab: Lab, kind: type[Shim]) -> None:
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"
    container = await lab.shim(kind, "sh", "-c", script, terminal=True)
    client = Client(container)
    await container.create(**client.fields)
    await container.resize(width=90, height=33)
    await container.start()
    await client.screen.until(b"ready")
    await container.resize(width=120, height=41)
    await client.screen.until(b"41 120\r\n")
    await container.exec("e", "stty", "size", **Client(container, "e").fields)
    await container.resize("e", width=10, height=11)  # before its start: silently nothing
    await container.stop()
    await container.end_shim()


@BOTH
async def test_interrupt(lab: Lab, kind: type[Shim]) -> None:
    container = await lab.shim(kind, "sh", "-c", "trap 'echo stopped; exit 3' INT; echo ready; cat", terminal=True)
    client = Client(container)
    await container.create(**client.fields)
    await container.start()
    await client.screen.until(b"ready")
    client.type(b"\x03")
    assert (await container.wait()).exit_status == 3
    assert (await client.screen.ended()).endswith(b"stopped\r\n")
    client.leave()
    await container.delete()
    await container.end_shim()


@BOTH
async def test_the_end_of_stdin_hangs_up(lab: Lab, kind: type[Shim]) -> None:
    script = "trap 'exit 9' HUP; echo ready; while :; do sleep 0.05; done"
    container = await lab.shim(kind, "sh", "-c", script, terminal=True)
    client = Client(container)
    await container.create(**client.fields)
    await container.start()
    await client.screen.until(b"ready")
    client.type(b"x")
    client.leave()
    await container.close_io()
    assert (await container.wait()).exit_status == 9
    await client.screen.ended()
    await container.delete()
    await container.end_shim()


@BOTH
async def test_exec(lab: Lab, kind: type[Shim]) -> None:
    container = await lab.shim(kind, "sleep", "1000")
    await container.create()
    await container.start()
    client = Client(container, "e")
    # The request says whether there is a terminal, whatever the document does.
    document = bundle.process("sh", "-c", "tty; read x; stty size; exit $x", terminal=False)
    await container.exec("e", document=document, **client.fields)
    await container.start("e")
    await client.screen.until(b"/dev/pts/0\r\n")
    await container.resize("e", width=7, height=8)
    client.type(b"44\n")
    assert (await container.wait("e")).exit_status == 44
    assert await client.screen.ended() == b"/dev/pts/0\r\n44\r\n8 7\r\n"
    await container.delete("e")
    client.leave()
    await container.stop()
    await container.end_shim()


async def test_execs_that_end_at_once_show_everything(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.create()
    await container.start()
    for number in range(30):
        client = Client(container, f"e{number}")
        await container.exec(f"e{number}", "seq", "300", **client.fields)
        await container.start(f"e{number}")
        await container.wait(f"e{number}")
        await container.delete(f"e{number}")
        assert (await client.screen.ended()).split() == [str(line).encode() for line in range(1, 301)]
    await container.stop()
    await container.end_shim()


@BOTH
async def test_a_terminal_without_a_screen(lab: Lab, kind: type[Shim]) -> None:
    container = await lab.shim(kind, "sh", "-c", "seq 100000; exit 5", terminal=True)
    if kind is StockV2:
        with pytest.raises(Error, match="failed to start console copy: stat : no such file or directory"):
            await container.create(terminal=True)
        os.system(f"runc --root /run/containerd/runc/{lab.namespace} delete --force {container.id}")
    else:
        # Debian's cannot, and leaves a container behind; ours reads what nobody will.
        assert await container.run_to_end(terminal=True) == 5
    await container.end_shim()


async def test_a_screen_that_is_a_log(lab: Lab) -> None:
    container = await lab.shim(Ours, "echo", "to the log", terminal=True)
    uri = f"file://{lab.directory}/screen"
    assert await container.run_to_end(terminal=True, stdout=uri) == 0
    assert (lab.directory / "screen").read_bytes() == b"to the log\r\n"
    await container.end_shim()


async def test_a_screen_that_is_missing_leaves_no_container(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000", terminal=True)
    with pytest.raises(Error, match=r"failed to start console copy: stat .*/nowhere: no such file or directory"):
        await container.create(stdout=f"{lab.directory}/nowhere")
    assert not Path(f"/run/containerd/runc/{lab.namespace}/{container.id}").exists()
    await container.end_shim()


async def test_an_exec_whose_screen_is_missing_does_not_run_on(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.create()
    await container.start()
    await container.exec("e", "sleep", "1000", terminal=True, stdout=f"{lab.directory}/nowhere")
    with pytest.raises(Error, match=r"failed to start console copy: stat .*/nowhere: no such file or directory"):
        await container.start("e")

    async def alone() -> bool:
        return len(await container.pids()) == 1

    await eventually(alone)
    await container.stop()
    await container.end_shim()


async def test_a_bundle_with_a_long_path(lab: Lab) -> None:
    """A socket's path holds 107 bytes; bundles may be deeper."""
    container = await lab.shim(Ours, "tty", terminal=True)
    deep = lab.directory / ("d" * 100)
    container.bundle.rename(deep)
    container.bundle = deep
    client = Client(container)
    await container.create(**client.fields)
    await container.start()
    assert await client.screen.ended() == b"/dev/pts/0\r\n"
    await container.delete()
    await container.end_shim()
