"""JSON without the json package: what that writes and reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.oci import json_text
from wherry.runc.command import go_json

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)

#: What Go's encoder writes otherwise.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


@given(value=values)
def test_as_the_json_package(value: Any) -> None:
    assert json_text.dumps(value) == json.dumps(value)
    compact = json_text.dumps(value, ascii=False, colon=":", comma=",")
    assert compact == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert json_text.loads(json_text.dumps(value)) == value


@given(value=values, indent=st.sampled_from(["", "  ", "\t"]))
def test_documents_for_callers_as_the_json_package(value: Any, indent: str) -> None:
    separators = None if indent else (",", ":")
    written = json.dumps(value, ensure_ascii=False, indent=indent or None, separators=separators)
    assert go_json.encode(value, indent) == written.encode(errors="replace").decode().translate(_ESCAPES)


@pytest.mark.parametrize("text", ["", " ", "{", "[1,]", "NaN", "Infinity", '{"a": 1} x', b"\xff", "'a'"])
def test_what_is_no_document(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        json_text.loads(text)
