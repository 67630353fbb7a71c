"""What is asked of a server, and what it answers."""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

from wherry.errors import FailedPrecondition
from wherry.registry.failures import excerpt
from wherry.registry.hosts import Host

#: Makes the body anew for each try.
Body = Callable[[], AsyncGenerator[bytes, None]]

_PORTS = {"http": "80", "https": "443"}


@dataclass(slots=True, kw_only=True)
class Request:
    """A request, of which each try makes an HTTP request of its own."""

    #: What it is for, as errors tell it.
    about: str
    method: str
    #: By whose certificates and proxy it is made. Credentials and headers of the host go to the host alone.
    host: Host
    #: Below the API's root; or a whole `url`.
    path: tuple[str, ...] = ()
    query: dict[str, str] = field(default_factory=dict)
    url: str = ""
    #: For credentials: the reference on whose behalf it is asked. "": with none.
    reference: str = ""
    #: What a token must allow: "repository:NAME:pull".
    scopes: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Body | None = None
    #: Of a body that is no bytes.
    length: int = 0
    #: The statuses that are no errors.
    accepted: frozenset[int] = frozenset((200,))
    #: Tries to connect.
    connect_tries: int = 3
    retried: bool = True
    #: A digest tells whether the answer is right, whoever gave it.
    verified: bool = False
    #: Its own headers or body hold credentials: no redirection takes it to another origin.
    confidential: bool = False
    #: For the answer to begin, 0: as the options say.
    answer_timeout: float = 0.0


@dataclass(frozen=True, slots=True)
class Document:
    """An answer read into memory."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: Where it came from, after redirections.
    url: str


def joined(url: str, reference: str, about: str) -> str:
    """Return the address that a server refers to from a URL. FailedPrecondition if it is none of HTTP."""
    try:
        target = urllib.parse.urljoin(url, reference)
        parts = urllib.parse.urlsplit(target)
        if parts.scheme in _PORTS and parts.hostname and parts.port != 0 and target.isprintable():
            return target
    except ValueError:
        pass  # no address at all
    shown = excerpt(reference or url)
    raise FailedPrecondition(f'{about}: sent to "{shown}", which is no HTTP address')


def origin(url: str) -> str:
    """Return the scheme, host and port of a URL: what credentials belong to (RFC 6454)."""
    parts = urllib.parse.urlsplit(url)
    try:
        port = str(parts.port or _PORTS.get(parts.scheme, ""))
    except ValueError:
        port = "?"
    return f"{parts.scheme}://{parts.hostname or ''}:{port}"


def shown(url: str) -> str:
    """Return a URL without what may be a secret: user information, and a query that is not of the protocol."""
    parts = urllib.parse.urlsplit(url)
    known = ("artifactType", "digest", "from", "last", "mount", "n", "ns", "scope", "service")
    query = "&".join(each for each in parts.query.split("&") if each.partition("=")[0] in known)
    hidden = "&…" if query != parts.query and query else "…" if query != parts.query else ""
    netloc = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, netloc, parts.path, query + hidden, ""))
