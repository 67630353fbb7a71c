"""Where a process's bytes go: FIFOs, files, logging programs; and that none is lost."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from pathlib import Path

import pytest

from tests.shim.lab import Container, Lab, Reader, eventually
from tests.shim.peers import Ours, Shim, StockV2
from wherry.api import typeurl
from wherry.api.runtime.runc.v1.options_pb2 import Options
from wherry.errors import DeadlineExceeded, Error

BOTH = pytest.mark.parametrize("kind", [Ours, StockV2])


class Client:
    """The ends of a container's FIFOs."""

    def __init__(self, container: Container, name: str = "") -> None:
        self.stdin = container.fifo(f"{name}in")
        self.stdout = container.fifo(f"{name}out")
        self.stderr = container.fifo(f"{name}err")
        self.out = Reader(self.stdout)
        self.err = Reader(self.stderr)
        self.fields = {"stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr}


async def test_nothing_written_before_the_end_is_lost(lab: Lab) -> None:
    """Two hundred processes that write and end at once: inits and execs."""
    first = await lab.shim(Ours, "sleep", "1000")
    await first.create()
    await first.start()

    async def init(number: int) -> bytes:
        container = lab.another(first, "sh", "-c", f"echo {number} out; echo {number} err >&2")
        client = Client(container)
        assert await container.run_to_end(stdout=client.stdout, stderr=client.stderr) == 0
        return await client.out.ended() + await client.err.ended()

    async def exec_(number: int) -> bytes:
        client = Client(first, f"e{number}")
        await first.exec(f"e{number}", "echo", f"{number}", stdout=client.stdout, stderr=client.stderr)
        await first.start(f"e{number}")
        await first.wait(f"e{number}")
        await first.delete(f"e{number}")
        return await client.out.ended() + await client.err.ended()

    for start in range(0, 100, 4):
        numbers = range(start, start + 4)
        inits = await asyncio.gather(*(init(number) for number in numbers))
        assert inits == [f"{number} out\n{number} err\n".encode() for number in numbers]
        execs = await asyncio.gather(*(exec_(number) for number in numbers))
        assert execs == [f"{number}\n".encode() for number in numbers]
    await first.stop()
    await first.end_shim()


@BOTH
async def test_much_output_arrives_whole(lab: Lab, kind: type[Shim]) -> None:
    container = await lab.shim(kind, "sh", "-c", "head -c 20000000 /dev/zero; head -c 3000000 /dev/zero >&2")
    client = Client(container)
    assert await container.run_to_end(stdout=client.stdout, stderr=client.stderr) == 0
    assert len(await client.out.ended()) == 20_000_000
    assert len(await client.err.ended()) == 3_000_000
    await container.end_shim()


async def test_small_writes_arrive_whole(lab: Lab) -> None:
    """So many and so small that the shim lets them gather."""
    script = "dd if=/dev/zero bs=64 count=100000 2>/dev/null; echo end; sleep 0.2; echo more"
    container = await lab.shim(Ours, "sh", "-c", script)
    client = Client(container)
    assert await container.run_to_end(stdout=client.stdout, stderr=client.stderr) == 0
    assert await client.out.ended() == bytes(6_400_000) + b"end\nmore\n"
    await container.end_shim()


async def test_pipes_grow_only_when_they_are_hot(lab: Lab) -> None:
    container = await lab.shim(Ours, "sh", "-c", "echo little; read line; head -c 4000000 /dev/zero; sleep 1000")
    client = Client(container)
    stdin = os.open(client.stdin, os.O_RDWR)
    fd = os.open(client.stdout, os.O_RDONLY | os.O_NONBLOCK)
    await container.create(**client.fields)
    await container.start()
    await client.out.until(b"little\n")
    assert fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) == 64 << 10
    os.write(stdin, b"go\n")
    await eventually(lambda: len(client.out.data) == 4_000_007)
    assert fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) == 1 << 20
    os.close(fd)
    os.close(stdin)
    await container.stop()
    await container.end_shim()


