"""`ctr content`."""

from __future__ import annotations

from pathlib import Path

from tests.differential.transcript import Side, differential
from tests.harness import archives

HELLO = archives.digest(b"hello\n")


@differential
def test_ingest_get_list(side: Side) -> None:
    side.ctr("content", "ls")
    side.ctr("content", "ingest", "some/ref with blanks", input=b"hello\n")
    side.ctr("content", "get", HELLO)
    side.ctr("content", "ls")
    side.ctr("content", "ls", "-q")
    side.ctr("content", "active")


@differential
def test_ingest_checks(side: Side) -> None:
    side.ctr("content", "ingest", "--expected-size", "5", "size", input=b"hello\n")
    side.ctr("content", "active")
    side.ctr("content", "ingest", "--expected-size", "6", "size", input=b"hello\n")
    side.ctr("content", "ingest", "--expected-digest", "sha256:" + "0" * 64, "digest", input=b"other\n")
    side.ctr("content", "active")
    side.ctr("content", "ingest", "--expected-digest", "sha256:zz", "malformed", input=b"hello\n")
    side.ctr("content", "ingest", "--expected-digest", HELLO, "right", input=b"hello\n")
    side.ctr("content", "ingest", "", input=b"hello\n")
    side.ctr("content", "ingest", input=b"hello\n")
    side.ctr("content", "ls")


@differential
def test_ingest_twice(side: Side) -> None:
    side.ctr("content", "ingest", "first", input=b"hello\n")
    side.ctr("content", "ingest", "second", input=b"hello\n")
    side.ctr("content", "ingest", "--expected-digest", HELLO, "third", input=b"hello\n")
    side.ctr("content", "active")


@differential
def test_empty_blob(side: Side) -> None:
    side.ctr("content", "ingest", "nothing", input=b"")
    side.ctr("content", "ls")
    side.ctr("content", "get", archives.digest(b""))


@differential
def test_big_blob(side: Side) -> None:
    data = bytes(range(256)) * 4 * 5000  # 5 MB: more than one message
    side.ctr("content", "ingest", "big", input=data)
    side.ctr("content", "ls")
    result = side.quietly("content", "get", archives.digest(data))
    side.note("read back", result.output == data)


@differential
def test_get_errors(side: Side) -> None:
    side.ctr("content", "get", "sha256:" + "0" * 64)
    side.ctr("content", "get", "sha256:0")
    side.ctr("content", "get", "nothing")
    side.ctr("content", "get", "")
    side.ctr("content", "get")


@differential
def test_label(side: Side) -> None:
    side.quietly("content", "ingest", "ref", input=b"hello\n")
    side.ctr("content", "label", HELLO, "a=1", "b.c/d=2")
    side.ctr("content", "ls")
    side.ctr("content", "ls", "labels.a==1")
    side.ctr("content", "ls", 'labels."b.c/d"==2')
    side.ctr("content", "ls", "labels.a==2")
    side.ctr("content", "ls", f"digest=={HELLO}")
    side.ctr("content", "ls", "size==6")
    side.ctr("content", "label", HELLO, "a=")
    side.ctr("content", "ls")
    side.ctr("content", "label", HELLO, "big=" + "x" * 4096)
    side.ctr("content", "label", "sha256:" + "0" * 64, "a=1")
    side.ctr("content", "label", "nothing", "a=1")
    side.ctr("content", "label", HELLO)


def _kept(side: Side) -> bool:
    side.quietly("content", "ingest", "ref", input=b"hello\n")
    label = ("content", "label", HELLO, "containerd.io/gc.root=1")
    return side.daemon.ctr(*label, namespace=side.namespace).code == 0


@differential
def test_remove(side: Side) -> None:
    side.until(lambda: _kept(side), "what nothing refers to is collected before it has a label")
    side.ctr("content", "rm", HELLO)
    side.ctr("content", "ls")
    side.ctr("content", "rm", HELLO)
    side.ctr("content", "rm", "nothing")
    side.ctr("content", "rm")


@differential
def test_edit(side: Side) -> None:
    side.quietly("content", "ingest", "ref", input=b"hello\n")
    side.ctr("content", "edit", "--editor", "sed -i s/hello/bye/", HELLO)
    side.ctr("content", "ls", "-q")


@differential
def test_prune_references(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    side.ctr("content", "prune", "references")
    side.ctr("content", "ls")


@differential
def test_blobs_are_of_a_namespace(side: Side) -> None:
    other = side.other_namespace("other")
    side.ctr("content", "ingest", "ref", input=b"hello\n")
    side.ctr("content", "get", HELLO, namespace=other)
    side.ctr(
        "content",
        "ingest",
        "--expected-digest",
        HELLO,
        "--expected-size",
        "6",
        "ref",
        namespace=other,
        input=b"hello\n",
    )
    side.ctr("content", "ls", "-q", namespace=other)
    side.ctr("content", "rm", HELLO)
    side.ctr("content", "get", HELLO, namespace=other)
    side.ctr("content", "get", HELLO)
