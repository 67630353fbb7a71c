"""wherry sandbox, and the SDK's sandboxes and mounts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness.daemon import Wherryd
from wherry.api.types.types_pb2 import Mount
from wherry.client.client import Client
from wherry.client.mounts import Mounts
from wherry.client.sandboxes import Sandboxes
from wherry.errors import AlreadyExists, FailedPrecondition, NotFound, Unknown
from wherry.rpc.grpc_channel import GrpcChannel


@pytest.fixture
async def client(wherryd: Wherryd) -> AsyncIterator[Client]:
    made = Client(GrpcChannel(wherryd.address), wherryd.namespace())
    yield made
    await made.channel.close()


async def test_the_sdk_runs_sandboxes(wherryd: Wherryd, client: Client) -> None:
    sandboxes = Sandboxes(client)
    id = wherryd.id("s")
    made = await sandboxes.create(id, labels={"a": "b"}, netns_path="/run/netns/x")
    assert (made.runtime.name, made.sandboxer) == ("io.containerd.runc.v2", "shim")
    with pytest.raises(AlreadyExists):
        await sandboxes.create(id)
    started = await sandboxes.start(id)
    status = await sandboxes.status(id)
    assert (status.pid, status.state, status.address) == (started.pid, "SANDBOX_READY", started.address)
    shown = await sandboxes.inspect(id)
    assert shown["labels"] == {"a": "b"} and shown["status"]["info"]["netns_path"] == "/run/netns/x"
    with pytest.raises(FailedPrecondition, match="is running"):
        await sandboxes.remove(id)
    await sandboxes.stop(id, 1)
    assert await sandboxes.wait(id) == 0
    await sandboxes.remove(id)
    assert await sandboxes.list() == []
    with pytest.raises(NotFound):
        await sandboxes.remove(id)


async def test_a_sandbox_that_cannot_be_made_leaves_no_record(client: Client) -> None:
    sandboxes = Sandboxes(client)
    with pytest.raises(Unknown, match="binary not installed"):
        await sandboxes.create("one", runtime="io.containerd.absent.v1")
    with pytest.raises(NotFound, match="sandbox controller"):
        await sandboxes.create("one", sandboxer="absent")
    assert await sandboxes.list() == []


async def test_commands(wherryd: Wherryd, client: Client) -> None:
    def wherry(*arguments: str) -> str:
        return wherryd.wherry(*arguments, namespace=client.namespace).check().text

    sandboxes = Sandboxes(client)
    first, second = wherryd.id("s"), wherryd.id("s")
    for id in (first, second):
        await sandboxes.create(id, labels={"id": id})
    await sandboxes.start(first)
    assert sorted(wherry("sandbox", "ls", "-q").split()) == sorted((first, second))
    heading, row = wherry("sandbox", "ls", f"id=={first}").splitlines()
    assert heading.split() == ["SANDBOX", "RUNTIME", "SANDBOXER", "CREATED", "LABELS"]
    assert row.split()[:3] == [first, "io.containerd.runc.v2", "shim"]
    assert [each["sandbox_id"] for each in json.loads(wherry("sandbox", "ls", "--json", f"labels.id=={second}"))] == [
        second
    ]
    (shown,) = json.loads(wherry("sandbox", "inspect", first))
    assert shown["status"]["state"] == "SANDBOX_READY"
    refused = wherryd.wherry("sandbox", "rm", first, second, namespace=client.namespace)
    assert refused.code == 1 and refused.text.split() == [second]
    assert f'sandbox "{first}" is running' in refused.error_text
    assert wherry("sandbox", "rm", "--force", first).split() == [first]
    absent = wherryd.wherry("sandbox", "inspect", first, namespace=client.namespace)
    assert absent.code == 1 and "not found" in absent.error_text


async def test_the_sdk_activates_mounts(client: Client, tmp_path: Path) -> None:
    mounts = Mounts(client)
    mount = Mount(type="bind", source=str(tmp_path), options=["rbind"])
    assert await mounts.activate("plain", [mount]) is None
    info = await mounts.activate("held", [mount], temporary=True)
    assert info is not None and info.system[0].source == info.active[0].mount_point
    assert await mounts.info("held") == info
    assert await mounts.list(["name==held"]) == [info]
    await mounts.deactivate("held")
    with pytest.raises(NotFound):
        await mounts.info("held")
