"""Docker's references: "busybox" is "docker.io/library/busybox:latest". containerd's own image names are any strings;
these rules are for names that come from Docker's archives or go into them. Grammar: distribution specification and
github.com/distribution/reference."""

from __future__ import annotations

from wherry.errors import InvalidArgument

_DEFAULT_DOMAIN = "docker.io"
_LIBRARY = "library/"
_PATTERN = (
    r"(?P<name>(?:(?P<domain>(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
    r"(?::[0-9]+)?|\[[a-fA-F0-9:]+\](?::[0-9]+)?)/)"
    r"(?P<path>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*))"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?"
)
_MAX_NAME = 255


def normalize(text: str) -> str:
    """Return the full form of a Docker reference, tag included. InvalidArgument if it is none."""
    import re

    domain, slash, rest = text.partition("/")
    if not slash or not ("." in domain or ":" in domain or domain == "localhost" or domain != domain.lower()):
        domain, rest = _DEFAULT_DOMAIN, text
    if domain == "index.docker.io":
        domain = _DEFAULT_DOMAIN
    if domain == _DEFAULT_DOMAIN and "/" not in rest:
        rest = _LIBRARY + rest
    match = re.fullmatch(_PATTERN, f"{domain}/{rest}", re.ASCII)
    if match is None or len(match["name"]) > _MAX_NAME:
        raise InvalidArgument(f'image name "{text}": not a Docker reference')
    if not match["tag"] and not match["digest"]:
        return match[0] + ":latest"
    return match[0]


def familiar(text: str) -> str:
    """Return the short form of a reference, as Docker shows it. InvalidArgument if it is none."""
    full = normalize(text)
    short = full.removeprefix(_DEFAULT_DOMAIN + "/")
    if short != full:
        short = short.removeprefix(_LIBRARY)
    return short


def tag(text: str) -> str:
    """Return what stands for an image name in an OCI layout: what follows the repository, as containerd's export puts
    it, "latest" if nothing does; the whole name where there is no repository."""
    _host, slash, path = text.partition("/")
    if not slash:
        return text if ":" in text or "@" in text else "latest"
    ends = [at for at in (path.find(":"), path.find("@")) if at >= 0]
    if not ends:
        return "latest"
    at = min(ends)
    return path[at:] if path[at] == "@" else path[at + 1 :]
