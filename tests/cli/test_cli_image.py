"""wherry image."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
import zstandard

from tests.cli.commands import Wherry
from tests.harness import archives
from tests.harness.archives import BUSYBOX
from tests.harness.command import environment, run

DIGEST = archives.digest(archives.busybox().manifest)


def test_import_prints_names_and_digests(wherry: Wherry, busybox_archive: Path, busybox_docker_archive: Path) -> None:
    assert wherry("image", "import", busybox_archive) == f"{BUSYBOX}  {DIGEST}\n"
    assert wherry("image", "import", "-q", "--name", "other", busybox_docker_archive) == "other\n"
    assert wherry("image", "import", "-q", "-", input=busybox_archive.read_bytes()) == f"{BUSYBOX}\n"
    assert wherry("image", "ls", "-q") == f"{BUSYBOX}\nother\n"


def test_ctr_takes_what_was_imported(busybox: Wherry) -> None:
    listed = busybox.daemon.ctr("images", "check", namespace=busybox.namespace).check().text.splitlines()
    name, _type, digest, status, _size, _unit, unpacked = listed[1].split(maxsplit=6)
    assert (name, digest, status, unpacked.split()[-1]) == (BUSYBOX, DIGEST, "complete", "true")


def test_ls(busybox: Wherry) -> None:
    heading, row = busybox("image", "ls").splitlines()
    assert heading.split() == ["NAME", "DIGEST", "SIZE", "PLATFORMS", "UPDATED", "LABELS"]
    assert row.split()[:2] == [BUSYBOX, DIGEST[:19]]
    assert "linux/amd64" in row
    assert "MiB" in row or "KiB" in row
    (image,) = busybox.json("image", "ls", "--json")
    assert (image["name"], image["target"]["digest"]) == (BUSYBOX, DIGEST)
    assert busybox("image", "ls", "-q", "name==absent") == ""
    assert busybox("image", "ls", "-q", "name==absent", f"name=={BUSYBOX}") == f"{BUSYBOX}\n"
    assert busybox.fails("image", "ls", "-q", "--json").startswith("--quiet and --json")


def test_inspect(busybox: Wherry) -> None:
    (image,) = busybox.json("image", "inspect", "busybox")
    (manifest,) = image["manifests"]
    assert manifest["platform"] == "linux/amd64"
    assert manifest["config"]["value"]["config"]["Cmd"] == ["/bin/sh"]
    assert [layer["mediaType"].rpartition("+")[2] for layer in manifest["layers"]] == ["gzip", "gzip"]
    assert manifest["chain_id"] in busybox("snapshot", "ls", "-q").split()
    result = busybox.run("image", "inspect", "absent", BUSYBOX)
    assert result.code == 1
    assert result.error_text == 'wherry: image "absent": not found\n'
    assert BUSYBOX in result.text


def test_tag_and_rm(busybox: Wherry) -> None:
    assert busybox("image", "tag", "busybox", "one", "two") == "one\ntwo\n"
    assert busybox.fails("image", "tag", BUSYBOX, "one") == 'image "one": already exists'
    assert busybox("image", "tag", "--force", BUSYBOX, "one") == "one\n"
    assert busybox("image", "rm", "one", "busybox") == f"one\n{BUSYBOX}\n"
    assert busybox("image", "ls", "-q") == "two\n"
    assert busybox("content", "ls", "-q") != ""
    result = busybox.run("image", "rm", "absent", "two")
    assert (result.code, result.text) == (1, "two\n")
    assert result.error_text == 'wherry: image "absent": not found\n'
    # The collection has been waited for.
    assert busybox("content", "ls", "-q") == ""
    assert busybox("snapshot", "ls", "-q") == ""


def test_export(busybox: Wherry, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.tar"
    busybox.daemon.ctr("images", "export", theirs, BUSYBOX, namespace=busybox.namespace).check()
    ours = tmp_path / "ours.tar"
    assert busybox("image", "export", "-o", ours, "busybox") == ""
    assert busybox.run("image", "export", "busybox").check().output == ours.read_bytes()
    if busybox.daemon.kind == "containerd":
        assert ours.read_bytes() == theirs.read_bytes()
    with tarfile.open(ours) as archive:
        assert archive.getnames()[-3:] == ["index.json", "manifest.json", "oci-layout"]


def test_an_export_that_fails_leaves_the_old_file(busybox: Wherry, tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    path.write_text("old")
    assert busybox.fails("image", "export", "-o", path, "absent") == 'image "absent": not found'
    assert busybox.fails("image", "export", "-o", tmp_path / "no" / "x", "busybox").endswith(
        "no such file or directory"
    )
    assert busybox.fails("image", "export", "--platform", "linux/s390x", "-o", path, "busybox").startswith("image ")
    assert os.listdir(tmp_path) == ["archive.tar"]
    assert path.read_text() == "old"


def test_a_terminal_is_no_place_for_an_archive(wherry: Wherry) -> None:
    for arguments, words in (
        (("image", "export", "x"), "a terminal is no place for an archive"),
        (("image", "import", "-"), "a terminal gives no archive"),
    ):
        with wherry.terminal(*arguments) as terminal:
            assert terminal.wait() == 1
        assert words in terminal.text


def test_an_import_tells_its_steps_in_a_terminal(wherry: Wherry, busybox_archive: Path) -> None:
    with wherry.terminal("image", "import", busybox_archive) as terminal:
        assert terminal.wait() == 0
    if wherry.daemon.kind == "containerd":  # without a Transfer service
        lines = terminal.text.split("\r\n")
        assert [line.split()[0] for line in lines if line] == ["blob"] * 4 + ["unpack"] * 2 + [BUSYBOX]
        return
    *_drawn, last = re.split(r"\x1b\[\d+A\r\x1b\[J", terminal.text)
    head, *layers, name, end = last.split("\r\n")
    assert head.startswith("Imported /")
    assert [line.split(": ")[1] for line in layers] == ["Pull complete"] * 2
    assert (name, end) == (f"{BUSYBOX}  {DIGEST}", "")


def test_an_import_as_json(wherry: Wherry, busybox_archive: Path) -> None:
    *events, last = [json.loads(line) for line in wherry("image", "import", "--json", busybox_archive).splitlines()]
    assert (last["image"]["name"], last["image"]["target"]["digest"]) == (BUSYBOX, DIGEST)
    assert wherry.daemon.kind == "containerd" or events[-1]["event"] == "Completed import"
    assert wherry.fails("image", "import", "--json", "-q", busybox_archive).startswith("--quiet and --json")


def test_a_rootfs_becomes_an_image(wherry: Wherry, busybox_rootfs: Path) -> None:
    changes = ["-c", 'CMD ["cat", "/etc/passwd"]', "--change", "ENV PATH=/bin", "-c", "WORKDIR /tmp"]
    printed = wherry("image", "import", "--rootfs", *changes, busybox_rootfs, "any:name")
    name, digest = printed.split()
    assert (name, digest[:7]) == ("any:name", "sha256:")
    (image,) = wherry.json("image", "inspect", "any:name")
    config = image["manifests"][0]["config"]["value"]
    assert config["config"] == {"Cmd": ["cat", "/etc/passwd"], "Env": ["PATH=/bin"], "WorkingDir": "/tmp"}
    assert config["history"][0]["comment"] == f"imported from {busybox_rootfs.name}"
    packed = zstandard.compress(busybox_rootfs.read_bytes())
    assert wherry("image", "import", "-q", "--no-unpack", "--rootfs", "-", "packed", input=packed) == "packed\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.tar"], "absent.tar: no such file or directory"),
        (["/dev/null"], "import of /dev/null: not an image archive: it has neither"),
        (["-"], "import of standard input: not an image archive: invalid tar header"),
        (["/etc/passwd", "x"], "'x' is one word too many"),
        (["--rootfs", "/etc/passwd"], "name the new image"),
        (["--rootfs", "/etc/passwd", "x"], "import of /etc/passwd: not a tar archive"),
        (["--rootfs", "--name", "y", "/etc/passwd", "x"], "--name, --base-name and --all-platforms are for archives"),
        (["--change", "CMD x", "/etc/passwd"], "--change is for --rootfs alone"),
        (["--rootfs", "--change", "RUN x", "/etc/passwd", "x"], 'change "RUN x": RUN is none of'),
        (["--platform", "x/y/z/a", "/etc/passwd"], 'platform "x/y/z/a"'),
        (["--platform", "linux/s390x", "ARCHIVE"], "it is for linux/amd64"),
        (["--snapshotter", "absent", "ARCHIVE"], "import of"),
    ],
)
def test_what_cannot_be_imported(arguments: list[str], words: str, wherry: Wherry, busybox_archive: Path) -> None:
    replaced = [str(busybox_archive) if word == "ARCHIVE" else word for word in arguments]
    assert words in wherry.fails("image", "import", *replaced, input=b"x" * 1000)
    _check_nothing_is_half_made(wherry)


def _check_nothing_is_half_made(wherry: Wherry) -> None:
    assert wherry("image", "ls", "-q") == ""
    assert wherry("content", "ls", "-q", "--active") == ""
    assert wherry("snapshot", "ls", "-q", "kind==active") == ""
    assert wherry.daemon.ctr("leases", "ls", "-q", namespace=wherry.namespace).check().text == ""


def test_an_import_that_is_interrupted_leaves_nothing(wherry: Wherry, tmp_path: Path) -> None:
    fifo = tmp_path / "archive"
    os.mkfifo(fifo)
    process = subprocess.Popen(wherry.command("image", "import", fifo), env=environment(), stderr=subprocess.PIPE)
    data = os.urandom(3_000_000)
    blob = archives.digest(data).replace(":", "/")
    header = tarfile.TarInfo(f"blobs/{blob}")
    header.size = len(data) + 1
    with open(fifo, "wb", buffering=0) as archive:
        archive.write(header.tobuf() + data)
        while wherry("content", "ls", "-q", "--active") == "":
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    _check_nothing_is_half_made(wherry)


def test_skopeo_takes_an_export(busybox: Wherry, tmp_path: Path) -> None:
    busybox("image", "export", "-o", tmp_path / "x.tar", "busybox")
    run(["skopeo", "inspect", f"oci-archive:{tmp_path}/x.tar"]).check()
