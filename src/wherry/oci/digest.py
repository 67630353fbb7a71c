"""Digests: "sha256:" and 64 hexadecimal digits; OCI image specification, descriptor.md, "Digests"."""

from __future__ import annotations

from wherry.errors import InvalidArgument

#: Of no bytes at all.
EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

#: Hexadecimal digits of the algorithms that the specification registers.
_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEXADECIMAL = frozenset("0123456789abcdef")
_ALGORITHM = frozenset("abcdefghijklmnopqrstuvwxyz0123456789+._-")


def of(data: bytes) -> str:
    """Return the sha256 digest of bytes."""
    import hashlib

    return "sha256:" + hashlib.sha256(data).hexdigest()


def validate(digest: str) -> None:
    """Raise InvalidArgument, with the words of Go's package, unless this is a digest of a registered algorithm."""
    algorithm, colon, encoded = digest.partition(":")
    if not colon or not algorithm or not encoded or not _ALGORITHM.issuperset(algorithm):
        raise InvalidArgument(f'"{digest}": invalid checksum digest format')
    if algorithm not in _LENGTHS:
        raise InvalidArgument(f'"{digest}": unsupported digest algorithm')
    if len(encoded) != _LENGTHS[algorithm]:
        raise InvalidArgument(f'"{digest}": invalid checksum digest length')
    if not _HEXADECIMAL.issuperset(encoded):
        raise InvalidArgument(f'"{digest}": invalid checksum digest format')
