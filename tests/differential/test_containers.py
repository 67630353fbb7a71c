"""`ctr containers`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.differential.transcript import Side, differential
from tests.harness.archives import BUSYBOX


@differential
def test_create_list_remove(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    box = side.id("box")
    side.ctr("containers", "ls")
    side.ctr("containers", "create", BUSYBOX, box, "sleep", "10")
    side.ctr("containers", "create", BUSYBOX, box, "sleep", "10")
    side.ctr("containers", "ls")
    side.ctr("containers", "ls", "-q")
    side.ctr("snapshots", "ls")
    side.ctr("tasks", "ls")
    side.ctr("containers", "rm", box)
    side.ctr("containers", "rm", box)
    side.ctr("containers", "ls")
    side.ctr("snapshots", "ls")


@pytest.mark.parametrize("runtime", ["io.containerd.runc.v2", "io.containerd.runtime.v1.linux", "example.absent.v9"])
@differential
def test_info(side: Side, busybox_archive: Path, runtime: str) -> None:
    side.quietly("images", "import", busybox_archive)
    side.ctr("containers", "create", "--runtime", runtime, "--label", "a=1", BUSYBOX, side.id("box"), "true")
    side.ctr("containers", "info", side.id("box"))
    side.ctr("containers", "info", "--spec", side.id("box"))


@pytest.mark.parametrize(
    "flags",
    [
        ("--env", "A=1", "--env", "B=two words", "--cwd", "/tmp"),
        ("--net-host",),
        ("--privileged",),
        ("--read-only",),
        ("--tty",),
        ("--memory-limit", "67108864", "--annotation", "a.b/c=d"),
        ("--mount", "type=bind,src=/tmp,dst=/host,options=rbind:ro"),
        ("--with-ns", "network:/proc/1/ns/net", "--with-ns", "pid:/proc/1/ns/pid"),
        ("--cap-add", "CAP_SYS_ADMIN", "--cap-drop", "CAP_CHOWN"),
        ("--seccomp",),
        ("--allow-new-privs",),
        ("--cpu-quota", "50000", "--cpu-period", "100000"),
        ("--device", "/dev/fuse"),
        ("--rootfs-propagation", "slave"),
        ("--snapshotter", "native"),
        ("--snapshotter-label", "x=y"),
    ],
    ids=lambda flags: flags[0].lstrip("-"),
)
@differential
def test_create_with(side: Side, busybox_archive: Path, flags: tuple[str, ...]) -> None:
    side.quietly("images", "import", *(flags if "native" in flags else ()), busybox_archive)
    side.ctr("containers", "create", *flags, BUSYBOX, side.id("box"), "true")
    side.ctr("containers", "info", side.id("box"))


@differential
def test_the_spec_is_kept_as_it_is(side: Side, busybox_archive: Path) -> None:
    """Fields that nobody knows come back as they were sent."""
    spec = side.directory / "config.json"
    spec.write_text(json.dumps({"ociVersion": "1.0.2", "x-unknown": [1, {"deep": None}], "root": {"path": "/nowhere"}}))
    side.ctr("containers", "create", "--config", spec, side.id("box"))
    side.ctr("containers", "info", side.id("box"))


@differential
def test_label(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    box = side.id("box")
    side.quietly("containers", "create", BUSYBOX, box)
    side.ctr("containers", "label", box, "a=1", "b.c/d=2")
    side.ctr("containers", "ls", "labels.a==1")
    side.ctr("containers", "ls", 'labels."b.c/d"!=2')
    side.ctr("containers", "label", box, "a=")
    side.ctr("containers", "info", box)
    side.ctr("containers", "label", box, "big=" + "x" * 4096)
    side.ctr("containers", "label", "absent", "a=1")
    side.ctr("containers", "label", box)


@differential
def test_filters(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    for name in ("one", "two"):
        side.quietly("containers", "create", "--label", f"name={name}", BUSYBOX, side.id(name))
    one = side.id("one")
    for filter in (
        *(f"id=={one}", f"id!={one}", "id~=^one", "id~=/two/", "runtime.name~=runc", f"image=={BUSYBOX}"),
        *("labels.name==two", "labels.name", "labels.absent", "labels.absent!=x", "labels.name~=^t", "unknown==1"),
        *('labels.name == "two"', f"id=={one}, labels.name==one", f"id=={one},labels.name==two", "labels.name~=["),
        *("id==", "id=x", "=", "id==a,", "labels.name=='two'", ""),
    ):
        side.ctr("containers", "ls", filter)
    side.ctr("containers", "ls", "labels.name==one", "labels.name==two")


@differential
def test_errors(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", "--no-unpack", busybox_archive)
    side.ctr("containers", "create")
    side.ctr("containers", "create", "absent:1", side.id("box"))
    for bad in ("a--b", "-a", ".", "a b", "x" * 77, ""):
        side.ctr("containers", "create", BUSYBOX, bad)
    side.ctr("containers", "create", "--snapshotter", "absent", BUSYBOX, side.id("box"))
    side.ctr("containers", "info", "absent")
    side.ctr("containers", "info")
    side.ctr("containers", "rm")
    side.ctr("containers", "rm", "absent", "other")
    side.ctr("containers", "create", "--label", "big=" + "x" * 4096, BUSYBOX, side.id("box"))
    side.ctr("containers", "ls")
    side.collect()
    side.ctr("snapshots", "ls")


@differential
def test_remove_keeps_the_snapshot(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    side.quietly("containers", "create", BUSYBOX, side.id("box"))
    # Without a container only its own label holds it when the next collection comes.
    side.quietly("snapshots", "label", side.id("box"), "containerd.io/gc.root=1")
    side.ctr("containers", "rm", "--keep-snapshot", side.id("box"))
    side.ctr("snapshots", "ls")


@differential
def test_remove_while_its_task_lives(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    box = side.id("box")
    side.quietly("run", "--detach", "--null-io", BUSYBOX, box, "sleep", "1000")
    side.ctr("containers", "rm", box)
    side.quietly("tasks", "rm", "--force", box)
    side.ctr("containers", "rm", box)


@differential
def test_containers_are_of_a_namespace(side: Side, busybox_archive: Path) -> None:
    other, box = side.other_namespace("other"), side.id("box")
    side.quietly("images", "import", busybox_archive)
    side.quietly("containers", "create", BUSYBOX, box)
    side.ctr("containers", "info", box, namespace=other)
    side.ctr("containers", "ls", namespace=other)
    side.ctr("containers", "rm", box, namespace=other)
    side.ctr("containers", "ls")
