"""Compressed layers: the same bytes on any number of processors, read back by others, a piece at a time."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import tempfile
import tracemalloc
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.images import compression
from wherry.images.compression import CompressedLayer
from wherry.images.layer import DecompressedLayer, File
from wherry.images.tar import ArchiveError

KINDS = ["gzip", "zstd", ""]


def compressed(data: bytes, kind: str, step: int = 70_000) -> bytes:
    with tempfile.TemporaryFile() as file:
        layer = CompressedLayer(file.fileno(), kind)
        for at in range(0, len(data), step):
            layer.write(data[at : at + step])
        layer.finish()
        file.seek(0)
        output = file.read()
    assert layer.digest == "sha256:" + hashlib.sha256(output).hexdigest()
    assert layer.uncompressed == "sha256:" + hashlib.sha256(data).hexdigest()
    assert layer.size == len(output)
    return output


def decompressed(data: bytes) -> bytes:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        layer = DecompressedLayer(File(file.fileno()), compressed=True)
        try:
            output = b"".join(layer)
        finally:
            layer.close()
    assert (layer.digest, layer.size) == ("sha256:" + hashlib.sha256(output).hexdigest(), len(output))
    return output


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, 3_500_000])
def test_there_and_back(kind: str, size: int) -> None:
    generator = random.Random(size)
    data = b"".join(b"line %d\n" % generator.randrange(5000) for _ in range(size // 9 + 1))[:size]
    output = compressed(data, kind)
    assert decompressed(output) == data
    if kind == "gzip":
        assert gzip.decompress(output) == data
    elif kind == "zstd":
        assert zstandard.ZstdDecompressor().decompressobj().decompress(output) == data


@pytest.mark.parametrize("kind", KINDS)
def test_equal_on_any_number_of_processors(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(1 << 20) + b"text " * 700_000 + os.urandom(1 << 19)
    outputs = set()
    for processors in (1, 2, 3, 16):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, count=processors: set(range(count)))
        outputs.add(compressed(data, kind, step=12_345 * processors))
    assert len(outputs) == 1


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=5000), cut=st.integers(1, 100), kind=st.sampled_from(["gzip", "zstd"]))
def test_a_cut_off_end_is_noticed(data: bytes, cut: int, kind: str) -> None:
    output = compressed(data, kind)
    cut = min(cut, len(output) - 4)
    with pytest.raises(ArchiveError, match="unexpected end"):
        decompressed(output[:-cut])


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_comes_out_piece_by_piece(kind: str) -> None:
    bomb = compressed(bytes(256 << 20), kind)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        total = 0
        for piece in compression.decompressed(_halves(bomb), kind):
            total += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 256 << 20
    assert peak < 2 << 20


def _halves(data: bytes) -> Iterator[bytes]:
    yield data[: len(data) // 2]
    yield data[len(data) // 2 :]


def test_reading_ahead_stops_when_told() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(compressed(os.urandom(30 << 20), ""))
        file.seek(0)
        layer = DecompressedLayer(File(file.fileno()), compressed=False)
        next(iter(layer))
        layer.close()
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) < 30 << 20
