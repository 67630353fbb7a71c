"""Checkpoint archives: what CRIU wrote, as one tar in the content store."""

from __future__ import annotations

import asyncio
import os
import tarfile
import tempfile

from wherry.api.types.types_pb2 import Descriptor
from wherry.daemon.services.tasks import CHECKPOINT
from wherry.errors import AlreadyExists, InvalidArgument
from wherry.oci import digest as digests
from wherry.store.content import ContentStore

_PIECE = 1 << 20


class CheckpointArchives:
    """Checkpoints of one content store."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content

    async def unpack(self, namespace: str, digest: str, directory: str) -> None:
        """Unpack a checkpoint into a directory. NotFound, or InvalidArgument for what is no such archive."""
        fd, _size = self._content.open(namespace, digest)
        await asyncio.to_thread(_unpack, fd, digest, directory)

    async def write(self, namespace: str, lease: str, directory: str) -> Descriptor:
        """Store a directory's files as one archive."""
        with tempfile.TemporaryFile() as file:
            await asyncio.to_thread(_pack, directory, file.fileno())
            size = os.fstat(file.fileno()).st_size
            digest = await asyncio.to_thread(_digest, file.fileno())
            await self._store(namespace, lease, file.fileno(), digest, size)
        return Descriptor(media_type=CHECKPOINT, digest=digest, size=size)

    async def write_bytes(self, namespace: str, lease: str, data: bytes, media_type: str) -> Descriptor:
        """Store some bytes as a blob."""
        digest = digests.of(data)
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            await self._store(namespace, lease, file.fileno(), digest, len(data))
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    async def _store(self, namespace: str, lease: str, fd: int, digest: str, size: int) -> None:
        try:
            writer = await self._content.writer(
                namespace, f"checkpoint-{digest}", total=size, expected=digest, lease=lease
            )
        except AlreadyExists:
            return
        async with writer:
            at = writer.offset
            while at < size:
                piece = os.pread(fd, _PIECE, at)
                await writer.write(piece)
                at += len(piece)
            await writer.commit(size, digest)


def _digest(fd: int) -> str:
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        return digests.of_file(file)


def _pack(directory: str, fd: int) -> None:
    with os.fdopen(os.dup(fd), "wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for name in sorted(os.listdir(directory)):
            archive.add(os.path.join(directory, name), arcname=name, filter=_without_names)


def _without_names(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out this host's names of the owner, as containerd does: who restores has others."""
    member.uname = member.gname = ""
    return member


def _unpack(fd: int, digest: str, directory: str) -> None:
    try:
        with os.fdopen(fd, "rb") as file, tarfile.open(fileobj=file) as archive:
            for member in archive:
                # CRIU's images are plain files; anything else, or a name that leads elsewhere, is none of them.
                if not member.isreg() or os.path.basename(member.name) != os.path.normpath(member.name):
                    raise InvalidArgument(f"checkpoint {digest}: {member.name!r} is no image of CRIU's")
                archive.extract(member, directory)
    except tarfile.TarError as error:
        raise InvalidArgument(f"checkpoint {digest}: {error}") from None
