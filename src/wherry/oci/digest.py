"""Digests: "sha256:" and 64 hexadecimal digits; OCI image specification, descriptor.md, "Digests"."""

from __future__ import annotations

from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import _Hash
    from typing import IO

#: Of no bytes at all.
EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

#: Hexadecimal digits of the algorithms that the specification registers.
_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEXADECIMAL = frozenset("0123456789abcdef")
_ALGORITHM = frozenset("abcdefghijklmnopqrstuvwxyz0123456789+._-")


def hasher() -> _Hash:
    """Return a new sha256 of nothing yet. The first one loads OpenSSL, which processes at rest do without (5 MB)."""
    import hashlib

    return hashlib.sha256()


def of(data: bytes) -> str:
    """Return the sha256 digest of bytes."""
    made = hasher()
    made.update(data)
    return f"sha256:{made.hexdigest()}"


def of_file(file: IO[bytes]) -> str:
    """Return the sha256 digest of what is left of a file."""
    import hashlib

    return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"  # type: ignore[arg-type]


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
