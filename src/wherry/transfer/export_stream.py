"""Images exported to an archive that goes out by a stream, written by a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from wherry.client.archive_export import export
from wherry.client.content import Content
from wherry.client.images import Images
from wherry.rpc.bridge_channel import BridgeChannel

if TYPE_CHECKING:
    from wherry.oci.platform import Platform
    from wherry.transfer.session import Session


async def export_to(
    session: Session,
    names: Sequence[str],
    file: BinaryIO,
    *,
    platforms: Sequence[Platform],
    all_platforms: bool,
    docker_manifest: bool,
    non_distributable: bool,
) -> None:
    """Write images to a file that blocks; see `wherry.client.archive_export`."""
    loop = asyncio.get_running_loop()
    channel = BridgeChannel(session.channel, loop)

    def write() -> None:
        channel.run(
            export(
                Images(channel, session.namespace, session.lease),
                Content(channel, session.namespace, session.lease),
                names,
                file,
                platforms=platforms,
                all_platforms=all_platforms,
                docker_manifest=docker_manifest,
                non_distributable=non_distributable,
            )
        )

    await loop.run_in_executor(None, write)
