"""wherry image pull and push, their shorter names, and wherry run that pulls, with Debian's docker-registry."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Wherry
from tests.harness import archives
from tests.harness.command import environment, run
from tests.harness.daemon import Containerd, Wherryd
from tests.harness.registry import Registry, registry

DIGEST = archives.digest(archives.busybox().manifest)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, busybox_archive: Path) -> Iterator[Registry]:
    """A registry with library/busybox:1 in it, put there by skopeo."""
    with registry(tmp_path_factory.mktemp("plain")) as running:
        source, destination = f"oci-archive:{busybox_archive}", f"docker://{running.host}/library/busybox:1"
        run(["skopeo", "copy", "--dest-tls-verify=false", source, destination]).check()
        yield running


@pytest.fixture
def ours(wherryd: Wherryd) -> Wherry:
    return Wherry(wherryd, wherryd.namespace())


@pytest.fixture
def reference(plain: Registry) -> str:
    return f"{plain.host}/library/busybox:1"


def test_pull(ours: Wherry, reference: str) -> None:
    result = ours.run("image", "pull", reference).check()
    assert result.text == f"Digest: {DIGEST}\n{reference}\n"
    assert result.error_text == ""  # no terminal
    assert ours("run", "--rm", "--pull", "never", reference, "cat", "/etc/motd") == "second layer\n"
    assert ours("pull", "-q", f"{reference.rpartition(':')[0]}@{DIGEST}").endswith(f"@{DIGEST}\n")
    assert ours("pull", "-q", "--name", "as it is", "--no-unpack", "-l", "a=b", reference) == "as it is\n"
    (image,) = ours.json("image", "ls", "--json", 'name=="as it is"')
    assert image["labels"] == {"a": "b"}
    assert ours.daemon.ctr("leases", "ls", "-q", namespace=ours.namespace).check().text == ""


def test_a_pull_without_unpacking(ours: Wherry, reference: str) -> None:
    ours("pull", "--no-unpack", reference)
    assert ours("snapshot", "ls", "-q") == ""
    assert ours("run", "--rm", reference, "echo", "unpacked") == "unpacked\n"


def test_a_pull_as_json(ours: Wherry, reference: str) -> None:
    *events, last = [json.loads(line) for line in ours("pull", "--json", reference).splitlines()]
    assert last["image"]["name"] == reference
    assert last["image"]["target"]["digest"] == DIGEST
    layers = [event for event in events if event["name"].startswith("layer-")]
    assert len({event["name"] for event in layers}) == 2
    assert {"waiting", "complete", "extracted"} <= {event["event"] for event in layers}
    assert all(event["total"] == event["desc"]["size"] for event in layers)


def test_a_pull_in_a_terminal(ours: Wherry, reference: str) -> None:
    with ours.terminal("pull", reference) as terminal:
        assert terminal.wait() == 0
    *_drawn, last = re.split(r"\x1b\[\d+A\r\x1b\[J", terminal.text)
    head, *layers, digest, name, end = last.split("\r\n")
    assert re.fullmatch(rf"Pulled {re.escape(reference)}: [\d.]+ [KM]iB in [\d.]+ s", head)
    assert [re.sub(r"^[0-9a-f]{12}", "short", line) for line in layers] == ["short: Pull complete"] * 2
    assert (digest, name, end) == (f"Digest: {DIGEST}", reference, "")
    with ours.terminal("pull", "-q", reference) as terminal:
        assert terminal.wait() == 0
    assert terminal.text == f"{reference}\r\n"


def test_a_pull_in_a_dumb_terminal(ours: Wherry, reference: str) -> None:
    from tests.harness.terminal import Terminal

    with Terminal(ours.command("pull", reference), env={"TERM": "dumb"}) as terminal:
        assert terminal.wait() == 0
    assert "\x1b" not in terminal.text
    assert len(re.findall(r"[0-9a-f]{12}: Pull complete\r\n", terminal.text)) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{host}/library/absent:1"], "pull of {host}/library/absent:1: "),
        (["Not A Name"], 'image name "Not A Name": not a Docker reference'),
        (["127.0.0.1:1/a"], "pull of 127.0.0.1:1/a:latest: "),
        (["--platform", "linux/s390x", "{host}/library/busybox:1"], "linux/amd64"),
        (["--platform", "linux/amd64", "--all-platforms", "a"], "either some platforms or all"),
        (["-q", "--json", "a"], "--quiet and --json"),
        (["--header", "x", "a"], "NAME:VALUE is expected"),
    ],
)
def test_what_cannot_be_pulled(words: list[str], said: str, ours: Wherry, plain: Registry) -> None:
    assert said.format(host=plain.host) in ours.fails("pull", *(word.format(host=plain.host) for word in words))
    assert ours("image", "ls", "-q") == ""
    assert ours("content", "ls", "-q", "--active") == ""
    assert ours.daemon.ctr("leases", "ls", "-q", namespace=ours.namespace).check().text == ""


def test_an_interrupted_pull_is_called_off(wherry: Wherry) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        words = wherry.command("pull", "--plain-http", f"{host}/a:1")
        process = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        silent.settimeout(30)
        connection, _address = silent.accept()
        with connection:
            connection.settimeout(30)
            assert connection.recv(10_000).startswith(b"HEAD /v2/a/manifests/1 ")
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=30) == (b"", b"")
            assert process.returncode == 130
            # The daemon has given it up as well.
            assert connection.recv(10_000) == b""
    deadline = time.monotonic() + 20
    while wherry.daemon.ctr("leases", "ls", "-q", namespace=wherry.namespace).check().text:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_push(ours: Wherry, plain: Registry, busybox_archive: Path) -> None:
    ours("image", "import", busybox_archive)
    reference = f"{plain.host}/pushed/busybox:2"
    result = ours.run("image", "push", "busybox", reference).check()
    assert (result.text, result.error_text) == (f"Digest: {DIGEST}\n{reference}\n", "")
    inspected = run(["skopeo", "inspect", "--tls-verify=false", f"docker://{reference}"]).check()
    assert json.loads(inspected.text)["Digest"] == DIGEST
    ours("image", "tag", "busybox", f"{plain.host}/pushed/other:3")
    assert ours("push", "-q", f"{plain.host}/pushed/other:3") == f"{plain.host}/pushed/other:3\n"
    last = json.loads(ours("push", "--json", f"{plain.host}/pushed/other:3").splitlines()[-1])
    assert last["pushed"]["target"]["digest"] == DIGEST
    assert ours.fails("push", "absent") == 'image "absent": not found'
    with ours.terminal("push", f"{plain.host}/pushed/other:3") as terminal:
        assert terminal.wait() == 0
    assert "Layer already exists" in terminal.text
    assert f"Pushed {plain.host}/pushed/other:3" in terminal.text


def test_run_pulls_what_is_missing(ours: Wherry, plain: Registry, reference: str) -> None:
    assert 'image "' in ours.run("run", "--rm", "--pull", "never", reference, "true").error_text
    before = len(plain.requests())
    result = ours.run("run", "--rm", reference, "echo", "hi").check()
    assert (result.text, result.error_text) == ("hi\n", "")
    asked = len(plain.requests())
    assert asked > before
    assert ours("run", "--rm", reference, "echo", "again") == "again\n"
    assert len(plain.requests()) == asked
    assert ours("run", "--rm", "--pull", "always", reference, "echo", "anew") == "anew\n"
    assert len(plain.requests()) > asked
    missing = ours.run("run", "--rm", f"{plain.host}/absent:1", "true")
    assert missing.code == 125
    assert missing.error_text.startswith(f"wherry: pull of {plain.host}/absent:1: ")
    assert ours.run("run", "--rm", "No Name", "true").error_text.startswith('wherry: image "No Name": ')
    assert ours("ps", "-a", "-q") == ""


def test_run_imports_nothing_more_when_the_image_is_there(ours: Wherry, busybox_archive: Path) -> None:
    ours("image", "import", busybox_archive)
    result = run(
        ["python3", "-X", "importtime", *ours.command("run", "--rm", "busybox", "true")],
        env={"PATH": f"{Path(ours.command()[0]).parent}:{os.environ['PATH']}"},
    ).check()
    imported = {line.rpartition("|")[2].strip() for line in result.error_text.splitlines() if "|" in line}
    assert "wherry.client.run" in imported
    assert not imported & {"asyncio", "wherry.cli.image_pull", "wherry.client.transfer", "wherry.oci.reference.re"}


def test_a_daemon_that_pulls_nothing_has_it_done(containerd: Containerd, plain: Registry, reference: str) -> None:
    """containerd before 1.7 has no Transfer service: the command line does the same through its other services."""
    theirs = Wherry(containerd, containerd.namespace())
    assert theirs("pull", reference) == f"Digest: {DIGEST}\n{reference}\n"
    other = f"{plain.host}/from/containerd:1"
    assert theirs("push", reference, other) == f"Digest: {DIGEST}\n{other}\n"
    assert theirs("run", "--rm", "--pull", "always", other, "cat", "/etc/motd") == "second layer\n"
    assert "not found" in theirs.fails("pull", f"{plain.host}/no/such:1")
    assert containerd.ctr("leases", "ls", "-q", namespace=theirs.namespace).check().text == ""


def test_a_push_of_several_platforms(ours: Wherry, plain: Registry, tmp_path: Path) -> None:
    parts = []
    for architecture in ("amd64", "arm64"):
        layer = archives.layer([archives.member(f"for-{architecture}", b"x")])
        config = archives.config([layer], {}, architecture=architecture)
        parts.append(archives.Archive([layer], config, architecture=architecture))
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [json.loads(part.index)["manifests"][0] for part in parts],
    }
    for entry in index["manifests"]:  # type: ignore[attr-defined]
        del entry["annotations"]
    reference = f"{plain.host}/several:1"
    layout = tmp_path / "layout/blobs/sha256"
    layout.mkdir(parents=True)
    document = json.dumps(index).encode()
    blobs = {**parts[0].blobs, **parts[1].blobs, archives.digest(document): document}
    for digest, data in blobs.items():
        (layout / digest.partition(":")[2]).write_bytes(data)
    top = {"mediaType": index["mediaType"], "digest": archives.digest(document), "size": len(document)}
    top["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    (tmp_path / "layout/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (tmp_path / "layout/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    words = ["skopeo", "copy", "--all", "--preserve-digests", "--dest-tls-verify=false"]
    run([*words, f"oci:{tmp_path}/layout:1", f"docker://{reference}"]).check()

    ours("pull", "-q", reference)
    (image,) = ours.json("image", "inspect", reference)
    assert [each["platform"] for each in image["manifests"]] == ["linux/amd64"]
    other = f"{plain.host}/one:1"
    assert "image for linux/arm64" in ours.fails("push", "--all-platforms", reference, other)
    # What was pushed is not what the name refers to here, and is told.
    assert ours("push", reference, other) == f"Digest: {image['manifests'][0]['descriptor']['digest']}\n{other}\n"
    assert archives.digest(document) == image["target"]["digest"]
    ours("pull", "-q", "--all-platforms", reference)
    assert ours("push", "--all-platforms", reference, other) == f"Digest: {archives.digest(document)}\n{other}\n"
