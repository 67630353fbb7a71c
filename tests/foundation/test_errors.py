from __future__ import annotations

import errno

import pytest

from wherry import errors


def test_the_kind_stands_at_the_end_of_the_text_once() -> None:
    assert str(errors.NotFound('container "x"')) == 'container "x": not found'
    assert str(errors.NotFound("task x not found")) == "task x not found"
    assert str(errors.AlreadyExists("id e1")) == "id e1: already exists"
    assert str(errors.Unknown("cannot pause")) == "cannot pause"


@pytest.mark.parametrize("kind", errors.KINDS)
def test_a_kind_survives_the_wire(kind: type[errors.Error]) -> None:
    code, message = errors.to_status(kind("a thing"))
    back = errors.from_status(code, message)
    assert type(back) is kind
    assert str(back) == message == back.message


def test_a_text_from_the_wire_is_kept_as_it_is() -> None:
    assert str(errors.from_status(5, "no words of the kind")) == "no words of the kind"


def test_codes_are_distinct_and_every_code_of_grpc_has_a_kind() -> None:
    assert {kind.code for kind in errors.KINDS} == set(range(1, 17))


def test_other_exceptions_are_unknown_with_their_words() -> None:
    assert errors.to_status(ValueError("odd")) == (2, "odd")
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "/nowhere")
    assert errors.to_status(missing) == (2, "no such file or directory: /nowhere")
    assert errors.from_status(99, "what").code == 2
