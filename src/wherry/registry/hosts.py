"""Where a registry's requests go: hosts.toml directories, as containerd's docs/hosts.md describes them, or certificates
in Docker's layout, or by default the registry itself."""

from __future__ import annotations

import os
import posixpath
import re
import tomllib
import urllib.parse
from dataclasses import dataclass, field, replace
from typing import Any

from wherry.errors import InvalidArgument
from wherry.registry.options import Options
from wherry.registry.reference import is_loopback, split_port

PULL = "pull"
RESOLVE = "resolve"
PUSH = "push"
REFERRERS = "referrers"
ALL_CAPABILITIES = frozenset((PULL, RESOLVE, PUSH, REFERRERS))

#: Larger files are not what they should be.
_MAX_FILE = 1 << 20
_DOCKER_HUB = "docker.io"
_DOCKER_HUB_HOST = "registry-1.docker.io"
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class Tls:
    """What a connection's encryption rests on."""

    skip_verify: bool = False
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """A server that requests for a registry may go to."""

    scheme: str
    #: HOST[:PORT], as it stands in URLs.
    address: str
    #: Before the repository's name.
    path: str = "/v2"
    capabilities: frozenset[str] = ALL_CAPABILITIES
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = ()
    dial_timeout: float = 0.0
    proxy: str = ""
    #: Not known whether it speaks TLS: https is tried, and then http.
    ambiguous: bool = False
    #: The registry that it mirrors, for the query `ns`.
    mirrored: str = ""

    def url(self, scheme: str, *path: str, query: dict[str, str] | None = None) -> str:
        """Return an address below the API's root."""
        parameters = {**(query or {})}
        if self.mirrored:
            parameters["ns"] = self.mirrored
        encoded = urllib.parse.urlencode(parameters, quote_via=urllib.parse.quote, safe="/:")
        return f"{scheme}://{self.address}{'/'.join((self.path, *path))}{encoded and '?' + encoded}"


@dataclass(slots=True)
class _Entry:
    """A host as a file tells of it; the scheme and address are "" where it does not."""

    scheme: str = ""
    address: str = ""
    path: str = "/v2"
    capabilities: frozenset[str] = ALL_CAPABILITIES
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    dial_timeout: float = 0.0
    proxy: str = ""

    @property
    def has_tls(self) -> bool:
        return bool(self.ca or self.client or self.skip_verify is not None)


def find(registry: str, options: Options) -> list[Host]:
    """Return the hosts of a registry ("docker.io", "localhost:5000") in the order in which they are asked.

    Reads files. InvalidArgument for a hosts.toml that is none: what an operator wrote there is not passed over.
    """
    entries = [_Entry()]
    directory = _directory(registry, options)
    if directory:
        entries = _read(directory)
    if not entries[-1].address:
        entries[-1] = _default(registry, options, entries[-1])
    return [_host(entry, registry, options) for entry in entries]


def _directory(registry: str, options: Options) -> str:
    name, colon, port = registry.rpartition(":")
    names = [f"{name}_{port}_", registry] if colon and not port.endswith("]") else [registry]
    for root in options.hosts_dirs:
        for each in (*names, "_default"):
            path = os.path.join(root, each)
            if os.path.isdir(path):
                return path
    return ""


def _default(registry: str, options: Options, entry: _Entry) -> _Entry:
    """Say what the registry's own host is, by containerd's rules."""
    entry = replace(entry, address=registry, scheme=options.default_scheme or "https", path="/v2")
    entry.capabilities = ALL_CAPABILITIES
    if registry == _DOCKER_HUB:
        return replace(entry, address=_DOCKER_HUB_HOST, scheme="https")
    if is_loopback(registry) and not options.default_scheme:
        port = split_port(registry)[1]
        entry.scheme = "https" if port in ("", "443") else "http"
        # Who listens on this machine needs no certificate for it.
        if port != "80" and entry.skip_verify is None and not entry.ca:
            entry.skip_verify = True
    return entry


def _host(entry: _Entry, registry: str, options: Options) -> Host:
    tls = Tls(
        options.skip_verify if entry.skip_verify is None else entry.skip_verify,
        (*options.ca, *entry.ca),
        (*options.client_certificates, *entry.client),
    )
    has_tls = entry.has_tls or bool(options.skip_verify or options.ca or options.client_certificates)
    own = entry.address == registry or (registry, entry.address) == (_DOCKER_HUB, _DOCKER_HUB_HOST)
    return Host(
        entry.scheme,
        entry.address,
        entry.path,
        entry.capabilities,
        tls,
        (*options.headers.items(), *entry.headers),
        entry.dial_timeout or options.connect_timeout,
        entry.proxy,
        entry.scheme == "http" and has_tls and split_port(entry.address)[1] != "80",
        "" if own else registry,
    )


