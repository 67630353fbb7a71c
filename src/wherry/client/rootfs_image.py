"""An image made of one root file system's tar, as `docker import` makes one."""

from __future__ import annotations

import json
import time

from wherry.client.archive import peek, pieces, rejoined, uncompressed
from wherry.client.content import Content
from wherry.client.images import Images
from wherry.client.leases import Leases
from wherry.client.snapshots import Snapshots
from wherry.client.unpack import Unpacker
from wherry.errors import Error, InvalidArgument, from_status
from wherry.images.compression import GZIP, NONE, ZSTD, decompressed, detect
from wherry.oci import digest as digests
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Manifest, parse, reference_labels
from wherry.oci.platform import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, BinaryIO

    from wherry.api.services.images.v1.images_pb2 import Image
    from wherry.rpc.channel import Channel

_BLOCK = 512
_SUFFIXES = {NONE: "", GZIP: "+gzip", ZSTD: "+zstd"}


class RootfsOptions:
    """What an image made of a root file system says of itself, and what to do with it."""

    __slots__ = ("changes", "comment", "on_step", "platform", "snapshotter", "unpack")

    def __init__(
        self,
        *,
        changes: Sequence[str] = (),
        comment: str = "",
        platform: Platform | str | None = None,
        unpack: bool = True,
        snapshotter: str = "",
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        #: Instructions as in a Dockerfile, such as "CMD /bin/sh": see `configured`.
        self.changes = changes
        #: What the image's history says of it.
        self.comment = comment
        #: What the files are for: this machine, if not given.
        self.platform = Platform.of(platform)
        self.unpack = unpack
        self.snapshotter = snapshotter
        #: Called with one line about each step.
        self.on_step = on_step or (lambda line: None)


async def import_rootfs(channel: Channel, namespace: str, source: BinaryIO, name: str, options: RootfsOptions) -> Image:
    """Make an image of a tar: its only layer, as it is if plain, gzip or zstd; of bzip2 and xz, decompressed.

    The source may be a pipe. InvalidArgument for what is no tar, damaged, or an instruction that is none;
    ResourceExhausted for a full disk. Then there is no image, and no ingest or lease is left.
    """
    if not name:
        raise InvalidArgument("image name must not be empty")
    settings = configured(options.changes)
    async with Leases(channel, namespace).hold() as lease:
        content = Content(channel, namespace, lease.id)
        layer = _Layer(source)
        try:
            digest = await content.write(f"import-{lease.id}-layer", layer)
        except InvalidArgument:
            raise  # it says what is wrong with the archive
        except Error as error:
            raise from_status(error.code, f"layer: {error.message}") from None
        options.on_step(f"layer {digest}")
        diff_id = layer.diff_id or digest
        config = _document(_config(options, settings, diff_id))
        config_descriptor = Descriptor(OCI_CONFIG, digests.of(config), len(config))
        layer_descriptor = Descriptor(OCI_LAYER + _SUFFIXES[layer.compression], digest, layer.size)
        document = _document(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": config_descriptor.to_json(),
                "layers": [layer_descriptor.to_json()],
            }
        )
        target = Descriptor(OCI_MANIFEST, digests.of(document), len(document))
        manifest = parse(target, document)
        assert isinstance(manifest, Manifest)
        await content.write(f"import-{lease.id}-config", [config], expected=config_descriptor.digest)
        labels = reference_labels(manifest)
        await content.write(f"import-{lease.id}-manifest", [document], expected=target.digest, labels=labels)
        if options.unpack:
            snapshots = Snapshots(channel, namespace, options.snapshotter, lease.id)
            unpacker = Unpacker(
                channel,
                namespace,
                lease,
                content,
                snapshots,
                lambda descriptor: options.on_step(f"unpack layer {descriptor.digest}"),
            )
            await unpacker.unpack(manifest, [diff_id])
        return await Images(channel, namespace, lease.id).put(name, target)


