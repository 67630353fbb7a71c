"""Protobuf's wire form, as CRIU's service speaks it: developers.google.com/protocol-buffers, "Encoding"."""

from __future__ import annotations

import pytest

from wherry.runc.criu import decode, encode


def test_encoding() -> None:
    assert encode({1: 150}) == b"\x08\x96\x01"
    assert encode({2: "testing"}) == b"\x12\x07testing"
    assert encode({3: {1: 150}}) == b"\x1a\x03\x08\x96\x01"
    assert encode({4: True, 5: False}) == b"\x20\x01\x28\x00"
    assert encode({49: -1}) == b"\x88\x03" + b"\xff" * 9 + b"\x01"
    assert encode({37: ["a", "b"]}) == b"\xaa\x02\x01a\xaa\x02\x01b"


def test_decoding() -> None:
    message = encode({1: 6, 2: True, 5: {1: "post-restore", 2: 1 << 31}, 7: 0})
    fields = decode(message + b"\x31" + bytes(8) + b"\x3d" + bytes(4))
    assert (fields[1], fields[2], fields[7]) == (6, 1, 0)
    about = fields[5]
    assert isinstance(about, bytes)
    assert decode(about) == {1: b"post-restore", 2: 1 << 31}


@pytest.mark.parametrize("data", [b"\x08", b"\x12\x05ab", b"\x0b"])
def test_damaged(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"ends in the middle|wire type"):
        decode(data)
