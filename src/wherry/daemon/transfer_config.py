"""The table [transfer] of wherryd's configuration."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from wherry.errors import InvalidArgument


@dataclass(frozen=True)
class TransferConfig:
    """How images are moved. Directories in `hosts` are separated by colons; 0 unpacks on all processors."""

    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 3
    max_concurrent_unpacks: int = 0
    hosts: str = "/etc/containerd/certs.d:/etc/docker/certs.d"
    verifiers: str = "/opt/containerd/image-verifier/bin"
    max_verifiers: int = 10
    verifier_timeout: float = 10.0

    def to_toml(self) -> dict[str, Any]:
        """Return the table."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def from_table(table: Any, path: str) -> TransferConfig:
    """Return what a file's table says. InvalidArgument, naming the key, for what cannot be."""
    where = f"{path}: [transfer]"
    if not isinstance(table, dict):
        raise InvalidArgument(f"{where} must be a table")
    known = {each.name: type(each.default) for each in fields(TransferConfig)}
    for key, value in table.items():
        if key not in known:
            raise InvalidArgument(f"{where}: unknown key {key}; there are {', '.join(known)}")
        _check(key, value, known[key], where)
    return TransferConfig(**table)


def _check(key: str, value: Any, wanted: type, where: str) -> None:
    if wanted is str:
        if not isinstance(value, str):
            raise InvalidArgument(f"{where}: {key} must be a string")
        if not all(part.startswith("/") for part in value.split(":") if part):
            raise InvalidArgument(f"{where}: {key} {value!r} must be absolute paths")
        return
    if isinstance(value, bool) or not isinstance(value, (int, float) if wanted is float else int):
        raise InvalidArgument(f"{where}: {key} must be a number")
    least = {"max_concurrent_unpacks": 0, "max_verifiers": -1}.get(key, 1 if wanted is int else 0)
    if value < least:
        raise InvalidArgument(f"{where}: {key} must be {least} or more, and is {value}")


def default_text(default: TransferConfig) -> str:
    """Return the table as a file has it, with what each key is for."""
    return f"""\
[transfer]
# Blobs that are fetched or pushed at a time, over all images; layers that are extracted at a time (0: one a processor).
max_concurrent_downloads = {default.max_concurrent_downloads}
max_concurrent_uploads = {default.max_concurrent_uploads}
max_concurrent_unpacks = {default.max_concurrent_unpacks}

# Where a registry's hosts.toml (HOST/hosts.toml: mirrors, certificates) is looked for when a client names no directory.
hosts = "{default.hosts}"

# Programs that are asked before an image is pulled, how many of them, and seconds for each: docs/images.md.
verifiers = "{default.verifiers}"
max_verifiers = {default.max_verifiers}
verifier_timeout = {default.verifier_timeout}
"""
