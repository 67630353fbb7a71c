from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry import identifiers
from wherry.errors import InvalidArgument

#: The rule as compat.md gives it.
RULE = re.compile(r"[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*")


@given(st.text(alphabet="aZ09._-/ é\n", max_size=90))
def test_agrees_with_the_regular_expression(text: str) -> None:
    assert identifiers.is_identifier(text) == bool(RULE.fullmatch(text) and len(text) <= 76)


@pytest.mark.parametrize("text", ["", "a--b", "-a", "a.", "a/b", "a" * 77, "a\n"])
def test_a_bad_one_is_an_invalid_argument_that_names_it(text: str) -> None:
    with pytest.raises(InvalidArgument, match="identifier"):
        identifiers.validate(text)


@pytest.mark.parametrize("text", ["a", "a-b", "k8s.io", "a" * 76, "0_1.2-3"])
def test_a_good_one_passes(text: str) -> None:
    identifiers.validate(text)
