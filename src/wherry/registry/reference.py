"""References as registries take them: HOST/NAME[:TAG][@DIGEST], with nothing filled in.

Grammar: distribution specification, "Pulling manifests", and github.com/distribution/reference.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from wherry.errors import InvalidArgument
from wherry.oci import digest as digests

_MAX_NAME = 255
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])"
_NAME = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_REFERENCE = re.compile(
    rf"(?P<host>{_HOST}(?::[0-9]{{1,5}})?)/(?P<name>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>.+))?"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository of a registry, and what in it is meant: a tag, a digest, both, or nothing yet."""

    host: str
    name: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.repository}{self.tag and ':' + self.tag}{self.digest and '@' + self.digest}"

    @property
    def repository(self) -> str:
        """The reference without tag and digest."""
        return f"{self.host}/{self.name}"

    @property
    def object(self) -> str:
        """What the registry is asked for: the digest if there is one, else the tag, "" if there is neither."""
        return self.digest or self.tag


def parse(text: str) -> Reference:
    """Return the parts of a full reference. InvalidArgument, saying what is wrong, if it is none."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f'reference "{text}": HOST/NAME[:TAG][@DIGEST] is expected')
    host, name, tag, digest = (match[part] or "" for part in ("host", "name", "tag", "digest"))
    if not is_name(name):
        raise InvalidArgument(f'reference "{text}": "{name}" is no name of a repository')
    if tag and not is_tag(tag):
        raise InvalidArgument(f'reference "{text}": "{tag}" is no tag')
    if digest:
        try:
            digests.validate(digest)
        except InvalidArgument as error:
            raise InvalidArgument(f'reference "{text}": {error.message}') from None
    return Reference(host, name, tag, digest)


def is_name(text: str) -> bool:
    """Tell whether text is a repository's name."""
    return _NAME.fullmatch(text) is not None and len(text) <= _MAX_NAME


def is_tag(text: str) -> bool:
    """Tell whether text is a tag."""
    return _TAG.fullmatch(text) is not None


def split_port(host: str) -> tuple[str, str]:
    """Return the host's name or address without brackets, and its port, "" if it names none."""
    if host.startswith("["):
        address, _, rest = host[1:].partition("]")
        return address, rest.removeprefix(":")
    if host.count(":") > 1:
        return host, ""
    name, _, port = host.partition(":")
    return name, port


def is_loopback(host: str) -> bool:
    """Tell whether HOST[:PORT] is this machine by its name "localhost" or by its address."""
    name, _ = split_port(host)
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
