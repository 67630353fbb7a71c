"""The wherryd command: the real process, from its start to its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import wherry
from tests.conftest import StartDaemon
from tests.harness.command import environment, run
from tests.harness.daemon import COMMANDS, Containerd, Wherryd, alive
from wherry.api.health.v1 import health_pb2
from wherry.api.services.events.v1 import events_pb2
from wherry.api.services.version.v1 import version_pb2
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.api.wellknown_pb2 import Empty
from wherry.errors import Unavailable, Unimplemented
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.rpc.grpc_channel import GrpcChannel
from wherry.rpc.service import Method
from wherry.rpc.ttrpc_channel import TtrpcChannel

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

WHERRYD = str(COMMANDS / "wherryd")
EVENTS = events_pb2.DESCRIPTOR.services_by_name["Events"]
VERSION = version_pb2.DESCRIPTOR.services_by_name["Version"]


@pytest.fixture(params=["grpc", "ttrpc"])
async def channel(request: pytest.FixtureRequest, wherryd: Wherryd) -> AsyncIterator[Any]:
    made: Any
    if request.param == "grpc":
        made = GrpcChannel(wherryd.address)
    else:
        made = await TtrpcChannel.connect(wherryd.address + ".ttrpc")
    yield made
    await made.close()


async def test_the_same_services_on_both_sockets(channel: Any) -> None:
    version = await Stub(channel, VERSION).version(Empty())
    assert version.version.startswith("1.7.")
    health = Stub(channel, health_pb2.DESCRIPTOR.services_by_name["Health"])
    status = (await health.check(health_pb2.HealthCheckRequest())).status
    assert status == health_pb2.HealthCheckResponse.SERVING
    absent = Method("containerd.services.none.v1.None", VERSION.methods[0])
    with pytest.raises(Unimplemented, match=r"service containerd\.services\.none\.v1\.None"):
        await channel.unary(absent, Empty())


def test_sockets_are_files_for_root_and_its_group(wherryd: Wherryd) -> None:
    for path in (wherryd.address, wherryd.address + ".ttrpc"):
        assert Path(path).is_socket()
        assert os.stat(path).st_mode & 0o777 == 0o660


def test_version_and_help() -> None:
    assert run([WHERRYD, "--version"]).check().text == f"wherryd {wherry.__version__}\n"
    assert "config" in run([WHERRYD, "--help"]).check().text


def test_config_default_and_dump(tmp_path: Path) -> None:
    default = tomllib.loads(run([WHERRYD, "config", "default"]).check().text)
    assert default["root"] == "/var/lib/wherry"
    (tmp_path / "c.toml").write_text('root = "/r"\n')
    dumped = run([WHERRYD, "--config", f"{tmp_path}/c.toml", "--log-level", "debug", "config", "dump"])
    assert tomllib.loads(dumped.check().text) == {
        "root": "/r",
        "state": "/run/wherry",
        "address": "/run/wherry/wherry.sock",
        "log_level": "debug",
        "log_format": "text",
        "no_shim": False,
        "ksm": False,
        "gc": default["gc"],
        "transfer": default["transfer"],
        "runtimes": {},
    }


def test_one_clear_line_for_what_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("rooot = 1\n")
    (tmp_path / "file").write_text("")
    place = ["--state", f"{tmp_path}/state", "--root"]
    for arguments, reason in [
        (["--config", f"{tmp_path}/c.toml"], f"{tmp_path}/c.toml: unknown key rooot"),
        (["--config", f"{tmp_path}/none"], f"configuration file {tmp_path}/none: no such file"),
        (["--address", "/" + "x" * 101], "has 108 bytes, and the kernel takes 107"),
        ([*place, f"{tmp_path}/file/root"], f"not a directory: {tmp_path}/file/root"),
    ]:
        result = run([WHERRYD, *arguments])
        assert result.code == 1
        assert result.error_text.startswith("wherryd: ") and reason in result.error_text, result.error_text
        assert result.error_text.count("\n") == 1
    assert run([WHERRYD, "--nonsense"]).code == 2


def test_a_second_daemon_is_refused(wherryd: Wherryd, tmp_path: Path) -> None:
    root, state, address = str(wherryd.root), str(wherryd.state), wherryd.address
    other = ["--root", f"{tmp_path}/root", "--state", f"{tmp_path}/state", "--address", f"{tmp_path}/s.sock"]
    for arguments, reason in [
        (["--root", root], f"root {root} is in use by the wherryd with pid {wherryd.pid}"),
        (["--state", state], f"state {state} is in use by the wherryd with pid {wherryd.pid}"),
        (["--address", address], f"socket {address} answers: a daemon is running there"),
    ]:
        result = run([WHERRYD, *other, *arguments])
        assert result.code == 1 and reason in result.error_text
    assert wherryd.answers()


def test_a_newer_or_damaged_database_is_refused(tmp_path: Path) -> None:
    for content, reason in [(b"this is no database", "file is not a database"), (None, "newer")]:
        root = tmp_path / f"root-{content is None}"
        root.mkdir()
        if content is None:
            import sqlite3

            with sqlite3.connect(root / "meta.db") as database:
                database.execute("PRAGMA user_version=9999")
            database.close()
        else:
            (root / "meta.db").write_bytes(content)
        result = run([WHERRYD, "--root", str(root), "--state", f"{tmp_path}/s", "--address", f"{tmp_path}/x.sock"])
        assert result.code == 1 and "meta.db" in result.error_text and reason in result.error_text, result.error_text
        assert "Traceback" not in result.error_text
        assert not (tmp_path / "x.sock").exists() and not (tmp_path / "x.sock.ttrpc").exists()


async def test_it_stops_when_told_and_ends_streams_as_unavailable(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(Wherryd())
    grpc, ttrpc = GrpcChannel(daemon.address), await TtrpcChannel.connect(daemon.address + ".ttrpc")
    (zygote,) = (int(pid) for pid in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split())
    streams = [Stub(channel, EVENTS).subscribe(events_pb2.SubscribeRequest()) for channel in (grpc, ttrpc)]
    nexts = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0.2)
    assert await asyncio.to_thread(daemon.stop) == 0
    for following in nexts:
        with pytest.raises(Unavailable):
            await following
    assert not alive(zygote)
    assert not Path(daemon.address).exists() and not Path(daemon.address + ".ttrpc").exists()
    await grpc.close()
    await ttrpc.close()


def test_it_starts_again_after_a_kill(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(Wherryd())
    namespace = daemon.namespace()
    daemon.ctr("namespaces", "create", namespace).check()
    daemon.kill()
    assert Path(daemon.address).exists(), "a killed daemon leaves its socket"
    daemon.start()
    assert namespace in daemon.ctr("namespaces", "ls", "-q").check().text


def test_the_service_manager_hears_of_start_and_stop(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        daemon = start_daemon(Wherryd(env={"NOTIFY_SOCKET": str(tmp_path / "notify")}))
        assert manager.recv(100) == b"READY=1"
        assert daemon.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"


def test_interrupted_it_ends_as_well(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(Wherryd())
    os.kill(daemon.pid, signal.SIGINT)
    assert daemon._process is not None and daemon._process.wait(30) == 0


def test_its_log_can_be_json(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(Wherryd(env={"WHERRY_LOG_FORMAT": "json"}))
    assert daemon.stop() == 0
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    assert "serving" in [line["msg"] for line in lines]
    assert all({"time", "level"} <= set(line) for line in lines)


def test_no_lock_or_socket_is_inherited_by_the_zygote(wherryd: Wherryd) -> None:
    (zygote,) = (int(pid) for pid in Path(f"/proc/{wherryd.pid}/task/{wherryd.pid}/children").read_text().split())
    open_files = [os.readlink(link) for link in Path(f"/proc/{zygote}/fd").iterdir()]
    assert not [name for name in open_files if name.startswith(str(wherryd.directory)) and not name.endswith("/log")]


def published(
    arguments: list[str], data: bytes, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([WHERRYD, *arguments], input=data, capture_output=True, env=environment(env), check=False)


@pytest.mark.parametrize("kind", ["wherryd", "containerd"])
async def test_publish(kind: str, request: pytest.FixtureRequest) -> None:
    """As a v1 shim runs it; containerd itself is told over gRPC."""
    daemon: Wherryd | Containerd = request.getfixturevalue(kind)
    namespace = daemon.namespace()
    channel = GrpcChannel(daemon.address)
    events = Stub(channel, EVENTS)
    stream = events.subscribe(events_pb2.SubscribeRequest(filters=[f'namespace=={namespace},topic=="/test/here"']))
    first = asyncio.ensure_future(anext(stream))
    while not first.done():  # a subscription is there some time after its call
        await events.publish(
            events_pb2.PublishRequest(topic="/test/here", event=AnyMessage(type_url="x")),
            metadata=metadata_for(namespace),
        )
        await asyncio.wait((first,), timeout=0.05)
    event = AnyMessage(type_url="containerd.events.TaskExit", value=b"\x0a\x01x")
    arguments = ["--address", daemon.address, "publish", "--topic", "/test/here", "--namespace", namespace]
    result = await asyncio.to_thread(published, arguments, event.SerializeToString())
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    envelope = first.result()
    while envelope.event.type_url == "x":
        envelope = await anext(stream)
    assert envelope.event.type_url == event.type_url and envelope.event.value == event.value
    assert (envelope.namespace, envelope.topic) == (namespace, "/test/here")
    await stream.aclose()
    await channel.close()


def test_publish_with_single_dashes_and_the_address_in_the_environment(wherryd: Wherryd) -> None:
    event = AnyMessage(type_url="x").SerializeToString()
    namespace = wherryd.namespace()
    single = ["-address", f"unix://{wherryd.address}", "publish", "-topic=/x", "-namespace", namespace]
    assert published(single, event).returncode == 0
    plain = ["publish", "--topic", "/x", "--namespace", namespace]
    assert published(plain, event, {"WHERRY_ADDRESS": wherryd.address}).returncode == 0


def test_publish_says_what_is_wrong(wherryd: Wherryd, tmp_path: Path) -> None:
    event = AnyMessage(type_url="x").SerializeToString()
    here = ["--address", wherryd.address, "publish"]
    for arguments, data, code, reason in [
        (["publish", "--topic", "/x", "--namespace", "n"], event, 2, "--address is required"),
        ([*here, "--topic", "/x"], event, 2, "--namespace is required"),
        ([*here, "--topic", "/x", "--namespace", "n", "--more"], event, 2, "unknown argument --more"),
        ([*here, "--topic", "x", "--namespace", "n"], event, 1, "must start with '/'"),
        ([*here, "--topic", "/x", "--namespace", "n"], b"\xff", 1, "no google.protobuf.Any"),
        (["--address", f"{tmp_path}/x", *here[2:], "--topic", "/x", "--namespace", "n"], event, 1, "no such file"),
    ]:
        result = published(arguments, data)
        assert result.returncode == code and reason in result.stderr.decode(), result
        assert b"Traceback" not in result.stderr


def test_publish_imports_no_daemon(wherryd: Wherryd) -> None:
    code = "import sys, wherry.daemon.main\nstatus = wherry.daemon.main.main(sys.argv[1:])\nprint(status, *sys.modules)"
    arguments = ["--address", wherryd.address, "publish", "--topic", "/x", "--namespace", wherryd.namespace()]
    result = run([str(COMMANDS / "python"), "-c", code, *arguments], input=AnyMessage(type_url="x").SerializeToString())
    status, *modules = result.check().text.split()
    assert status == "0"
    heavy = "asyncio argparse grpc logging re sqlite3 typing wherry.daemon.config wherry.daemon.server"
    assert not set(modules) & set(heavy.split())