class _Layer:
    """Yields a tar's bytes as they are to be stored and hashes what they decompress to; to be iterated over once."""

    def __init__(self, source: BinaryIO) -> None:
        beginning = peek(source, 6)
        self.compression = detect(beginning)
        #: Bytes stored, and the digest of the uncompressed tar if that is not what is stored, after the iteration.
        self.size = 0
        self.diff_id = ""
        file = rejoined(beginning, source)
        self._stored = pieces(file) if self.compression else uncompressed(file)
        self._passing: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        hasher = digests.hasher()
        header = b""
        hashing = bool(self.compression)  # else it is the digest of what is stored
        for plain in decompressed(self._compressed(), self.compression):
            if len(header) < _BLOCK:
                header += plain[: _BLOCK - len(header)]
                if len(header) == _BLOCK:
                    _check_header(header)
            if hashing:
                hasher.update(plain)
            yield from self._passed()
        if len(header) < _BLOCK:
            raise InvalidArgument("not a tar archive: it is too short for one")
        yield from self._passed()
        if hashing:
            self.diff_id = "sha256:" + hasher.hexdigest()

    def _compressed(self) -> Iterator[bytes]:
        for piece in self._stored:
            self.size += len(piece)
            self._passing.append(piece)
            yield piece

    def _passed(self) -> Iterator[bytes]:
        while self._passing:
            yield self._passing.pop(0)


def _check_header(block: bytes) -> None:
    from wherry.images.tar import ArchiveError, Reader, Stream

    try:
        next(iter(Reader(Stream([block, bytes(_BLOCK)]))), None)
    except ArchiveError as error:
        if "end of archive" not in error.message:  # of the first member's data, which are not here
            raise InvalidArgument("not a tar archive") from None


def _document(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _config(options: RootfsOptions, settings: dict[str, Any], diff_id: str) -> dict[str, Any]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    config: dict[str, Any] = {
        "created": created,
        "architecture": options.platform.architecture,
        "os": options.platform.os,
    }
    if options.platform.variant:
        config["variant"] = options.platform.variant
    config["config"] = settings
    config["rootfs"] = {"type": "layers", "diff_ids": [diff_id]}
    config["history"] = [{"created": created, "comment": options.comment or "imported by wherry"}]
    return config


def configured(changes: Sequence[str]) -> dict[str, Any]:
    """Return the "config" object of an image's config that Dockerfile instructions describe.

    CMD and ENTRYPOINT (a JSON list, or a line for /bin/sh -c), ENV and LABEL (KEY=VALUE, quotes as in a shell),
    WORKDIR, USER, STOPSIGNAL, EXPOSE and VOLUME. InvalidArgument for others.
    """
    settings: dict[str, Any] = {}
    for change in changes:
        instruction, _, rest = change.strip().partition(" ")
        rest = rest.strip()
        if not rest:
            raise InvalidArgument(f'change "{change}": an instruction and its argument are expected')
        _configure(settings, instruction.upper(), rest, change)
    return settings


_LISTS = {"CMD": "Cmd", "ENTRYPOINT": "Entrypoint"}
_WORDS = {"WORKDIR": "WorkingDir", "USER": "User", "STOPSIGNAL": "StopSignal"}


def _configure(settings: dict[str, Any], instruction: str, rest: str, change: str) -> None:
    if instruction in _LISTS:
        settings[_LISTS[instruction]] = _command(rest)
    elif instruction in _WORDS:
        settings[_WORDS[instruction]] = rest
    elif instruction == "ENV":
        kept = settings.get("Env", [])
        for key, value in _assignments(rest, change):
            kept = [each for each in kept if not each.startswith(f"{key}=")] + [f"{key}={value}"]
        settings["Env"] = kept
    elif instruction == "LABEL":
        settings.setdefault("Labels", {}).update(_assignments(rest, change))
    elif instruction == "EXPOSE":
        ports = [port if "/" in port else f"{port}/tcp" for port in rest.split()]
        settings.setdefault("ExposedPorts", {}).update({port: {} for port in ports})
    elif instruction == "VOLUME":
        paths = _json_strings(rest) or rest.split()
        settings.setdefault("Volumes", {}).update({path: {} for path in paths})
    else:
        raise InvalidArgument(
            f'change "{change}": {instruction} is none of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, '
            "VOLUME, WORKDIR"
        )


def _command(text: str) -> list[str]:
    return _json_strings(text) or ["/bin/sh", "-c", text]


def _json_strings(text: str) -> list[str]:
    try:
        value = json.loads(text)
    except ValueError:
        return []
    return value if isinstance(value, list) and all(isinstance(each, str) for each in value) else []


def _assignments(text: str, change: str) -> Iterator[tuple[str, str]]:
    import shlex

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidArgument(f'change "{change}": {str(error).lower()}') from None
    if words and "=" not in words[0]:
        # The old form: one key, a blank, and the rest is the value.
        key, _, value = text.partition(" ")
        words = [f"{key}={value.strip()}"]
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidArgument(f'change "{change}": KEY=VALUE is expected')
        yield key, value