@BOTH
async def test_fifos_end_with_the_process_not_with_delete(lab: Lab, kind: type[Shim]) -> None:
    container = await lab.shim(kind, "echo", "x")
    client = Client(container)
    await container.create(stdout=client.stdout, stderr=client.stderr)
    await container.start()
    assert await client.out.ended() == b"x\n"
    assert await client.err.ended() == b""
    await container.wait()
    await container.delete()
    await container.end_shim()


@BOTH
async def test_stdin_ends_when_both_the_client_and_the_shim_let_go(lab: Lab, kind: type[Shim]) -> None:
    container = await lab.shim(kind, "sh", "-c", "cat; echo end")
    client = Client(container)
    await container.create(**client.fields)
    await container.start()
    for text in (b"one\n", b"two\n"):  # a client that comes back
        writer = os.open(client.stdin, os.O_WRONLY)
        os.write(writer, text)
        await client.out.until(text)
        os.close(writer)
    await asyncio.sleep(0.1)
    assert client.out.data == b"one\ntwo\n"
    await container.close_io()
    assert await client.out.ended() == b"one\ntwo\nend\n"
    assert (await container.wait()).exit_status == 0
    await container.delete()
    await container.end_shim()


@BOTH
async def test_stdin_of_an_exec(lab: Lab, kind: type[Shim]) -> None:
    container = await lab.shim(kind, "sleep", "1000")
    await container.create()
    await container.start()
    client = Client(container, "e")
    await container.exec("e", "wc", "-c", **client.fields)
    await container.start("e")
    writer = os.open(client.stdin, os.O_WRONLY)
    for _ in range(30):
        os.write(writer, b"x" * 50_000)
        await asyncio.sleep(0)
    await container.close_io("e")
    os.close(writer)
    assert await client.out.ended() == b"1500000\n"
    assert (await container.wait("e")).exit_status == 0
    await container.stop()
    await container.end_shim()


