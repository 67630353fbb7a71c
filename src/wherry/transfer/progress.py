"""What a transfer tells of itself, in containerd's events: a job for each blob, under the names of their ingests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from wherry.api.types import types_pb2
from wherry.api.types.transfer import transfer_pb2
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import CONFIGS, DOCKER_LAYER, INDEXES, MANIFESTS, OCI_LAYER

#: Called with each event; returns at once.
Report = Callable[[transfer_pb2.Progress], None]

#: Seconds between two events about bytes of one blob.
_INTERVAL = 0.1

_LAYERS = (OCI_LAYER, DOCKER_LAYER, "application/vnd.docker.image.rootfs.foreign.diff.tar",
           "application/vnd.oci.image.layer.nondistributable.v1.tar")  # fmt: skip


def is_layer(media_type: str) -> bool:
    """Tell whether a media type is a layer's, whatever its compression or encryption."""
    return media_type.startswith(_LAYERS)


def ref_of(descriptor: Descriptor) -> str:
    """Return what a blob's ingest is called, as containerd's clients call it: its kind and its digest."""
    if descriptor.media_type in INDEXES:
        kind = "index"
    elif descriptor.media_type in MANIFESTS:
        kind = "manifest"
    elif descriptor.media_type in CONFIGS:
        kind = "config"
    elif is_layer(descriptor.media_type):
        kind = "layer"
    else:
        kind = "unknown"
    return f"{kind}-{descriptor.digest}"


class Progress:
    """The events of one transfer."""

    def __init__(self, report: Report | None) -> None:
        self._report = report or (lambda event: None)
        self._parents: dict[str, list[str]] = {}
        self._last: dict[str, float] = {}

    def say(self, event: str, name: str = "", descriptor: Descriptor | None = None) -> None:
        """Tell a step of the whole."""
        message = transfer_pb2.Progress(event=event, name=name)
        if descriptor is not None:
            message.desc.CopyFrom(_message(descriptor))
        self._report(message)

    def waiting(self, descriptor: Descriptor, parents: Iterable[str]) -> None:
        """Tell that there is a blob to be moved, and what refers to it."""
        self._parents[descriptor.digest] = list(parents)
        self._tell("waiting", descriptor, 0)

    def moved(self, event: str, descriptor: Descriptor, size: int) -> None:
        """Tell how many bytes of a blob have been moved; not every time that it is called."""
        now = time.monotonic()
        if now - self._last.get(descriptor.digest, 0.0) >= _INTERVAL:
            self._last[descriptor.digest] = now
            self._tell(event, descriptor, size)

    def done(self, event: str, descriptor: Descriptor) -> None:
        """Tell that something is over for a blob: complete, already exists, extracting, extracted."""
        self._tell(event, descriptor, descriptor.size)

    def _tell(self, event: str, descriptor: Descriptor, size: int) -> None:
        self._report(
            transfer_pb2.Progress(
                event=event,
                name=ref_of(descriptor),
                parents=self._parents.get(descriptor.digest, ()),
                progress=size,
                total=descriptor.size,
                desc=_message(descriptor),
            )
        )


def _message(descriptor: Descriptor) -> types_pb2.Descriptor:
    return types_pb2.Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        annotations=descriptor.annotations,
    )
