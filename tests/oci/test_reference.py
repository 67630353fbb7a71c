from __future__ import annotations

import pytest

from wherry.errors import InvalidArgument
from wherry.oci.reference import familiar, normalize, tag

DIGEST = "sha256:" + "c" * 64


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1", "docker.io/library/busybox:1"),
        ("a/b", "docker.io/a/b:latest"),
        ("localhost/x:1", "localhost/x:1"),
        ("localhost:5000/x:latest", "localhost:5000/x:latest"),
        ("quay.io/a/b:t", "quay.io/a/b:t"),
        ("UPPER/x:1", "UPPER/x:1"),
        (f"y@{DIGEST}", f"docker.io/library/y@{DIGEST}"),
        (f"y:1@{DIGEST}", f"docker.io/library/y:1@{DIGEST}"),
        ("[::1]:5000/x:1", "[::1]:5000/x:1"),
    ],
)
def test_short_and_full_forms(short: str, full: str) -> None:
    assert normalize(short) == full
    assert normalize(full) == full
    assert normalize(familiar(full)) == full


def test_the_familiar_form() -> None:
    assert familiar("docker.io/library/busybox:1") == "busybox:1"
    assert familiar("docker.io/a/b:1") == "a/b:1"
    assert familiar("index.docker.io/x") == "x:latest"
    assert familiar("quay.io/a/b:1") == "quay.io/a/b:1"


@pytest.mark.parametrize("text", ["", "UPPER:x", "we ird", "a//b", "x:", "x@sha256:1", "x_y/__", "/x", "x" * 300])
def test_what_docker_does_not_take(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a Docker reference"):
        normalize(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # As ctr's export has them, but for what has no tag: that is "" there, which no tool can be asked for.
        ("docker.io/library/busybox:1.0", "1.0"),
        ("localhost:5000/x:t", "t"),
        ("foo:bar", "foo:bar"),
        (f"docker.io/library/y@{DIGEST}", f"@{DIGEST}"),
        (f"docker.io/library/z:1@{DIGEST}", f"1@{DIGEST}"),
        ("foo", "latest"),
        ("localhost:5000/x", "latest"),
    ],
)
def test_the_tag_of_a_name(name: str, expected: str) -> None:
    assert tag(name) == expected
