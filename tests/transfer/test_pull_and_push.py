"""Images pulled from and pushed to Debian's docker-registry, with skopeo and ctr on the other side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.command import run
from tests.harness.daemon import Containerd, Wherryd
from tests.harness.registry import Registry, registry
from tests.transfer.go_client import GoClient, host_platform
from wherry.api.types import types_pb2
from wherry.api.types.transfer import transfer_pb2 as types
from wherry.errors import FailedPrecondition, InvalidArgument, NotFound, Unauthenticated, Unknown


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, busybox_archive: Path) -> Iterator[Registry]:
    """A registry with busybox in it, put there by skopeo."""
    with registry(tmp_path_factory.mktemp("plain")) as running:
        copy(busybox_archive, f"{running.host}/library/busybox:1")
        yield running


def copy(archive: Path, reference: str) -> None:
    source = f"oci-archive:{archive}"
    run(["skopeo", "copy", "--dest-tls-verify=false", source, f"docker://{reference}"]).check()


def store(name: str, **more: object) -> types.ImageStore:
    return types.ImageStore(
        name=name,
        platforms=[host_platform()],
        unpacks=[types.UnpackConfiguration(platform=host_platform(), snapshotter="overlayfs")],
        **more,  # type: ignore[arg-type]
    )


async def pull(client: GoClient, reference: str, **more: object) -> None:
    await client.transfer(types.OCIRegistry(reference=reference), store(reference, **more))


def ctr(daemon: Wherryd | Containerd, client: GoClient, *words: str) -> str:
    return daemon.ctr("-n", client.namespace, *words).check().text


async def test_a_pulled_image_runs(go_client: GoClient, wherryd: Wherryd, plain: Registry) -> None:
    reference = f"{plain.host}/library/busybox:1"
    await pull(go_client, reference)
    assert ctr(wherryd, go_client, "images", "ls", "-q").split() == [reference]
    ran = ctr(wherryd, go_client, "run", "--rm", reference, wherryd.names.id(), "echo", "pulled")
    assert ran == "pulled\n"
    told = [(event.event, event.name.partition("-")[0]) for event in go_client.events]
    assert told[0][0] == f"Resolving from OCI Registry ({reference})"
    assert told[-1][0] == f"Completed pull from OCI Registry ({reference})"
    for kind, count in (("manifest", 1), ("config", 1), ("layer", 2)):
        assert told.count(("waiting", kind)) == told.count(("complete", kind)) == count
    assert told.count(("extracted", "layer")) == 2 and ("saved", reference) in [
        (event.event, event.name) for event in go_client.events
    ]


async def test_blobs_are_labelled_as_containerd_labels_them(
    go_client: GoClient, wherryd: Wherryd, containerd: Containerd, plain: Registry
) -> None:
    reference = f"{plain.host}/library/busybox:1"
    await pull(go_client, reference)
    theirs = containerd.namespace()
    containerd.ctr("-n", theirs, "images", "pull", "--plain-http", reference).check()

    def labels(daemon: Wherryd | Containerd, namespace: str) -> dict[str, set[str]]:
        lines = daemon.ctr("-n", namespace, "content", "ls").check().text.splitlines()[1:]
        return {line.split()[0]: set(line.split("\t")[-1].split(",")) for line in lines}

    assert labels(wherryd, go_client.namespace) == labels(containerd, theirs)


async def test_a_second_pull_fetches_nothing(go_client: GoClient, plain: Registry) -> None:
    reference = f"{plain.host}/library/busybox:1"
    await pull(go_client, reference)
    before = len([each for each in plain.requests() if "/blobs/" in each])
    await pull(go_client, reference)
    assert len([each for each in plain.requests() if "/blobs/" in each]) == before
    assert [event.event for event in go_client.events].count("already exists") == 4


async def test_two_pulls_at_once_fetch_each_blob_once(
    go_client: GoClient, wherryd: Wherryd, plain: Registry, busybox_archive: Path
) -> None:
    copy(busybox_archive, f"{plain.host}/library/twice:1")
    reference = f"{plain.host}/library/twice:1"
    await asyncio.gather(*(pull(go_client, reference) for _ in range(4)))
    fetched = [each for each in plain.requests() if each.startswith("GET") and "/twice/blobs/" in each]
    assert len(fetched) == len(set(fetched)) == 3
    snapshots = ctr(wherryd, go_client, "snapshots", "ls").splitlines()[1:]
    assert len(snapshots) == 2, snapshots


async def test_what_is_pushed_can_be_pulled_by_others(
    go_client: GoClient, wherryd: Wherryd, containerd: Containerd, plain: Registry
) -> None:
    reference = f"{plain.host}/library/busybox:1"
    await pull(go_client, reference)
    target = f"{plain.host}/other/pushed:2"
    await go_client.transfer(types.ImageStore(name=reference), types.OCIRegistry(reference=target))
    assert go_client.events[-1].event == f"Completed push to OCI Registry ({target})"
    # Its blobs are in the same registry: none of them went over the wire.
    sent = [each for each in plain.requests() if each.startswith("PATCH") and "/other/pushed/" in each]
    assert not sent
    inspected = run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{target}"]).check().text
    assert json.loads(inspected)["config"]
    namespace = containerd.namespace()
    containerd.ctr("-n", namespace, "images", "pull", "--plain-http", target).check()
    id = containerd.names.id()
    assert containerd.ctr("-n", namespace, "run", "--rm", target, id, "echo", "theirs").check().text == "theirs\n"


async def test_an_image_for_others_is_not_pulled(go_client: GoClient, wherryd: Wherryd, plain: Registry) -> None:
    reference = f"{plain.host}/library/busybox:1"
    arm = types_pb2.Platform(os="linux", architecture="arm64")
    with pytest.raises(NotFound, match="image for linux/arm64: it is for linux/amd64"):
        await go_client.transfer(
            types.OCIRegistry(reference=reference), types.ImageStore(name=reference, platforms=[arm])
        )
    assert ctr(wherryd, go_client, "images", "ls", "-q") == ""


async def test_what_is_not_there(go_client: GoClient, plain: Registry) -> None:
    with pytest.raises(NotFound, match=r"failed to resolve image: .*library/none:1"):
        await pull(go_client, f"{plain.host}/library/none:1")
    with pytest.raises(NotFound, match="no-such-image"):
        await go_client.transfer(
            types.ImageStore(name="no-such-image"), types.OCIRegistry(reference=f"{plain.host}/a:1")
        )
    with pytest.raises(InvalidArgument, match="UPPER CASE"):
        await pull(go_client, "UPPER CASE")


async def test_a_damaged_blob_is_refused_and_nothing_of_it_kept(
    go_client: GoClient, wherryd: Wherryd, tmp_path: Path, busybox_archive: Path
) -> None:
    with registry(tmp_path) as running:
        reference = f"{running.host}/library/busybox:1"
        copy(busybox_archive, reference)
        await pull(go_client, reference)
        raw = run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"]).check().text
        layer = json.loads(raw)["layers"][0]["digest"]
        file = running.blob(layer)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        other = GoClient(go_client._channel, wherryd.namespace())
        ctr(wherryd, go_client, "images", "rm", "--sync", reference)
        with pytest.raises(FailedPrecondition, match=f"expected {layer}"):
            await pull(other, reference)
    assert ctr(wherryd, other, "images", "ls", "-q") == ""
    assert layer not in ctr(wherryd, other, "content", "ls", "-q")
    assert ctr(wherryd, other, "content", "active").splitlines()[1:] == []


async def test_credentials_are_asked_of_the_client(
    go_client: GoClient, wherryd: Wherryd, tmp_path: Path, busybox_archive: Path
) -> None:
    with registry(tmp_path, users={"ann": "secret"}) as running:
        reference = f"{running.host}/library/busybox:1"
        source = f"oci-archive:{busybox_archive}"
        run(
            ["skopeo", "copy", "--dest-tls-verify=false", "--dest-creds=ann:secret", source, f"docker://{reference}"]
        ).check()
        with pytest.raises(Unauthenticated, match=f"wherry login {running.host}"):
            await pull(go_client, reference)
        stream = await go_client.open("auth")
        asked: list[str] = []

        async def answer() -> None:
            while (question := await stream.receive()) is not None:
                assert isinstance(question, types.AuthRequest)
                asked.append(question.host)
                stream.send(types.AuthResponse(authType=types.CREDENTIALS, username="ann", secret="secret"))

        answering = asyncio.create_task(answer())
        resolver = types.RegistryResolver(auth_stream=stream.name)
        await go_client.transfer(types.OCIRegistry(reference=reference, resolver=resolver), store(reference))
        answering.cancel()
    assert asked == [running.host]
    assert ctr(wherryd, go_client, "images", "ls", "-q").split() == [reference]


async def test_verifiers_are_asked(
    tmp_path: Path, plain: Registry, start_daemon: object, containerd: Containerd
) -> None:
    from wherry.rpc.grpc_channel import GrpcChannel

    programs = tmp_path / "verifiers"
    programs.mkdir()
    verifier = programs / "judge"
    verifier.write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\ncat >{tmp_path}/input\ntest -e {tmp_path}/allow && exit 0\n'
        'echo "not signed by anybody"\nexit 1\n'
    )
    verifier.chmod(0o755)
    config = f'[transfer]\nverifiers = "{programs}"\n'
    daemon: Wherryd = start_daemon(Wherryd(config=config))  # type: ignore[operator]
    channel = GrpcChannel(daemon.address)
    client = GoClient(channel, daemon.namespace())
    reference = f"{plain.host}/library/busybox:1"
    with pytest.raises(Unknown, match="not signed by anybody"):
        await pull(client, reference)
    assert ctr(daemon, client, "content", "ls", "-q") == ""
    described = json.loads((tmp_path / "input").read_text())
    assert set(described) >= {"mediaType", "digest", "size"}
    assert (tmp_path / "arguments").read_text().split() == [
        "-name", reference, "-digest", described["digest"],
        "-stdin-media-type", "application/vnd.oci.descriptor.v1+json",
    ]  # fmt: skip
    (tmp_path / "allow").touch()
    await pull(client, reference)
    assert ctr(daemon, client, "images", "ls", "-q").split() == [reference]
    await channel.close()
