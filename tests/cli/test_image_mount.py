"""wherry image mount and unmount."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.cli.commands import Wherry
from tests.harness.archives import BUSYBOX


def test_mount_and_unmount(busybox: Wherry, tmp_path: Path) -> None:
    assert busybox("image", "mount", "busybox", tmp_path) == f"{tmp_path}\n"
    try:
        assert (tmp_path / "etc/motd").read_text() == "second layer\n"
        assert not (tmp_path / "etc/not-a-program").exists()
        assert subprocess.run(["touch", tmp_path / "x"], check=False, capture_output=True).returncode != 0
        # What is mounted is kept, whatever goes.
        busybox("image", "rm", BUSYBOX)
        assert (tmp_path / "bin/busybox").stat().st_size > 100_000
        assert "already exists" in _again(busybox, tmp_path)
    finally:
        assert busybox("image", "unmount", "--rm", tmp_path) == f"{tmp_path}\n"
    assert not os.path.ismount(tmp_path)
    assert os.listdir(tmp_path) == []
    assert busybox.daemon.ctr("leases", "ls", "-q", namespace=busybox.namespace).check().text == ""
    assert busybox.fails("image", "unmount", "--rm", tmp_path) == f"mount or snapshot of {tmp_path}: not found"
    assert busybox.fails("image", "unmount", tmp_path) == f"mount at {tmp_path}: not found"


def _again(busybox: Wherry, path: Path) -> str:
    busybox.daemon.ctr("images", "ls", namespace=busybox.namespace).check()
    from tests.harness import archives

    busybox("image", "import", "-", input=archives.busybox().oci())
    return busybox.fails("image", "mount", "busybox", path)


def test_a_mount_that_is_written_to(busybox: Wherry, tmp_path: Path) -> None:
    busybox("image", "mount", "--rw", "busybox", tmp_path)
    (tmp_path / "new").write_text("new")
    busybox("image", "unmount", tmp_path)
    assert os.listdir(tmp_path) == []
    assert str(tmp_path) in busybox("snapshot", "ls", "-q", "kind==active").split()
    busybox("image", "unmount", "--rm", tmp_path)
    assert busybox("snapshot", "ls", "-q", "kind==active") == ""


def test_ctr_unmounts_it_and_the_other_way_round(busybox: Wherry, tmp_path: Path) -> None:
    busybox("image", "mount", "busybox", tmp_path)
    busybox.daemon.ctr("images", "unmount", "--rm", tmp_path, namespace=busybox.namespace).check()
    assert os.listdir(tmp_path) == []
    busybox.daemon.ctr("images", "mount", BUSYBOX, tmp_path, namespace=busybox.namespace).check()
    assert (tmp_path / "etc/motd").read_text() == "second layer\n"
    busybox("image", "unmount", "--rm", tmp_path)
    assert os.listdir(tmp_path) == []
    assert busybox.daemon.ctr("leases", "ls", "-q", namespace=busybox.namespace).check().text == ""


def test_what_cannot_be_mounted(busybox: Wherry, tmp_path: Path) -> None:
    assert busybox.fails("image", "mount", "busybox", tmp_path / "absent").endswith("/absent: not found")
    assert busybox.fails("image", "mount", "absent", tmp_path) == 'image "absent": not found'
    busybox("image", "mount", "busybox", tmp_path)
    try:
        with open(tmp_path / "etc/passwd"):
            assert "busy" in busybox.fails("image", "unmount", tmp_path)
    finally:
        busybox("image", "unmount", "--rm", tmp_path)


def test_an_image_that_is_not_unpacked(wherry: Wherry, busybox_archive: Path, tmp_path: Path) -> None:
    wherry("image", "import", "--no-unpack", busybox_archive)
    wherry("image", "mount", "busybox", tmp_path)
    assert (tmp_path / "etc/motd").read_text() == "second layer\n"
    wherry("image", "unmount", "--rm", tmp_path)
