"""Against Debian's docker-registry in all its forms, with skopeo on its other side."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.harness import archives
from tests.harness.registry import Registry, Tls, registry
from tests.harness.token_server import TokenServer, token_server
from tests.registry.conftest import Connect
from tests.registry.hostile import MANIFEST, collected, digest
from wherry.errors import (
    Error,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from wherry.oci import manifest as manifests
from wherry.oci.descriptor import Descriptor
from wherry.registry.client import AskCredentials, Credentials, CredentialsKind, Repository
from wherry.registry.push import Pushed

_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("plain")) as running:
        yield running


def reader(data: bytes) -> Callable[[int], AsyncIterator[bytes]]:
    async def read(offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(data), 65536):
            yield data[at : at + 65536]

    return read


def known(username: str, secret: str, kind: CredentialsKind = CredentialsKind.CREDENTIALS) -> AskCredentials:
    async def ask(host: str, reference: str, challenges: Sequence[str]) -> Credentials:
        return Credentials(username, secret, kind)

    return ask


async def push(repository: Repository, image: archives.Archive, tag: str) -> Descriptor:
    """Push an image; returns the descriptor of its manifest."""
    for layer in image.layers:
        await repository.push_blob(Descriptor(_LAYER, digest(layer.data), len(layer.data)), reader(layer.data))
    config = Descriptor(manifests.OCI_CONFIG, digest(image.config), len(image.config))
    await repository.push_blob(config, reader(image.config))
    descriptor = Descriptor(MANIFEST, digest(image.manifest), len(image.manifest))
    await repository.push_manifest(descriptor, image.manifest, tag)
    return descriptor


async def pull(repository: Repository) -> dict[str, bytes]:
    """Return all blobs of an image by digest, checked."""
    descriptor = await repository.resolve()
    document = await repository.fetch_document(descriptor)
    found = {descriptor.digest: document}
    parsed = manifests.parse(descriptor, document)
    assert isinstance(parsed, manifests.Manifest)
    found[parsed.config.digest] = await repository.fetch_document(parsed.config)
    for layer in parsed.layers:
        found[layer.digest] = await collected(repository.fetch(layer))
        assert digest(found[layer.digest]) == layer.digest
    return found


def skopeo(*arguments: str | Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo")
    ran = subprocess.run(["skopeo", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


async def test_an_image_goes_up_and_comes_down(plain: Registry, connect: Connect) -> None:
    client = await connect()
    image = archives.busybox()
    repository = client.repository(f"{plain.host}/up/and/down:1")
    descriptor = await push(repository, image, "1")
    assert (await repository.resolve()).to_json() == descriptor.to_json()
    assert await pull(repository) == image.blobs
    assert await pull(client.repository(f"{plain.host}/up/and/down@{descriptor.digest}")) == image.blobs
    assert await repository.exists(descriptor)
    assert not await repository.exists(Descriptor("x", digest(b"nothing"), 7))
    large = Descriptor(_LAYER, digest(image.layers[0].data), len(image.layers[0].data))
    assert await collected(repository.fetch(large, 12345)) == image.layers[0].data[12345:]


async def test_what_is_not_there(plain: Registry, connect: Connect) -> None:
    client = await connect()
    repository = client.repository(f"{plain.host}/not/there:1")
    with pytest.raises(NotFound, match=f"{plain.host}/not/there:1"):
        await repository.resolve()
    missing = Descriptor(_LAYER, digest(b"nothing"), 7)
    with pytest.raises(NotFound, match="BLOB_UNKNOWN"):
        await collected(repository.fetch(missing))
    with pytest.raises(NotFound, match="MANIFEST_UNKNOWN"):
        await repository.fetch_document(Descriptor(MANIFEST, digest(b"nothing"), 7))
    with pytest.raises(NotFound, match="NAME_UNKNOWN"):
        assert [tag async for tag in repository.tags()]
    with pytest.raises(NotFound, match="MANIFEST_BLOB_UNKNOWN"):
        await push_manifest_only(repository)


async def push_manifest_only(repository: Repository) -> None:
    image = archives.busybox()
    await repository.push_manifest(
        Descriptor(MANIFEST, digest(image.manifest), len(image.manifest)), image.manifest, "1"
    )


async def test_tags_and_deletion(plain: Registry, connect: Connect) -> None:
    client = await connect()
    repository = client.repository(f"{plain.host}/tagged")
    names = [f"v{number}" for number in range(5)]
    for name in names:
        descriptor = await push(repository, archives.busybox(), name)
    assert sorted([tag async for tag in repository.tags()]) == names
    await repository.delete_manifest(descriptor.digest)
    with pytest.raises(NotFound):
        await client.repository(f"{plain.host}/tagged:v0").resolve()


async def test_a_blob_is_mounted_from_another_repository(plain: Registry, connect: Connect) -> None:
    client = await connect()
    layer = archives.busybox().layers[0].data
    descriptor = Descriptor(_LAYER, digest(layer), len(layer))
    await push(client.repository(f"{plain.host}/mount/source"), archives.busybox(), "1")
    target = client.repository(f"{plain.host}/mount/target")
    assert await target.push_blob(descriptor, reader(b""), mount_from=["mount/none", "mount/source"]) is Pushed.MOUNTED
    assert await target.push_blob(descriptor, reader(b"")) is Pushed.EXISTED
    assert await collected(target.fetch(descriptor)) == layer


async def test_chunks(plain: Registry, connect: Connect) -> None:
    client = await connect(chunk_size=300_000)
    data = bytes(range(256)) * 5000
    descriptor = Descriptor(_LAYER, digest(data), len(data))
    repository = client.repository(f"{plain.host}/chunks")
    assert await repository.push_blob(descriptor, reader(data)) is Pushed.PUSHED
    assert await collected(repository.fetch(descriptor)) == data
    assert sum(line.startswith("PATCH") and "/v2/chunks/" in line for line in plain.requests()) == 5


@pytest.mark.parametrize("chunk", [0, 300_000])
async def test_an_upload_whose_source_breaks_is_resumed(plain: Registry, connect: Connect, chunk: int) -> None:
    """The connection is cut by a proxy between us and the registry, amid the body."""
    client = await connect(chunk_size=chunk, default_scheme="http")
    data = bytes(range(256)) * 8000 + b"%d" % chunk
    descriptor = Descriptor(_LAYER, digest(data), len(data))
    async with cutting(plain.host, after=900_000) as host:
        repository = client.repository(f"{host}/resumed{chunk}")
        assert await repository.push_blob(descriptor, reader(data)) is Pushed.PUSHED
        assert await collected(repository.fetch(descriptor)) == data


class cutting:  # noqa: N801
    """A way to a registry that breaks once, after so many bytes on it."""

    def __init__(self, host: str, after: int) -> None:
        self._target = host.rpartition(":")
        self._left = after
        self._tasks = set[asyncio.Task[None]]()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there, back = await asyncio.open_connection(self._target[0], int(self._target[2]))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(there, writer, False))
                group.create_task(self._copy(reader, back, True))
        except (BaseExceptionGroup, ConnectionError):
            pass  # cut
        finally:
            writer.transport.abort()
            back.transport.abort()
            self._tasks.discard(task)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: bool) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
            if counted and self._left > 0:
                self._left -= len(data)
                if self._left <= 0:
                    raise ConnectionResetError
        raise ConnectionResetError


async def test_referrers_by_their_tag(plain: Registry, connect: Connect) -> None:
    """docker-registry 2.8 keeps no list of referrers."""
    client = await connect()
    repository = client.repository(f"{plain.host}/referred:1")
    subject = await push(repository, archives.busybox(), "1")
    empty = Descriptor(manifests.OCI_CONFIG, digest(b"{}"), 2)
    await repository.push_blob(empty, reader(b"{}"))
    pushed = []
    for kind in ("application/x-bom", "application/x-signature"):
        document = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": kind,
                "config": empty.to_json(),
                "layers": [empty.to_json()],
                "subject": subject.to_json(),
            }
        ).encode()
        await repository.push_manifest(Descriptor(MANIFEST, digest(document), len(document)), document)
        pushed.append(digest(document))
    found = await repository.referrers(subject.digest)
    assert [each.digest for each in found] == pushed
    found = await repository.referrers(subject.digest, "application/x-signature")
    assert [each.digest for each in found] == pushed[1:]
    assert await repository.referrers(digest(b"nothing")) == []


async def test_skopeo_fetches_what_we_push(plain: Registry, connect: Connect, tmp_path: Path) -> None:
    client = await connect()
    image = archives.busybox()
    await push(client.repository(f"{plain.host}/to/skopeo"), image, "1")
    skopeo("copy", "--src-tls-verify=false", f"docker://{plain.host}/to/skopeo:1", f"dir:{tmp_path}/copied")
    for name, data in image.blobs.items():
        path = tmp_path / "copied" / name.removeprefix("sha256:")
        assert (tmp_path / "copied/manifest.json" if data == image.manifest else path).read_bytes() == data


@pytest.mark.parametrize("format", ["oci", "v2s2"])
async def test_we_fetch_what_skopeo_pushes(
    plain: Registry, connect: Connect, busybox_archive: Path, format: str
) -> None:
    client = await connect()
    target = f"{plain.host}/from/skopeo-{format}:1"
    skopeo(
        "copy", "--dest-tls-verify=false", f"--format={format}", f"oci-archive:{busybox_archive}", f"docker://{target}"
    )
    repository = client.repository(target)
    expected = MANIFEST if format == "oci" else manifests.DOCKER_MANIFEST
    assert (await repository.resolve()).media_type == expected
    pulled = await pull(repository)
    for layer in archives.busybox().layers:
        assert pulled[digest(layer.data)] == layer.data


async def test_many_at_a_time(plain: Registry, connect: Connect) -> None:
    client = await connect()
    repository = client.repository(f"{plain.host}/many")
    blobs = {digest(data): data for data in (bytes([number]) * 200_000 for number in range(20))}

    async def there_and_back(name: str, data: bytes) -> None:
        descriptor = Descriptor(_LAYER, name, len(data))
        await repository.push_blob(descriptor, reader(data))
        assert await collected(repository.fetch(descriptor)) == data

    async with asyncio.TaskGroup() as group:
        for name, data in blobs.items():
            group.create_task(there_and_back(name, data))


async def test_a_damaged_blob(plain: Registry, connect: Connect) -> None:
    client = await connect()
    repository = client.repository(f"{plain.host}/damaged:1")
    config = json.dumps({"damaged": True}).encode()
    descriptor = Descriptor(manifests.OCI_CONFIG, digest(config), len(config))
    await repository.push_blob(descriptor, reader(config))
    file = plain.blob(descriptor.digest)
    file.write_bytes(config[::-1])
    with pytest.raises(FailedPrecondition, match="unexpected digest"):
        await repository.fetch_document(descriptor)


# Encryption


async def test_tls_with_an_authority_of_its_own(connect: Connect, tmp_path: Path) -> None:
    with registry(tmp_path, tls=Tls()) as running:
        assert running.authority is not None
        image = archives.busybox()
        for host in (running.host, running.host.replace("127.0.0.1", "localhost")):
            directory = tmp_path / "hosts" / host
            directory.mkdir(parents=True)
            (directory / "ca.crt").write_bytes(running.authority.certificate.read_bytes())
            client = await connect(hosts_dirs=[str(tmp_path / "hosts")], default_scheme="https")
            repository = client.repository(f"{host}/a:1")
            await push(repository, image, "1")
            assert await pull(repository) == image.blobs
        strict = await connect(default_scheme="https")
        with pytest.raises(FailedPrecondition, match="certificate is not to be trusted"):
            await strict.repository(f"{running.host}/a:1").resolve()
        trusting = await connect(default_scheme="https", skip_verify=True)
        await trusting.repository(f"{running.host}/a:1").resolve()


async def test_a_certificate_for_another_name(connect: Connect, tmp_path: Path) -> None:
    with registry(tmp_path, tls=Tls(addresses=("DNS:registry.example",))) as running:
        assert running.authority is not None
        client = await connect(default_scheme="https", ca=[str(running.authority.certificate)])
        with pytest.raises(FailedPrecondition, match="certificate is not to be trusted"):
            await client.repository(f"{running.host}/a:1").resolve()


@pytest.mark.parametrize("layout", ["pairs", "one file", "docker's"])
async def test_certificates_of_clients(connect: Connect, tmp_path: Path, layout: str) -> None:
    with registry(tmp_path, tls=Tls(client=True)) as running:
        assert running.authority is not None
        assert running.client is not None
        without = await connect(default_scheme="https", ca=[str(running.authority.certificate)])
        with pytest.raises(Error, match=running.host):
            await without.repository(f"{running.host}/a:1").exists(Descriptor("x", digest(b""), 0))
        directory = tmp_path / "hosts" / running.host
        directory.mkdir(parents=True)
        certificate, key = running.client.certificate.read_bytes(), running.client.key.read_bytes()
        toml = f'server = "{running.url}"\nca = "{running.authority.certificate}"\n'
        if layout == "docker's":
            (directory / "ca.crt").write_bytes(running.authority.certificate.read_bytes())
            (directory / "client.cert").write_bytes(certificate)
            (directory / "client.key").write_bytes(key)
        elif layout == "one file":
            (directory / "client.pem").write_bytes(certificate + key)
            (directory / "hosts.toml").write_text(f'{toml}client = "client.pem"\n')
        else:
            pair = f'["{running.client.certificate}", "{running.client.key}"]'
            (directory / "hosts.toml").write_text(f"{toml}client = [{pair}]\n")
        client = await connect(hosts_dirs=[str(tmp_path / "hosts")])
        assert not await client.repository(f"{running.host}/a:1").exists(Descriptor("x", digest(b""), 0))


# Who asks


async def test_basic_authentication(connect: Connect, tmp_path: Path) -> None:
    with registry(tmp_path, users={"ahab": "white whale"}) as running:
        client = await connect(credentials=known("ahab", "white whale"))
        image = archives.busybox()
        await push(client.repository(f"{running.host}/a:1"), image, "1")
        assert await pull(client.repository(f"{running.host}/a:1")) == image.blobs
        with pytest.raises(Unauthenticated, match=f"`wherry login {running.host}`"):
            await (await connect()).repository(f"{running.host}/a:1").resolve()
        wrong = await connect(credentials=known("ahab", "wrong"))
        with pytest.raises(Unauthenticated, match='the credentials as "ahab" were refused'):
            await wrong.repository(f"{running.host}/a:1").resolve()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    with token_server(tmp_path_factory.mktemp("tokens"), {"ahab": "white whale"}, frozenset(("public",))) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tokens: TokenServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("guarded"), auth=tokens.auth) as running:
        yield running


async def test_tokens(guarded: Registry, tokens: TokenServer, connect: Connect) -> None:
    client = await connect(credentials=known("ahab", "white whale"))
    image = archives.busybox()
    tokens.asked.clear()
    for name in ("public", "private"):
        await push(client.repository(f"{guarded.host}/{name}:1"), image, "1")
        assert await pull(client.repository(f"{guarded.host}/{name}:1")) == image.blobs
    # One for each repository and what is done to it.
    assert len(tokens.asked) <= 6
    nobody = await connect()
    assert await pull(nobody.repository(f"{guarded.host}/public:1")) == image.blobs
    with pytest.raises(Unauthenticated, match=f"`wherry login {guarded.host}`"):
        await nobody.repository(f"{guarded.host}/private:1").resolve()
    with pytest.raises(Unauthenticated, match=f"`wherry login {guarded.host}`"):
        await push(nobody.repository(f"{guarded.host}/public:2"), archives.busybox(), "2")


async def test_an_identity_token(guarded: Registry, tokens: TokenServer, connect: Connect) -> None:
    client = await connect(credentials=known("", "identity of ahab", CredentialsKind.REFRESH))
    image = archives.busybox()
    await push(client.repository(f"{guarded.host}/identity:1"), image, "1")
    assert ("ahab", "POST", ("repository:identity:pull,push",)) in tokens.asked


async def test_a_wrong_password_for_tokens(guarded: Registry, connect: Connect) -> None:
    client = await connect(credentials=known("ahab", "wrong"))
    with pytest.raises(Unauthenticated, match='the credentials as "ahab" were refused'):
        await client.repository(f"{guarded.host}/private:1").resolve()


async def test_a_mount_asks_for_both_repositories(guarded: Registry, tokens: TokenServer, connect: Connect) -> None:
    client = await connect(credentials=known("ahab", "white whale"))
    layer = archives.busybox().layers[0].data
    descriptor = Descriptor(_LAYER, digest(layer), len(layer))
    await client.repository(f"{guarded.host}/mounted/from").push_blob(descriptor, reader(layer))
    target = client.repository(f"{guarded.host}/mounted/to")
    assert await target.push_blob(descriptor, reader(b""), mount_from=["mounted/from"]) is Pushed.MOUNTED
    scopes = ("repository:mounted/from:pull", "repository:mounted/to:pull,push")
    assert ("ahab", "GET", scopes) in tokens.asked


async def test_deleting_with_a_token(guarded: Registry, connect: Connect) -> None:
    client = await connect(credentials=known("ahab", "white whale"))
    repository = client.repository(f"{guarded.host}/deleted:1")
    descriptor = await push(repository, archives.busybox(), "1")
    await repository.delete_manifest(descriptor.digest)
    with pytest.raises(NotFound):
        await repository.resolve()


# Mirrors


async def test_a_cache_of_another_registry(plain: Registry, connect: Connect, tmp_path: Path) -> None:
    client = await connect()
    image = archives.busybox()
    await push(client.repository(f"{plain.host}/cached"), image, "1")
    with registry(tmp_path, proxied=plain.url) as mirror:
        directory = tmp_path / "hosts/registry.example"
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text(f'server = "http://127.0.0.1:1"\n[host."{mirror.url}"]\n')
        mirrored = await connect(hosts_dirs=[str(tmp_path / "hosts")])
        assert await pull(mirrored.repository("registry.example/cached:1")) == image.blobs
        assert any("ns=registry.example" in line for line in mirror.requests())
        with pytest.raises(Error, match="cannot be reached"):
            await mirrored.repository("registry.example/missing:1").resolve()


async def test_permission(guarded: Registry, connect: Connect) -> None:
    """A token that says less than is needed: who asked is known, and may not."""

    async def ask(host: str, reference: str, challenges: Sequence[str]) -> Credentials:
        return Credentials("", "Bearer nonsense", CredentialsKind.HEADER)

    client = await connect(credentials=ask)
    with pytest.raises((Unauthenticated, PermissionDenied)):
        await client.repository(f"{guarded.host}/private:1").resolve()
