"""A root file system of a few hundred MB, Debian's own: imported, run, exported, and unpacked again by others."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness.command import run
from tests.harness.daemon import Containerd, Wherryd

#: In the working tree, and not in the repository.
CACHE = Path(__file__).parents[2] / ".cache"


@pytest.fixture(scope="session")
def debian_rootfs() -> Path:
    """A tar of Debian 12 with apt, bash and Python, made by mmdebstrap once for a working tree."""
    archive = CACHE / "debian-12.tar"
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
                pytest.skip("needs root and mmdebstrap")
            made = CACHE / "being-made.tar"
            subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3-minimal", "bookworm", made],
                check=True,
            )
            made.rename(archive)
    return archive


def test_debian(wherryd: Wherryd, containerd: Containerd, debian_rootfs: Path, tmp_path: Path) -> None:
    namespace = wherryd.namespace()

    def wherry(*arguments: str | Path) -> str:
        return wherryd.wherry(*arguments, namespace=namespace, timeout=300).check().text

    wherry("image", "import", "--rootfs", debian_rootfs, "debian:12")
    said = wherry(
        "run",
        "--rm",
        "debian:12",
        "bash",
        "-c",
        'a=(one two); echo "${#a[@]} $BASH_VERSION"; . /etc/os-release; echo $ID',
    )
    assert said.startswith("2 5.") and said.endswith("debian\n")
    assert wherry("run", "--rm", "debian:12", "apt-get", "--version").startswith("apt 2.")
    assert wherry("run", "--rm", "debian:12", "python3", "-c", "import sys; print(sys.version_info[0])") == "3\n"
    checked = wherryd.wherry("run", "--rm", "debian:12", "dpkg", "--verify", namespace=namespace)
    assert (checked.code, checked.output, checked.errors) == (0, b"", b"")

    # The very tree that tar unpacks: links, devices, modes, owners, times, capabilities.
    exported = tmp_path / "debian.tar"
    wherry("image", "export", "-o", exported, "debian:12")
    other = containerd.namespace()
    containerd.ctr("images", "import", exported, namespace=other, timeout=300).check()
    ran = containerd.ctr(
        "run", "--rm", "debian:12", containerd.id(), "dpkg", "--verify", namespace=other, timeout=300
    ).check()
    assert ran.output == b""


def test_it_is_the_tree_that_tar_unpacks(wherryd: Wherryd, debian_rootfs: Path, tmp_path: Path) -> None:
    namespace = wherryd.namespace()
    wherryd.wherry("image", "import", "--rootfs", debian_rootfs, "debian:12", namespace=namespace, timeout=300).check()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", debian_rootfs, "-C", theirs], check=True
    )
    wherryd.ctr("images", "mount", "debian:12", ours, namespace=namespace).check()
    try:
        assert listing(ours) == listing(theirs)
    finally:
        wherryd.ctr("images", "unmount", "--rm", ours, namespace=namespace).check()


def listing(root: Path) -> list[str]:
    """Return every entry below with its kind, mode, owner, time, size and target; a directory's size is not its own."""
    found = run(["find", root, "-mindepth", "1", "-printf", r"%P %y %m %U:%G %T@ %n %l %s\n"]).check().text
    return sorted(line.rsplit(" ", 1)[0] if " d " in line else line for line in found.splitlines())
