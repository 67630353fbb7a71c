"""The filter language, by its grammar and by containerd's habits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidArgument
from wherry.store import filters

THING = {"id": "overlayfs", "type": "io.containerd.snapshotter.v1", "image": "docker.io/library/a:b"}
LABELS = {"a": "b", "containerd.io/gc.ref.content.l.0": "sha256:1", "empty": ""}


def adaptor(path: list[str]) -> tuple[str, bool]:
    if path[0] == "labels":
        return filters.labels_field(LABELS, path)
    value = THING.get(".".join(path))
    return (value, True) if value is not None else ("", False)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("id", True),
        ("nothing", False),
        ("id==overlayfs", True),
        ("type==io.containerd.snapshotter.v1, id==overlayfs", True),
        ("type==io.containerd.snapshotter.v1,id==native", False),
        ("id != native", True),
        ("nothing!=x", True),
        ("nothing==x", False),
        ("id~=^over", True),
        ("id~=^native", False),
        ("id~=[", False),
        ("nothing~=^$", True),
        ("image~=/library.a/", True),
        ("image~=|docker.io/library/|", True),
        ('labels."containerd.io/gc.ref.content.l.0"==sha256:1', True),
        ("labels.a==b", True),
        ("labels.missing", False),
        ("labels.empty", True),
        ('id=="overlay\\x66s"', True),
    ],
)
def test_what_matches(text: str, matches: bool) -> None:
    assert filters.parse_all([text])(adaptor) is matches


def test_a_list_is_or_and_no_list_is_everything() -> None:
    assert filters.parse_all([])(adaptor)
    assert filters.parse_all(["id==native", "id==overlayfs"])(adaptor)
    assert not filters.parse_all(["id==native", "id==btrfs"])(adaptor)


@pytest.mark.parametrize("text", ["==", "a=b", "a==", 'a=="b', "a b", ",a", "a,", "a==b c", "a.", "a~=/x"])
def test_a_syntax_error_is_an_invalid_argument(text: str) -> None:
    with pytest.raises(InvalidArgument, match="parse error"):
        filters.parse_all([text])


@given(st.text(alphabet='ab."=!~,/|\\x0 ', max_size=30))
def test_any_text_is_a_filter_or_a_clear_error(text: str) -> None:
    try:
        matches = filters.parse_all([text])
    except InvalidArgument:
        return
    assert matches(adaptor) in (True, False)
