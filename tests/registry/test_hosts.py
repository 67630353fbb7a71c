"""hosts.toml and its like, read as containerd reads them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.harness.certificates import Authority
from tests.registry.conftest import Connect
from tests.registry.hostile import MANIFEST, Hostile, answer, blob, collected, cut, digest, document, error, sequence
from wherry.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from wherry.oci.descriptor import Descriptor
from wherry.registry import reference
from wherry.registry.hosts import ALL_CAPABILITIES, Host, Tls, find
from wherry.registry.options import Options

DOCUMENT = json.dumps({"schemaVersion": 2, "config": {}, "layers": []}).encode()
DATA = b"layer" * 1000
LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar", digest(DATA), len(DATA))


def written(directory: Path, name: str, text: str) -> Options:
    (directory / name).mkdir()
    (directory / name / "hosts.toml").write_text(text)
    return Options(hosts_dirs=[str(directory)])


@pytest.mark.parametrize(
    ("registry", "scheme", "expected"),
    [
        ("docker.io", "", Host("https", "registry-1.docker.io", dial_timeout=30)),
        ("quay.io", "", Host("https", "quay.io", dial_timeout=30)),
        ("quay.io:80", "http", Host("http", "quay.io:80", dial_timeout=30)),
        ("localhost", "", Host("https", "localhost", tls=Tls(True), dial_timeout=30)),
        ("localhost:5000", "", Host("http", "localhost:5000", tls=Tls(True), dial_timeout=30, ambiguous=True)),
        ("127.1.2.3:5000", "", Host("http", "127.1.2.3:5000", tls=Tls(True), dial_timeout=30, ambiguous=True)),
        ("[::1]:5000", "", Host("http", "[::1]:5000", tls=Tls(True), dial_timeout=30, ambiguous=True)),
        ("localhost:80", "", Host("http", "localhost:80", dial_timeout=30)),
        ("localhost:5000", "https", Host("https", "localhost:5000", dial_timeout=30)),
        ("localhost.example:5000", "", Host("https", "localhost.example:5000", dial_timeout=30)),
    ],
)
def test_the_default_host(registry: str, scheme: str, expected: Host) -> None:
    assert find(registry, Options(default_scheme=scheme)) == [expected]


def test_a_whole_file(tmp_path: Path) -> None:
    options = written(
        tmp_path,
        "registry.example_5000_",
        """
        server = "https://upstream.example/base"
        ca = "/etc/ca.pem"
        dial_timeout = "1m1.5s"

        [host."https://second.example"]
          capabilities = ["pull"]
          ca = ["a.pem", "/b.pem"]
          client = [["c.cert", "c.key"], ["d.pem", ""]]
        [host."http://first.example:81/v2/"]
          capabilities = ["Pull", "resolve", "push"]
          client = "e.pem"
          skip_verify = true
          [host."http://first.example:81/v2/".header]
            X-One = "1"
            X-Two = ["2", "3"]
        [host."third.example/own/path"]
          override_path = true
          client = ["f.pem", "g.pem"]
          unknown = "is passed over"
        """,
    )
    at = str(tmp_path / "registry.example_5000_")
    mirrored = "registry.example:5000"
    assert find(mirrored, options) == [
        Host(
            "https",
            "second.example",
            "/v2",
            frozenset(("pull",)),
            Tls(False, (f"{at}/a.pem", "/b.pem"), ((f"{at}/c.cert", f"{at}/c.key"), (f"{at}/d.pem", ""))),
            dial_timeout=30,
            mirrored=mirrored,
        ),
        Host(
            "http",
            "first.example:81",
            "/v2",
            frozenset(("pull", "resolve", "push")),
            Tls(True, (), ((f"{at}/e.pem", ""),)),
            (("X-One", "1"), ("X-Two", "2"), ("X-Two", "3")),
            30,
            ambiguous=True,
            mirrored=mirrored,
        ),
        Host(
            "https",
            "third.example",
            "/own/path",
            tls=Tls(False, (), ((f"{at}/f.pem", ""), (f"{at}/g.pem", ""))),
            dial_timeout=30,
            mirrored=mirrored,
        ),
        Host(
            "https",
            "upstream.example",
            "/base/v2",
            tls=Tls(False, ("/etc/ca.pem",)),
            dial_timeout=61.5,
            mirrored=mirrored,
        ),
    ]


def test_without_a_server_the_registry_itself_is_the_last(tmp_path: Path) -> None:
    options = written(tmp_path, "docker.io", '[host."https://mirror.example"]\n')
    found = find("docker.io", options)
    assert [(host.address, host.mirrored) for host in found] == [
        ("mirror.example", "docker.io"),
        ("registry-1.docker.io", ""),
    ]
    assert all(host.capabilities == ALL_CAPABILITIES for host in found)


def test_the_first_directory_that_knows_a_host_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for directory in (first, second):
        directory.mkdir()
    written(first, "a.example", 'server = "https://one"')
    written(second, "a.example", 'server = "https://two"')
    written(second, "b.example:5000", 'server = "https://three"')
    written(second, "b.example_5000_", 'server = "https://four"')
    written(second, "_default", 'server = "https://five"')
    options = Options(hosts_dirs=[str(first), str(tmp_path / "missing"), str(second)])
    servers = ["a.example", "b.example:5000", "b.example"]
    assert [find(each, options)[-1].address for each in servers] == ["one", "four", "five"]


def test_certificates_in_dockers_layout(tmp_path: Path) -> None:
    directory = tmp_path / "registry.example"
    directory.mkdir()
    for name in ("b.crt", "a.crt", "client.cert", "client.key", "README"):
        (directory / name).write_text("")
    options = Options(hosts_dirs=[str(tmp_path)])
    pair = (f"{directory}/client.cert", f"{directory}/client.key")
    tls = Tls(False, (f"{directory}/a.crt", f"{directory}/b.crt"), (pair,))
    assert find("registry.example", options) == [Host("https", "registry.example", tls=tls, dial_timeout=30)]
    (directory / "client.key").unlink()
    with pytest.raises(InvalidArgument, match=r"client\.key is missing"):
        find("registry.example", options)


@pytest.mark.parametrize(
    "text",
    [
        "server = ",
        "server = 5",
        'server = "ftp://x"',
        'server = "https://user:password@x"',
        'host = "x"',
        '[host]\n"https://x" = 5',
        '[host."https://x"]\ncapabilities = ["fly"]',
        '[host."https://x"]\ncapabilities = "pull"',
        '[host."https://x"]\nca = 5',
        '[host."https://x"]\nca = [["a"]]',
        '[host."https://x"]\nclient = [["a"]]',
        '[host."https://x"]\nclient = [5]',
        '[host."https://x"]\nskip_verify = "yes"',
        '[host."https://x".header]\nx = 5',
        '[host."https://x".header]\n"a b" = "x"',
        '[host."https://x".header]\nx = "a\\r\\nb"',
        '[host."https://x"]\ndial_timeout = "soon"',
        '[host.""]',
        "\x00",
        "x = '\udce4'",
    ],
)
def test_what_is_no_hosts_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default/hosts.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InvalidArgument, match=str(tmp_path)):
        find("registry.example", Options(hosts_dirs=[str(tmp_path)]))


def test_a_host_in_a_url() -> None:
    host = Host("https", "mirror.example", "/v2", mirrored="registry.example:5000")
    assert host.url("https", "a/b", "manifests", "1") == (
        "https://mirror.example/v2/a/b/manifests/1?ns=registry.example:5000"
    )
    assert replace(host, mirrored="").url("http", "a") == "http://mirror.example/v2/a"


# In use


async def test_mirrors_are_asked_in_order(hostile: Hostile, other: Hostile, connect: Connect, tmp_path: Path) -> None:
    text = f'server = "{other.url}"\n[host."http://127.0.0.1:1"]\n[host."{hostile.url}"]\nheader = {{ X-Mirror = "y" }}'
    options = written(tmp_path, "registry.example", text)
    client = await connect(hosts_dirs=options.hosts_dirs)
    repository = client.repository("registry.example/a:1")
    other.on("HEAD", "/v2/a/manifests/1", document(DOCUMENT))
    hostile.on("GET", f"/v2/a/blobs/{LAYER.digest}", blob(DATA))
    assert (await repository.resolve()).digest == digest(DOCUMENT)
    assert hostile.asked[0].query == {"ns": "registry.example"}
    assert hostile.asked[0].headers["x-mirror"] == "y"
    assert "x-mirror" not in other.asked[0].headers
    assert await collected(repository.fetch(LAYER)) == DATA
    assert len(other.asked) == 1


async def test_a_mirror_that_gives_other_bytes_is_passed_over(
    hostile: Hostile, other: Hostile, connect: Connect, tmp_path: Path
) -> None:
    options = written(tmp_path, "registry.example", f'server = "{other.url}"\n[host."{hostile.url}"]')
    client = await connect(hosts_dirs=options.hosts_dirs)
    repository = client.repository("registry.example/a:1")
    descriptor = Descriptor(MANIFEST, digest(DOCUMENT), len(DOCUMENT))
    hostile.on("GET", f"/v2/a/manifests/{descriptor.digest}", answer(200, b"x" * len(DOCUMENT)))
    hostile.on("GET", f"/v2/a/blobs/{LAYER.digest}", answer(200, b"<html>Log in to the hotel</html>"))
    other.on("GET", f"/v2/a/manifests/{descriptor.digest}", document(DOCUMENT))
    other.on("GET", f"/v2/a/blobs/{LAYER.digest}", blob(DATA))
    assert await repository.fetch_document(descriptor) == DOCUMENT
    assert await collected(repository.fetch(LAYER)) == DATA


async def test_the_next_host_goes_on_where_one_gave_up(
    hostile: Hostile, other: Hostile, connect: Connect, tmp_path: Path
) -> None:
    options = written(tmp_path, "registry.example", f'server = "{other.url}"\n[host."{hostile.url}"]')
    client = await connect(hosts_dirs=options.hosts_dirs)
    hostile.on("GET", f"/v2/a/blobs/{LAYER.digest}", sequence([cut(DATA, 2000), error(404, "BLOB_UNKNOWN")]))
    other.on("GET", f"/v2/a/blobs/{LAYER.digest}", blob(DATA))
    assert await collected(client.repository("registry.example/a:1").fetch(LAYER)) == DATA
    assert other.asked[0].headers["range"] == "bytes=2000-"


async def test_tags_are_resolved_only_by_whom_one_trusts(
    hostile: Hostile, other: Hostile, connect: Connect, tmp_path: Path
) -> None:
    text = f'server = "{other.url}"\n[host."{hostile.url}"]\ncapabilities = ["pull"]'
    options = written(tmp_path, "registry.example", text)
    client = await connect(hosts_dirs=options.hosts_dirs)
    other.on("HEAD", "/v2/a/manifests/1", document(DOCUMENT))
    await client.repository("registry.example/a:1").resolve()
    assert hostile.asked == []
    # A digest needs no trust.
    hostile.on("HEAD", f"/v2/a/manifests/{digest(DOCUMENT)}", document(DOCUMENT))
    await client.repository(f"registry.example/a@{digest(DOCUMENT)}").resolve()
    assert len(other.asked) == len(hostile.asked) == 1


async def test_nobody_may_be_asked(connect: Connect, tmp_path: Path) -> None:
    options = written(tmp_path, "registry.example", 'server = "http://127.0.0.1:1"\ncapabilities = ["pull"]')
    client = await connect(hosts_dirs=options.hosts_dirs)
    with pytest.raises(FailedPrecondition, match=r'no host of registry\.example has the capability "resolve"'):
        await client.repository("registry.example/a:1").resolve()


async def test_the_last_hosts_error_is_the_one(hostile: Hostile, connect: Connect, tmp_path: Path) -> None:
    options = written(tmp_path, "registry.example", f'server = "{hostile.url}"\n[host."http://127.0.0.1:1"]')
    client = await connect(hosts_dirs=options.hosts_dirs)
    with pytest.raises(NotFound, match=r"answered 404.*\(before that: .*127\.0\.0\.1:1: cannot be reached"):
        await client.repository("registry.example/a:1").resolve()


async def test_a_certificate_of_an_unknown_authority(
    encrypted: Hostile, connect: Connect, tmp_path: Path, authority: Authority
) -> None:
    encrypted.on("HEAD", "/v2/a/manifests/1", document(DOCUMENT))
    options = written(tmp_path, "registry.example", f'server = "{encrypted.url}"')
    client = await connect(hosts_dirs=options.hosts_dirs)
    with pytest.raises(FailedPrecondition, match=r'not to be trusted \(.*\).* "ca" in the hosts\.toml'):
        await client.repository("registry.example/a:1").resolve()
    (tmp_path / "registry.example/hosts.toml").write_text(f'server = "{encrypted.url}"\nca = "{authority.certificate}"')
    client = await connect(hosts_dirs=options.hosts_dirs)
    await client.repository("registry.example/a:1").resolve()


async def test_files_that_are_no_certificates(encrypted: Hostile, connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("not a certificate")
    for index, text in enumerate(('ca = "missing.pem"', f'ca = "{tmp_path}/x.pem"', f'client = "{tmp_path}/x.pem"')):
        options = written(tmp_path, f"{index}.example", f'server = "{encrypted.url}"\n{text}')
        client = await connect(hosts_dirs=options.hosts_dirs)
        with pytest.raises(InvalidArgument, match=r"certificate .*pem: "):
            await client.repository(f"{index}.example/a:1").resolve()


async def test_loopback_with_and_without_tls(hostile: Hostile, encrypted: Hostile, connect: Connect) -> None:
    client = await connect()
    for server in (hostile, encrypted):
        server.on("HEAD", "/v2/a/manifests/1", document(DOCUMENT))
        # Neither a scheme nor an authority is named.
        assert (await client.repository(f"{server.host}/a:1").resolve()).digest == digest(DOCUMENT)
    strict = await connect(default_scheme="https")
    with pytest.raises(Unavailable, match="speaks no TLS"):
        await strict.repository(f"{hostile.host}/a:1").resolve()
    plain = await connect(default_scheme="http")
    await plain.repository(f"{hostile.host}/a:1").resolve()


# References


@pytest.mark.parametrize(
    ("text", "host", "name", "tag", "digest"),
    [
        ("docker.io/library/alpine:3", "docker.io", "library/alpine", "3", ""),
        (f"localhost:5000/a/b@{digest(b'')}", "localhost:5000", "a/b", "", digest(b"")),
        (f"[::1]:5000/a__b/c-d.e:v1.0_x@{digest(b'')}", "[::1]:5000", "a__b/c-d.e", "v1.0_x", digest(b"")),
        ("x/y", "x", "y", "", ""),
    ],
)
def test_references(text: str, host: str, name: str, tag: str, digest: str) -> None:
    parsed = reference.parse(text)
    assert (parsed.host, parsed.name, parsed.tag, parsed.digest) == (host, name, tag, digest)
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "alpine", "/a", "x/", "x/A", "x/a:", "x/a@", "x/a:-t", "x/a:b:c", "x/../a", "x/a/../b", "x//a", "x/a?b"),
        *("../a", "./a", "x y/a", "x:port/a", "http://x/a", "x/a#b", "x/a\n", "x/a:\n", "x/%61", "user@x/a"),
        *("x/a@sha256:12", f"x/a@sha256:{'G' * 64}", f"x/a@md5:{'a' * 32}", f"x/{'a' * 300}", f"x/a:{'t' * 129}"),
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidArgument, match="reference"):
        reference.parse(text)
