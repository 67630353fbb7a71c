"""`ctr namespaces`."""

from __future__ import annotations

from pathlib import Path

from tests.differential.transcript import Side, differential


def listed(side: Side, *namespaces: str) -> None:
    """Note the rows of these namespaces; others belong to tests that run at the same time."""
    rows = side.quietly("namespaces", "ls").text.splitlines()
    side.note("namespaces ls", [" ".join(row.split()) for row in rows if row.split()[0] in ("NAME", *namespaces)])


@differential
def test_create_list_remove(side: Side) -> None:
    name = side.other_namespace("made")
    side.ctr("namespaces", "create", name)
    listed(side, name)
    side.ctr("namespaces", "create", name)
    side.ctr("namespaces", "rm", name)
    listed(side, name)
    side.ctr("namespaces", "rm", name)


@differential
def test_create_with_labels(side: Side) -> None:
    name = side.other_namespace("made")
    side.ctr("namespaces", "create", name, "one=1", "empty=", "path/to=a/b:c.d")
    listed(side, name)


@differential
def test_label(side: Side) -> None:
    name = side.other_namespace("made")
    side.ctr("namespaces", "label", name, "before=creation")
    listed(side, name)
    side.ctr("namespaces", "create", name)
    side.ctr("namespaces", "label", name, "a=1", "b=2")
    listed(side, name)
    side.ctr("namespaces", "label", name, "a=", "c=3")
    listed(side, name)
    side.ctr("namespaces", "label", name)


@differential
def test_names(side: Side) -> None:
    for name in ("", "-a", "a--b", "a_.b", "a b", "x" * 77, "x/y", "ü"):
        side.ctr("namespaces", "create", name)
        side.ctr("namespaces", "rm", name)
    side.ctr("namespaces", "create")
    side.ctr("namespaces", "rm")


@differential
def test_not_empty(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    side.ctr("namespaces", "rm", side.namespace)
    side.quietly("containers", "create", "docker.io/library/busybox:latest", side.id("box"))
    side.ctr("namespaces", "rm", side.namespace)


@differential
def test_first_object_makes_the_namespace(side: Side) -> None:
    listed(side, side.namespace)
    side.ctr("content", "ingest", "ref", input=b"data")
    listed(side, side.namespace)


@differential
def test_quiet_list(side: Side) -> None:
    name = side.other_namespace("made")
    side.ctr("namespaces", "create", name)
    side.note("ls -q", [line for line in side.quietly("namespaces", "ls", "-q").text.split() if line == name])


@differential
def test_remove_several(side: Side) -> None:
    first, second = side.other_namespace("first"), side.other_namespace("second")
    side.ctr("namespaces", "create", first)
    side.ctr("namespaces", "rm", first, second)
    listed(side, first, second)


@differential
def test_remove_with_cgroup(side: Side) -> None:
    name = side.other_namespace("made")
    side.ctr("namespaces", "create", name)
    side.ctr("namespaces", "rm", "--cgroup", name)
