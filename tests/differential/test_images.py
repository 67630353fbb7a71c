"""`ctr images`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.differential.transcript import Side, differential, tar_listing, tree
from tests.harness import archives
from tests.harness.archives import BUSYBOX


@differential
def test_import(side: Side, busybox_archive: Path) -> None:
    side.ctr("images", "import", busybox_archive)
    side.ctr("images", "ls")
    side.ctr("content", "ls")
    side.ctr("snapshots", "ls")
    side.ctr("leases", "ls")


@differential
def test_import_twice(side: Side, busybox_archive: Path) -> None:
    side.ctr("images", "import", busybox_archive)
    side.ctr("images", "import", busybox_archive)
    side.ctr("images", "ls")


@differential
def test_import_from_standard_input(side: Side, busybox_archive: Path) -> None:
    side.ctr("images", "import", "-", input=busybox_archive.read_bytes())
    side.ctr("images", "check")


@differential
def test_import_docker_archive(side: Side, busybox_docker_archive: Path) -> None:
    side.ctr("images", "import", busybox_docker_archive)
    side.ctr("images", "ls")
    side.ctr("content", "ls")
    side.ctr("images", "check")


@pytest.mark.parametrize(
    "flags",
    [
        ("--no-unpack",),
        ("--digests",),
        ("--digests", "--skip-digest-for-named"),
        ("--base-name", "docker.io/library/busybox"),
        ("--base-name", "example.org/other"),
        ("--index-name", "example.org/index:1"),
        ("--all-platforms",),
        ("--snapshotter", "native"),
        ("--snapshotter", "absent"),
        ("--platform", "linux/arm64"),
        ("--platform", "not/a/plat/form"),
    ],
    ids=" ".join,
)
@differential
def test_import_with(side: Side, busybox_archive: Path, flags: tuple[str, ...]) -> None:
    side.ctr("images", "import", *flags, busybox_archive)
    side.ctr("images", "ls")
    side.ctr("snapshots", "ls")
    side.ctr("snapshots", "--snapshotter", "native", "ls")


@differential
def test_import_docker_archive_compressed(side: Side, busybox_docker_archive: Path) -> None:
    side.ctr("images", "import", "--compress-blobs", busybox_docker_archive)
    side.ctr("images", "ls")
    side.ctr("content", "ls")


@differential
def test_list(side: Side, busybox_archive: Path) -> None:
    side.ctr("images", "ls")
    side.ctr("images", "import", busybox_archive)
    side.ctr("images", "tag", BUSYBOX, "example.org/b:1", "example.org/c:1")
    side.ctr("images", "ls", "-q")
    side.ctr("images", "ls", "-q", "name==example.org/b:1")
    side.ctr("images", "ls", "-q", "name~=example")
    side.ctr("images", "ls", "-q", 'name~="^docker"', "name==example.org/c:1")
    side.ctr("images", "ls", "-q", "target.mediatype~=/manifest/")
    side.ctr("images", "ls", "-q", "name~=example,name!=example.org/b:1")
    side.ctr("images", "ls", "-q", "labels.absent")
    side.ctr("images", "ls", "-q", "name===b")
    side.ctr("images", "ls", "-q", "==")


@differential
def test_check(side: Side, busybox_archive: Path) -> None:
    side.ctr("images", "check")
    side.ctr("images", "import", "--no-unpack", busybox_archive)
    side.ctr("images", "check")
    side.ctr("images", "check", "--quiet", "name~=busybox")


@differential
def test_label(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", "--no-unpack", busybox_archive)
    side.ctr("images", "label", BUSYBOX, "one=1", "two=2")
    side.ctr("images", "ls")
    side.ctr("images", "label", BUSYBOX, "one=", "two=zwei")
    side.ctr("images", "ls", 'labels."two"==zwei')
    side.ctr("images", "label", "--replace-all", BUSYBOX, "three=3")
    side.ctr("images", "ls")
    side.ctr("images", "label", BUSYBOX, "big=" + "x" * 4096)
    side.ctr("images", "label", BUSYBOX, "dots.and/slashes=" + "y" * 20)
    side.ctr("images", "ls")
    side.ctr("images", "label", "absent:1", "a=b")
    side.ctr("images", "label", BUSYBOX)


@differential
def test_tag(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", "--no-unpack", busybox_archive)
    side.ctr("images", "tag", BUSYBOX, "example.org/a:1")
    side.ctr("images", "tag", BUSYBOX, "example.org/a:1")
    side.ctr("images", "tag", "--force", BUSYBOX, "example.org/a:1", "any name at all")
    side.ctr("images", "tag", "absent:1", "example.org/b:1")
    side.ctr("images", "tag", BUSYBOX)
    side.ctr("images", "ls", "-q")


@differential
def test_remove(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    side.quietly("images", "tag", BUSYBOX, "example.org/a:1")
    side.ctr("images", "rm", "--sync", BUSYBOX)
    side.ctr("content", "ls", "-q")
    side.ctr("snapshots", "ls")
    side.ctr("images", "rm", "--sync", "example.org/a:1")
    side.ctr("images", "ls")
    side.ctr("content", "ls")
    side.ctr("snapshots", "ls")
    side.ctr("images", "rm", "example.org/a:1", "absent:1")


@differential
def test_remove_while_a_container_uses_it(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    side.quietly("containers", "create", BUSYBOX, side.id("box"), "true")
    side.ctr("images", "rm", "--sync", BUSYBOX)
    side.ctr("snapshots", "ls")
    side.ctr("content", "ls")
    side.quietly("containers", "rm", side.id("box"))
    side.quietly("images", "import", "--no-unpack", busybox_archive)
    side.ctr("images", "rm", "--sync", BUSYBOX)
    side.ctr("snapshots", "ls")


@differential
def test_mount(side: Side, busybox_archive: Path) -> None:
    target = side.directory / "target"
    target.mkdir()
    side.quietly("images", "import", busybox_archive)
    side.ctr("images", "mount", BUSYBOX, target)
    side.note("mounted", tree(target))
    side.ctr("leases", "ls")
    side.ctr("snapshots", "ls")
    side.ctr("snapshots", "mounts", "/elsewhere", str(target))
    side.ctr("images", "unmount", "--rm", target)
    side.note("after unmounting", tree(target))
    side.ctr("snapshots", "ls")
    side.ctr("leases", "ls")


@differential
def test_mount_for_writing(side: Side, busybox_archive: Path) -> None:
    target = side.directory / "target"
    target.mkdir()
    side.quietly("images", "import", busybox_archive)
    side.ctr("images", "mount", "--rw", BUSYBOX, target)
    (target / "written").write_text("here")
    side.ctr("images", "unmount", target)
    side.ctr("snapshots", "ls")
    side.ctr("images", "mount", "--rw", BUSYBOX, target)
    side.ctr("snapshots", "rm", str(target))
    side.ctr("leases", "ls")
    side.ctr("images", "mount", "absent:1", target)
    side.ctr("images", "mount", BUSYBOX)


@pytest.mark.parametrize(
    "flags", [(), ("--skip-manifest-json",), ("--all-platforms",), ("--platform", "linux/arm64")], ids=" ".join
)
@differential
def test_export(side: Side, busybox_archive: Path, flags: tuple[str, ...]) -> None:
    out = side.directory / "out.tar"
    side.quietly("images", "import", busybox_archive)
    side.ctr("images", "export", *flags, out, BUSYBOX)
    side.note("exported", tar_listing(out))


@differential
def test_export_several_and_import_them_again(side: Side, busybox_archive: Path) -> None:
    out = side.directory / "out.tar"
    side.quietly("images", "import", busybox_archive)
    side.quietly("images", "tag", BUSYBOX, "example.org/b:1")
    side.ctr("images", "export", out, BUSYBOX, "example.org/b:1")
    side.note("exported", tar_listing(out))
    side.quietly("images", "rm", "--sync", BUSYBOX, "example.org/b:1")
    side.ctr("images", "import", out)
    side.ctr("images", "ls")
    side.ctr("images", "export", out, "absent:1")
    side.ctr("images", "export", out)


@differential
def test_convert(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    side.ctr("images", "convert", "--uncompress", BUSYBOX, "example.org/plain:1")
    side.ctr("images", "ls")
    side.ctr("content", "ls")


def bad_archives() -> dict[str, bytes]:
    good = archives.busybox()
    layer, config = archives.digest(good.layers[0].data), archives.digest(good.config)
    data = good.layers[0].data
    other = archives.layer([archives.member("etc/other", b"not what the config says")])
    return {
        "empty": b"",
        "no archive": b"this is no archive\n" * 100,
        "cut off": good.oci()[:200_000],
        "layer missing": good.oci(without=layer),
        "config missing": good.oci(without=config),
        "manifest missing": good.oci(without=archives.digest(good.manifest)),
        "layer with another digest": good.oci(replaced={layer: data[:-8] + b"\0" * 8}),
        "layer with another size": good.oci(replaced={layer: data + b"\0"}),
        "config with another digest": good.oci(replaced={config: good.config.replace(b"amd64", b"AMD64")}),
        "diff id of another layer": archives.Archive([other, good.layers[1]], good.config).oci(),
        "another platform": archives.Archive(
            good.layers, archives.config(good.layers, {}, architecture="arm64"), architecture="arm64"
        ).oci(),
        "a layer that is no gzip": archives.Archive(
            [archives.Layer(b"no gzip", archives.digest(b"no gzip"))], archives.config(good.layers[:1], {})
        ).oci(),
    }


@pytest.mark.parametrize("name", list(bad_archives()))
@differential
def test_import_of_a_bad_archive(side: Side, name: str) -> None:
    archive = side.directory / "bad.tar"
    archive.write_bytes(bad_archives()[name])
    side.ctr("images", "import", archive)
    side.ctr("images", "ls")
    side.ctr("images", "check")
    side.ctr("snapshots", "ls")
    side.ctr("leases", "ls")
