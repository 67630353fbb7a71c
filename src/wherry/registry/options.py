"""What a client of registries is told: where to look for hosts, whose credentials, how long to wait."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field


class CredentialsKind(enum.Enum):
    """What a secret is; the values are those of containerd.types.transfer.AuthType."""

    CREDENTIALS = 1  # a password
    REFRESH = 2  # an identity token, from which the token server makes access tokens
    HEADER = 3  # a whole Authorization header


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a registry is shown to know who asks."""

    username: str = ""
    secret: str = field(default="", repr=False)
    kind: CredentialsKind = CredentialsKind.CREDENTIALS


#: Asked for a host ("registry-1.docker.io", "localhost:5000"), a reference and the WWW-Authenticate headers that the
#: host answered with. None: go on as nobody.
AskCredentials = Callable[[str, str, Sequence[str]], Awaitable[Credentials | None]]


@dataclass(frozen=True, slots=True)
class Options:
    """How registries are reached. Times are in seconds."""

    #: Directories as containerd's hosts.md and Docker's certs.d describe them; the first that knows a host counts.
    hosts_dirs: Sequence[str] = ()
    credentials: AskCredentials | None = None
    #: "http" or "https" for hosts that no hosts.toml speaks of. "": https, and for loopback addresses https and, where
    #: that is not spoken, http.
    default_scheme: str = ""
    #: Sent with each request to a registry, and nowhere else.
    headers: Mapping[str, str] = field(default_factory=dict)
    skip_verify: bool = False
    #: Files of authorities that are believed beside the system's.
    ca: Sequence[str] = ()
    #: Files of certificate and key to show who asks; the key's is "" if the first has both.
    client_certificates: Sequence[tuple[str, str]] = ()
    #: Pushed blobs go up in requests of so many bytes; 0: each in one.
    chunk_size: int = 0
    #: How often a request is tried in all.
    tries: int = 5
    #: Before the second try; doubled for each further one.
    retry_delay: float = 0.2
    #: The longest time to wait between tries. A server that wants more gets no further one.
    max_wait: float = 60.0
    connect_timeout: float = 30.0
    #: Without a kibibyte for so long, a connection counts as broken.
    stall_timeout: float = 60.0
    #: For a whole document: a manifest, a token, a page of tags.
    document_timeout: float = 300.0
    #: For the answer after the last byte of an upload, which the registry may store elsewhere first.
    commit_timeout: float = 600.0
    #: Told, line by line, what was asked and answered. No line has a secret in it.
    on_debug: Callable[[str], None] | None = None
