"""The tags of a repository."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from wherry.errors import Error, FailedPrecondition
from wherry.oci import manifest
from wherry.registry.hosts import RESOLVE
from wherry.registry.pages import pages
from wherry.registry.reference import is_tag

if TYPE_CHECKING:
    from wherry.registry.repository import Repository
    from wherry.registry.transport import Transport

_PAGE = "1000"


async def listed(repository: Repository, transport: Transport) -> AsyncGenerator[str, None]:
    """Yield the tags from the first host that tells any."""
    hosts = await repository.hosts(RESOLVE)
    for host in hosts:
        request = repository.request(host, "GET", "tags", "list", about=f"{repository.host}/{repository.name}: tags")
        request.query = {"n": _PAGE}
        begun = False
        try:
            async with aclosing(pages(transport, request)) as documents:
                async for page in documents:
                    for tag in _tags(page.body, f"{request.about}: {host.address}"):
                        begun = True
                        yield tag
            return
        except Error:
            if begun or host is hosts[-1]:
                raise


def _tags(body: bytes, about: str) -> list[str]:
    tags = manifest.parse_json(body, about).get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) and is_tag(tag) for tag in tags):
        raise FailedPrecondition(f"{about}: no list of tags")
    return tags
