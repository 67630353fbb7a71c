"""Lists that come in pages, each with a Link to the next: distribution specification, "Listing Tags"; RFC 8288."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import TYPE_CHECKING

from wherry.errors import FailedPrecondition, ResourceExhausted
from wherry.registry.request import Document, Request, joined, origin

if TYPE_CHECKING:
    from wherry.registry.transport import Transport

_MAX_PAGE = 4 << 20
_MAX_PAGES = 10_000
_LINK = re.compile(r'<([^<>]*)>\s*((?:;\s*[A-Za-z*]+\s*=\s*(?:"[^"]*"|[^\s;,"]*)\s*)*)')


async def pages(transport: Transport, request: Request) -> AsyncGenerator[Document, None]:
    """Yield the pages of a list. FailedPrecondition for links that go round, or away from the server."""
    seen = set[str]()
    while True:
        page = await transport.exchange(request, _MAX_PAGE)
        yield page
        target = _next(page.headers.get("Link", ""))
        if not target:
            return
        url = joined(page.url, target, request.about)
        if origin(url) != origin(page.url):
            raise FailedPrecondition(f"{request.about}: {request.host.address}: the next page is at another server")
        if url in seen or url == page.url:
            raise FailedPrecondition(
                f"{request.about}: {request.host.address}: the next page is one that has been read"
            )
        if len(seen) >= _MAX_PAGES:
            raise ResourceExhausted(f"{request.about}: {request.host.address}: more than {_MAX_PAGES} pages")
        seen.add(url)
        request = replace(request, url=url)


def _next(link: str) -> str:
    for match in _LINK.finditer(link):
        if re.search(r';\s*rel\s*=\s*"?next"?\s*(?:;|$)', match[2].rstrip(), re.IGNORECASE):
            return match[1]
    return ""