def _read(directory: str) -> list[_Entry]:
    path = os.path.join(directory, "hosts.toml")
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise InvalidArgument(f"{path}: larger than {_MAX_FILE} bytes")
    if not data:
        return [_certificates(directory)]
    try:
        table = tomllib.loads(data.decode())
        hosts = table.get("host", {})
        if not isinstance(hosts, dict):
            raise InvalidArgument('"host" is not a table')
        entries = [_entry(server, each, directory, f'host "{server}"') for server, each in hosts.items()]
        server = _typed(table, "server", str, "")
        return [*entries, _entry(server, table, directory, "the server")]
    except ValueError as error:
        raise InvalidArgument(f"{path}: {error}") from None
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error.message}") from None


def _certificates(directory: str) -> _Entry:
    """Read Docker's layout: NAME.crt are authorities, NAME.cert and NAME.key show who asks."""
    entry = _Entry()
    names = sorted(os.listdir(directory))
    entry.ca = tuple(os.path.join(directory, name) for name in names if name.endswith(".crt"))
    pairs = []
    for name in names:
        if name.endswith(".cert"):
            key = name.removesuffix(".cert") + ".key"
            if key not in names:
                raise InvalidArgument(f"{os.path.join(directory, name)}: its key {key} is missing")
            pairs.append((os.path.join(directory, name), os.path.join(directory, key)))
    entry.client = tuple(pairs)
    return entry


def _entry(server: str, table: Any, directory: str, where: str) -> _Entry:
    if not isinstance(table, dict):
        raise InvalidArgument(f"{where} is not a table")
    entry = _Entry()
    if server:
        entry.scheme, entry.address, entry.path = _server(server, _typed(table, "override_path", bool, False), where)
    elif where.startswith("host"):
        raise InvalidArgument(f"{where} has no name")
    names = [str(name).lower() for name in _typed(table, "capabilities", list, [])]
    unknown = set(names) - ALL_CAPABILITIES
    if unknown:
        raise InvalidArgument(f'{where}: "{unknown.pop()}" is no capability: {", ".join(sorted(ALL_CAPABILITIES))} are')
    entry.capabilities = frozenset(names) or ALL_CAPABILITIES
    entry.ca = tuple(os.path.join(directory, path) for path in _strings(table.get("ca", []), f"{where}: ca"))
    entry.client = tuple(
        (os.path.join(directory, certificate), key and os.path.join(directory, key))
        for certificate, key in _pairs(table.get("client", []), f"{where}: client")
    )
    entry.skip_verify = _typed(table, "skip_verify", bool, None)
    for name, value in _typed(table, "header", dict, {}).items():
        for line in _strings(value, f"{where}: header {name}"):
            if not _HEADER_NAME.fullmatch(name) or any(character in line for character in "\r\n\0"):
                raise InvalidArgument(f"{where}: {name} is no HTTP header")
            entry.headers.append((name, line))
    entry.dial_timeout = _duration(_typed(table, "dial_timeout", str, ""), where)
    entry.proxy = _typed(table, "proxy", str, "")
    return entry


def _server(text: str, override_path: bool, where: str) -> tuple[str, str, str]:
    parts = urllib.parse.urlsplit(text if "://" in text else f"https://{text}")
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc or parts.query:
        raise InvalidArgument(f'{where}: "{text}" is no http or https address of a registry')
    path = posixpath.normpath(parts.path) if parts.path else ""
    path = "" if path == "/" else path
    if not override_path and not path.endswith("/v2"):
        path += "/v2"
    return parts.scheme, parts.netloc, path


def _typed(table: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = table.get(key, default)
    if value is not default and not isinstance(value, kind):
        raise InvalidArgument(f'"{key}" is not a {kind.__name__}')
    return value


def _strings(value: Any, where: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in values):
        raise InvalidArgument(f"{where} is neither a string nor a list of strings")
    return values


def _pairs(value: Any, where: str) -> list[tuple[str, str]]:
    pairs = []
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str):
            pairs.append((each, ""))
        elif isinstance(each, list) and len(each) == 2 and all(isinstance(path, str) for path in each):
            pairs.append((each[0], each[1]))
        else:
            raise InvalidArgument(f"{where} is neither a string, a list of strings nor a list of pairs of strings")
    return pairs


def _duration(text: str, where: str) -> float:
    """Return the seconds of Go's durations ("1m30s")."""
    seconds, at = 0.0, 0
    while match := _DURATION.match(text, at):
        seconds += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    if at != len(text):
        raise InvalidArgument(f'{where}: "{text}" is no duration as "1m30s"')
    return seconds
