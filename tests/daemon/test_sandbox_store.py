"""containerd.services.sandbox.v1.Store: sandboxes' records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import StartDaemon
from tests.harness.daemon import Wherryd
from wherry.api.services.containers.v1 import containers_pb2
from wherry.api.services.namespaces.v1 import namespaces_pb2
from wherry.api.services.sandbox.v1 import sandbox_pb2 as api
from wherry.api.types.types_pb2 import Sandbox
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.rpc.grpc_channel import GrpcChannel
from wherry.rpc.ttrpc_channel import TtrpcChannel


class Client:
    """The sandboxes of one namespace."""

    def __init__(self, daemon: Wherryd, namespace: str) -> None:
        self.namespace = namespace
        self.channel = GrpcChannel(daemon.address)

    async def call(self, method: str, request: Any) -> Any:
        stub = Stub(self.channel, api.DESCRIPTOR.services_by_name["Store"])
        return await getattr(stub, method)(request, metadata=metadata_for(self.namespace))

    async def create(self, sandbox: Sandbox) -> Sandbox:
        response: api.StoreCreateResponse = await self.call("create", api.StoreCreateRequest(sandbox=sandbox))
        return response.sandbox

    async def get(self, id: str) -> Sandbox:
        response: api.StoreGetResponse = await self.call("get", api.StoreGetRequest(sandbox_id=id))
        return response.sandbox

    async def update(self, sandbox: Sandbox, *fields: str) -> Sandbox:
        request = api.StoreUpdateRequest(sandbox=sandbox, fields=fields)
        response: api.StoreUpdateResponse = await self.call("update", request)
        return response.sandbox

    async def names(self, *filters: str) -> list[str]:
        response: api.StoreListResponse = await self.call("list", api.StoreListRequest(filters=filters))
        return [each.sandbox_id for each in response.list]

    async def delete(self, id: str) -> None:
        await self.call("delete", api.StoreDeleteRequest(sandbox_id=id))


@pytest.fixture
async def client(wherryd: Wherryd) -> AsyncIterator[Client]:
    made = Client(wherryd, wherryd.namespace())
    yield made
    await made.channel.close()


def full(id: str) -> Sandbox:
    return Sandbox(
        sandbox_id=id,
        runtime={"name": "io.containerd.runc.v2", "options": AnyMessage(type_url="o", value=b"\0\1")},
        spec=AnyMessage(type_url="s", value=b"spec"),
        labels={"color": "red", "size": "big"},
        extensions={"one": AnyMessage(type_url="e", value=b"1"), "two": AnyMessage(type_url="e")},
        sandboxer="shim",
    )


async def test_a_record_keeps_everything(client: Client) -> None:
    made = await client.create(full("one"))
    assert made.created_at.seconds and made.created_at == made.updated_at
    assert await client.get("one") == made
    expected = full("one")
    expected.created_at.CopyFrom(made.created_at)
    expected.updated_at.CopyFrom(made.created_at)
    assert made == expected
    bare = await client.create(Sandbox(sandbox_id="two"))
    assert not bare.HasField("spec") and not bare.runtime.HasField("options") and bare.runtime.name == ""
    await client.delete("one")
    assert await client.names() == ["two"]
    with pytest.raises(NotFound, match=r'^sandbox "one" in namespace ".*": not found$'):
        await client.get("one")
    with pytest.raises(NotFound, match=r'^failed to delete sandbox "one": not found$'):
        await client.delete("one")


async def test_what_cannot_be_created(client: Client) -> None:
    await client.create(full("one"))
    with pytest.raises(AlreadyExists, match=r'^write error: sandbox bucket "one" already exists$'):
        await client.create(Sandbox(sandbox_id="one"))
    for id in ("", "a/b", "-a", "a" * 77):
        with pytest.raises(InvalidArgument, match=r"^failed to validate sandbox: invalid sandbox ID: identifier"):
            await client.create(Sandbox(sandbox_id=id))
    stub = Stub(client.channel, api.DESCRIPTOR.services_by_name["Store"])
    with pytest.raises(FailedPrecondition, match="namespace is required"):
        await stub.create(api.StoreCreateRequest(sandbox=full("two")))
    made = await asyncio.gather(*(client.create(full("same")) for _ in range(8)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in made) == [*["AlreadyExists"] * 7, "Sandbox"]


async def test_filters(client: Client) -> None:
    for id, color in (("a", "red"), ("b", "green"), ("c", "green")):
        await client.create(Sandbox(sandbox_id=id, labels={"color": color}))
    assert await client.names() == ["a", "b", "c"]
    assert await client.names("id==a", "labels.color==green") == ["a", "b", "c"]
    assert await client.names("labels.color==green,id!=b") == ["c"]
    assert await client.names("runtime.name") == []
    with pytest.raises(InvalidArgument):
        await client.names("==")


async def test_update(client: Client) -> None:
    before = await client.create(full("one"))
    change = Sandbox(
        sandbox_id="one",
        runtime={"name": "other"},
        labels={"color": "blue"},
        extensions={"two": AnyMessage(type_url="new")},
    )
    after = await client.update(change, "labels.color", "labels.size", "extensions.two", "extensions.one")
    assert dict(after.labels) == {"color": "blue"} and after.updated_at != before.updated_at
    assert list(after.extensions) == ["two"] and after.extensions["two"].type_url == "new"
    assert (after.spec, after.runtime, after.created_at) == (before.spec, before.runtime, before.created_at)
    with pytest.raises(InvalidArgument, match=r"^sandbox.Runtime.Name field is immutable: invalid argument$"):
        await client.update(change)
    assert (await client.update(change, "runtime", "spec")).runtime.name == "other"
    assert not (await client.get("one")).HasField("spec")
    whole = await client.update(change)
    assert not whole.extensions["two"].value and dict(whole.labels) == {"color": "blue"}
    assert whole.sandboxer == "shim"
    with pytest.raises(InvalidArgument, match=r'^cannot update "sandboxer" field on sandbox "one"'):
        await client.update(change, "sandboxer")
    with pytest.raises(NotFound):
        await client.update(Sandbox(sandbox_id="absent"))


async def test_records_last_and_namespaces_are_apart(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(Wherryd())
    here, there = Client(daemon, daemon.namespace()), Client(daemon, daemon.namespace())
    made = await here.create(full("one"))
    await there.create(Sandbox(sandbox_id="one"))
    for client in (here, there):
        await client.channel.close()
    daemon.kill()
    daemon.start()
    here, there = Client(daemon, here.namespace), Client(daemon, there.namespace)
    assert await here.get("one") == made
    # As containerd's, a namespace that has nothing else may go, and its sandboxes with it.
    namespaces = Stub(here.channel, namespaces_pb2.DESCRIPTOR.services_by_name["Namespaces"])
    await namespaces.delete(namespaces_pb2.DeleteNamespaceRequest(name=here.namespace))
    assert await here.names() == [] and await there.names() == ["one"]
    for client in (here, there):
        await client.channel.close()


async def test_the_store_is_served_over_ttrpc_as_well(wherryd: Wherryd, client: Client) -> None:
    made = await client.create(full("one"))
    channel = await TtrpcChannel.connect(f"{wherryd.address}.ttrpc")
    stub = Stub(channel, api.DESCRIPTOR.services_by_name["Store"])
    response = await stub.get(api.StoreGetRequest(sandbox_id="one"), metadata=metadata_for(client.namespace))
    assert response.sandbox == made
    await channel.close()


async def test_a_containers_sandbox_cannot_change(client: Client) -> None:
    containers = Stub(client.channel, containers_pb2.DESCRIPTOR.services_by_name["Containers"])
    metadata = metadata_for(client.namespace)
    record = containers_pb2.Container(id="one", sandbox="box", runtime={"name": "r"})
    request = containers_pb2.CreateContainerRequest(container=record)
    assert (await containers.create(request, metadata=metadata)).container.sandbox == "box"
    record.sandbox = "other"
    with pytest.raises(InvalidArgument, match=r"container\.SandboxID field is immutable"):
        await containers.update(containers_pb2.UpdateContainerRequest(container=record), metadata=metadata)
