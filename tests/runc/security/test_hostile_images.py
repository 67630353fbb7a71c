"""Root file systems that are not what they should be: a clear error, or a container that is confined."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.runc.differential.cases import MOUNTS
from tests.runc.security.laboratory import Laboratory

_PLACES = ("proc", "sys", "dev", "etc", "dev/pts", "dev/console", "dev/null", "tmp", "bin")
_LINKS = {
    "absolute": "{host}",
    "relative": "../../../../../../../../..{host}",
    "loop": "loop",
    "dangling": "/nowhere/at/all",
    "itself": ".",
    "root": "/",
    "file": "{host}/canary",
    "proc": "/proc/self/root",
    "descriptor": "/proc/self/fd/4",
}
#: With a tmpfs on it nothing of the image's /dev matters but what /dev itself is.
_WITHOUT_DEV = [mount for name, mount in MOUNTS.items() if name not in ("dev", "shm", "mqueue")]


@pytest.mark.parametrize("link", _LINKS)
def test_links_where_directories_should_be(laboratory: Laboratory, link: str) -> None:
    images = [_with_link(laboratory, place, _LINKS[link]) for place in _PLACES]
    bundles = []
    for place, image in zip(_PLACES, images, strict=True):
        script = f"/busybox cat {image}/host/canary {image}/host/../canary /host/canary; /busybox echo confined"
        changes: dict[str, Any] = {"process.args": ["/busybox", "sh", "-c", script], "root.path": f"{image}/rootfs"}
        if place.startswith("dev/"):
            changes |= {"mounts": _WITHOUT_DEV, "process.terminal": place == "dev/console"}
        bundles.append(laboratory.bundle(changes))
    steps = [
        {"life": str(bundle), "console": place == "dev/console"} for place, bundle in zip(_PLACES, bundles, strict=True)
    ]
    lives = laboratory.run(bundles[0], steps=steps).answer["lives"]
    for place, image, bundle, (code, kind, error) in zip(_PLACES, images, bundles, lives, strict=True):
        output = (bundle / "life.output").read_text()
        assert laboratory.canary(image) == "alive" and os.listdir(image / "host") == ["canary"], place
        assert "alive" not in output, (place, output)
        assert not kind.startswith("!") and error.isprintable(), (place, kind, error)
        # The console's output is the terminal's.
        assert error or place == "dev/console" or "confined" in output, (place, code, output)


def _with_link(laboratory: Laboratory, place: str, target: str) -> Path:
    """Return a bundle in whose image a place is a link."""
    bundle = laboratory.bundle()
    rootfs = bundle / "rootfs"
    os.link(laboratory.busybox, rootfs / "busybox")
    for name in ("dev/pts", "dev/shm", "dev/mqueue"):
        (rootfs / name).mkdir(parents=True, exist_ok=True)
    path = rootfs / place
    if path.is_dir():
        _empty(path)
        path.rmdir()
    path.symlink_to(target.format(host=bundle / "host"))
    return bundle


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            _empty(path)
            path.rmdir()
        else:
            path.unlink()


_PASSWD: dict[str, Any] = {
    "FIFO": lambda path: os.mkfifo(path),
    "2 MiB": lambda path: path.write_text("root:x:0:0::/found:/bin/sh\n" + "#" * (2 << 20)),
    "directory": lambda path: path.mkdir(),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "the kernel's log": lambda path: path.symlink_to("/proc/kmsg"),
    "no text": lambda path: path.write_bytes(bytes(range(256)) * 10),
    "lines of thousands of digits": lambda path: path.write_text(f"root:x:{'9' * 9000}:0::/found:/bin/sh\n"),
    "home with NUL": lambda path: path.write_text("root:x:0:0::/ho\0me:/bin/sh\n"),
    "loop": lambda path: path.symlink_to("passwd"),
}


def _home(laboratory: Laboratory, kind: str, *without: str) -> tuple[str, Any]:
    bundle = laboratory.bundle({"process.args": ["/bin/sh", "-c", "echo $HOME"]})
    path = bundle / "rootfs/etc/passwd"
    path.unlink()
    _PASSWD[kind](path)
    outcome = laboratory.run(bundle, without=without)
    return outcome.output, outcome


@pytest.mark.parametrize("kind", _PASSWD)
def test_passwd(laboratory: Laboratory, kind: str) -> None:
    """The container starts at once, with the home of a user that has none."""
    output, outcome = _home(laboratory, kind)
    assert (output, outcome.error) == ("/\n", ""), outcome.answer
    assert outcome.answer["seconds"] < 5


@pytest.mark.parametrize("kind", ["2 MiB"])
def test_passwd_read_without_a_check(laboratory: Laboratory, kind: str) -> None:
    assert _home(laboratory, kind, "passwd_checks")[0] == "/found\n"


def _deep(top: Path, depth: int) -> None:
    """Make a directory of many levels, longer than any path may be."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 8, dir_fd=fd)
        inner = os.open("d" * 8, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


def test_deep_tree_copied_up(laboratory: Laboratory) -> None:
    mount = {"destination": "/deep", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]}
    bundle = laboratory.bundle({"mounts+": [mount]}, {"deep/": ""})
    _deep(bundle / "rootfs/deep", 2000)
    outcome = laboratory.run(bundle)
    assert outcome.is_clear and "/deep" in outcome.error, outcome.answer


@pytest.mark.parametrize("path", ["/d" * 800, "/d" * 3000, "/" + "d" * 300, "/../.." * 500 + "/up"])
def test_deep_destination(laboratory: Laboratory, path: str) -> None:
    bundle = laboratory.bundle({"mounts+": [{"destination": path, "type": "tmpfs", "source": "t"}]})
    outcome = laboratory.run(bundle)
    assert outcome.is_clear or outcome.answer["codes"] == [0], outcome.answer


def test_strange_files_copied_up(laboratory: Laboratory) -> None:
    """FIFOs, devices and links to the host's are copied as what they are, and none is opened."""
    mount = {"destination": "/odd", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]}
    bundle = laboratory.bundle({"mounts+": [mount], "process.args": ["/bin/ls", "-l", "/odd"]}, {"odd/file": "text"})
    odd = bundle / "rootfs/odd"
    os.mkfifo(odd / "fifo")
    os.mknod(odd / "device", 0o020666, os.makedev(1, 5))
    (odd / "link").symlink_to(bundle / "host/canary")
    outcome = laboratory.run(bundle)
    kinds = {line.split()[-1].rpartition("/")[2]: line[0] for line in outcome.output.splitlines() if line[0] in "-pcld"}
    assert kinds == {"file": "-", "fifo": "p", "device": "c", "canary": "l"}, (outcome.output, outcome.answer)


@pytest.mark.parametrize("kind", ["FIFO", "directory", "device", "socket"])
def test_program_that_is_none(laboratory: Laboratory, kind: str) -> None:
    import socket

    bundle = laboratory.bundle({"process.args": ["/program"]})
    path = bundle / "rootfs/program"
    if kind == "FIFO":
        os.mkfifo(path, 0o777)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        os.mknod(path, 0o020777, os.makedev(1, 5))
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
        path.chmod(0o777)
    outcome = laboratory.run(bundle)
    assert outcome.is_clear or outcome.answer["codes"][0] != 0, outcome.answer