async def test_stdin_closed_before_the_start_stays_closed(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.create()
    await container.start()
    client = Client(container, "e")
    await container.exec("e", "cat", **client.fields)
    await container.close_io("e")
    await container.start("e")
    writer = os.open(client.stdin, os.O_WRONLY)
    os.write(writer, b"late")
    os.close(writer)
    assert await client.out.ended() == b"late"
    assert (await container.wait("e")).exit_status == 0
    await container.stop()
    await container.end_shim()


async def test_stdin_may_be_a_file(lab: Lab) -> None:
    container = await lab.shim(Ours, "cat")
    client = Client(container)
    data = lab.directory / "data"
    data.write_text("from a file\n")
    fields = {"stdin": str(data), "stdout": client.stdout, "stderr": client.stderr}
    assert await container.run_to_end(**fields) == 0
    assert await client.out.ended() == b"from a file\n"
    await container.end_shim()


@BOTH
async def test_a_client_that_opens_late(lab: Lab, kind: type[Shim]) -> None:
    container = await lab.shim(kind, "echo", "x")
    out, err = container.fifo("out"), container.fifo("err")
    create = asyncio.create_task(container.create(stdout=out, stderr=err))
    await asyncio.sleep(0.3)
    assert not create.done()
    if kind is Ours:  # meanwhile it answers others; Debian's does not
        assert (await container.shim.call("connect", id="x")).shim_pid == container.shim.pid
    stdout, stderr = Reader(out), Reader(err)
    await create
    await container.start()
    assert await stdout.ended() == b"x\n"
    assert await stderr.ended() == b""
    await container.wait()
    await container.delete()
    await container.end_shim()


async def test_a_client_that_never_opens(lab: Lab) -> None:
    container = await lab.shim(Ours, "echo", "x")
    out = container.fifo("out")
    with pytest.raises(DeadlineExceeded, match="opening w/o fifo"):
        await container.create(stdout=out, stderr=out)
    await container.end_shim()


async def test_a_client_that_never_opens_does_not_hold_up_delete(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.create()
    await container.start()
    before = container.shim.descriptors()
    out = container.fifo("out")
    await container.exec("e", "true", stdout=out, stderr=out)
    start = asyncio.create_task(container.start("e"))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(10):
        await container.stop()
        with pytest.raises(Error, match="streams were closed"):
            await start
    assert container.shim.descriptors() <= before
    await container.end_shim()


@BOTH
async def test_a_client_that_goes_away_breaks_no_pipe(lab: Lab, kind: type[Shim]) -> None:
    script = "while read line; do echo $line; done; echo still here; exit 7"
    container = await lab.shim(kind, "sh", "-c", script)
    client = Client(container)
    await container.create(**client.fields)
    await container.start()
    writer = os.open(client.stdin, os.O_WRONLY)
    os.write(writer, b"one\n")
    await client.out.until(b"one\n")
    client.out.close()
    os.write(writer, b"two\nthree\n")
    await asyncio.sleep(0.2)
    again = Reader(client.stdout)
    os.close(writer)
    await container.close_io()
    assert (await container.wait()).exit_status == 7
    assert await again.ended() == b"two\nthree\nstill here\n"
    await container.delete()
    await container.end_shim()


async def test_output_that_nobody_reads_delays_delete_but_not_for_ever(lab: Lab) -> None:
    container = await lab.shim(Ours, "sh", "-c", "head -c 100000 /dev/zero & exit 4")
    out, err = container.fifo("out"), container.fifo("err")
    held = [os.open(name, os.O_RDWR | os.O_NONBLOCK) for name in (out, err)]
    await container.create(stdout=out, stderr=err)
    await container.start()
    assert (await container.wait()).exit_status == 4
    async with asyncio.timeout(25):
        await container.delete()
    for fd in held:
        os.close(fd)
    await container.end_shim()


@BOTH
async def test_no_streams(lab: Lab, kind: type[Shim]) -> None:
    script = "echo out; echo err >&2; read x || readlink /proc/self/fd/0 | grep -q null"
    container = await lab.shim(kind, "sh", "-c", script)
    assert await container.run_to_end() == 0
    await container.end_shim()


@BOTH
async def test_log_file(lab: Lab, kind: type[Shim]) -> None:
    path = lab.directory / "logs of" / "it" / "log"
    uri = f"file://{str(path).replace(' ', '%20')}"
    for number in (1, 2):
        container = await lab.shim(kind, "sh", "-c", f"echo {number}; echo {number} >&2")
        assert await container.run_to_end(stdout=uri, stderr=uri) == 0
        state = path.stat()
        await container.end_shim()
    lines = sorted(path.read_text().split())
    # containerd's shim does not wait for what is written right before the end.
    assert lines == ["1", "1", "2", "2"] if kind is Ours else set(lines) <= {"1", "2"}
    assert state.st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o755


async def test_a_log_that_cannot_be_written_harms_nobody(lab: Lab) -> None:
    container = await lab.shim(Ours, "sh", "-c", "head -c 300000 /dev/zero && echo fine >&2; exit 9")
    err = container.fifo("err")
    stderr = Reader(err)
    assert await container.run_to_end(stdout="/dev/full", stderr=err) == 9
    assert await stderr.ended() == b"fine\n"
    await eventually(lambda: "dropped: No space left on device" in container.shim.log.read_text())
    await container.end_shim()


_LOGGER = """#!/bin/sh
{{ echo "$# arguments: $*"; env | grep -v PWD | sort; }} > {log}.$CONTAINER_ID
exec 5>&-
cat <&4 > {log}.$CONTAINER_ID.err &
cat <&3 > {log}.$CONTAINER_ID.out
wait
{after}
"""


def _logger(lab: Lab, after: str = "") -> tuple[str, Path]:
    program = lab.directory / "logger"
    log = lab.directory / "log"
    program.write_text(_LOGGER.format(log=log, after=after))
    program.chmod(0o755)
    return f"binary://{program}?a=1&a=2&b&c=%20x", log


@BOTH
async def test_logging_program(lab: Lab, kind: type[Shim]) -> None:
    uri, log = _logger(lab)
    container = await lab.shim(kind, "sh", "-c", "echo out; echo err >&2; sleep 1000")
    await container.create(stdout=uri, stderr=uri)
    await container.start()
    await container.exec("e1", "sh", "-c", "echo from exec", stdout=uri, stderr=uri)
    await container.start("e1")
    await container.wait("e1")
    await eventually(lambda: Path(f"{log}.e1.out").read_bytes() == b"from exec\n")
    await container.delete("e1")
    await eventually(lambda: Path(f"{log}.{container.id}.err").read_bytes() == b"err\n")
    await container.stop()
    about = Path(f"{log}.{container.id}").read_text().splitlines()
    # Go's maps have no order.
    assert sorted(about[0].removeprefix("6 arguments: ").split()) == ["1", "a", "b", "c", "x"]
    assert kind is StockV2 or about[0] == "6 arguments: a 1 b  c  x"
    assert [line for line in about[1:] if not line.startswith(("SHLVL", "_", "OLDPWD"))] == [
        f"CONTAINER_ID={container.id}",
        f"CONTAINER_NAMESPACE={lab.namespace}",
    ]
    assert Path(f"{log}.{container.id}.out").read_bytes() == b"out\n"
    await container.end_shim()


async def test_a_logging_program_gets_all_and_is_then_stopped(lab: Lab) -> None:
    # It does not end by itself when its input does.
    stopped = lab.directory / "stopped"
    uri, log = _logger(lab, after=f"trap 'echo yes > {stopped}; exit' TERM; while :; do sleep 0.1; done")
    container = await lab.shim(Ours, "sh", "-c", "head -c 200000 /dev/zero")
    assert await container.run_to_end(stdout=uri, stderr=uri) == 0
    assert stopped.read_text() == "yes\n"
    assert Path(f"{log}.{container.id}.out").stat().st_size == 200_000
    await container.end_shim()


@BOTH
async def test_a_logging_program_that_ends_at_once(lab: Lab, kind: type[Shim]) -> None:
    container = await lab.shim(kind, "sh", "-c", "echo x; sleep 0.1; exit 3")
    status = await container.run_to_end(stdout="binary:///bin/false", stderr="binary:///bin/false")
    assert status in (3, 128 + signal.SIGPIPE)
    await container.end_shim()


async def test_a_logging_program_that_must_say_that_it_is_ready(lab: Lab) -> None:
    """`binary-v2`, of containerd 2: a byte on descriptor 5, not only its end."""
    uri, log = _logger(lab)
    container = await lab.shim(Ours, "echo", "x")
    with pytest.raises(Error, match=r"failed to read from logging binary .*/logger: EOF"):
        await container.create(stdout=uri.replace("binary:", "binary-v2:"))
    program = lab.directory / "logger"
    program.write_text(program.read_text().replace("exec 5>&-", "echo >&5"))
    assert await container.run_to_end(stdout=uri.replace("binary:", "binary-v2:")) == 0
    assert Path(f"{log}.{container.id}.out").read_bytes() == b"x\n"
    await container.end_shim()


async def test_pipes_are_the_users(lab: Lab) -> None:
    script = "echo again > /dev/stdout && echo too > /dev/stderr && cat /dev/stdin"
    container = await lab.shim(Ours, "sh", "-c", script, user=(1000, 1000))
    client = Client(container)
    await container.create(options=typeurl.pack(Options(io_uid=1000, io_gid=1000)), **client.fields)
    await container.start()
    writer = os.open(client.stdin, os.O_WRONLY)
    os.write(writer, b"in\n")
    os.close(writer)
    await container.close_io()
    assert (await container.wait()).exit_status == 0
    assert await client.out.ended() == b"again\nin\n"
    assert await client.err.ended() == b"too\n"
    await container.delete()
    await container.end_shim()


async def test_a_fifo_that_is_missing(lab: Lab) -> None:
    container = await lab.shim(Ours, "true")
    with pytest.raises(Error, match=r"opening file .* failed: open .*/nowhere: no such file or directory"):
        await container.create(stdout=f"{lab.directory}/nowhere", stderr=f"{lab.directory}/nowhere")
    with pytest.raises(Error, match=r"opening .*/nowhere failed"):
        await container.create(stdin=f"{lab.directory}/nowhere")
    assert await container.run_to_end() == 0
    await container.end_shim()
