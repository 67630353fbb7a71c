"""Which proxy the environment names for an address: HTTP_PROXY, HTTPS_PROXY and NO_PROXY by the rules that Go programs
follow (golang.org/x/net/http/httpproxy), so that a daemon's unit file works for us as for containerd."""

from __future__ import annotations

import ipaddress
import os
import urllib.parse
from collections.abc import Mapping

from wherry.registry.reference import is_loopback, split_port

_PORTS = {"http": "80", "https": "443"}


def proxy(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the address of the proxy for a URL, "" if it is reached directly, as this machine itself always is."""
    parts = urllib.parse.urlsplit(url)
    if parts.hostname is None or is_loopback(parts.netloc.rpartition("@")[2]):
        return ""
    name = f"{parts.scheme}_proxy"
    # Of a CGI program, whose HTTP_PROXY would be a header of the client's.
    if name == "http_proxy" and environment.get("REQUEST_METHOD"):
        return environment.get("http_proxy", "")
    found = environment.get(name.upper()) or environment.get(name) or ""
    exceptions = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    if not found or _excepted(parts.hostname.lower(), str(parts.port or _PORTS[parts.scheme]), exceptions):
        return ""
    return found if "://" in found else f"http://{found}"


def _excepted(host: str, port: str, exceptions: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for text in exceptions.lower().split(","):
        each = text.strip()
        if each == "*":
            return True
        if "/" in each:
            try:
                if address is not None and address in ipaddress.ip_network(each, strict=False):
                    return True
            except ValueError:
                pass  # as Go does: what is no network excepts nothing
            continue
        name, its_port = split_port(each)
        if not name or (its_port and its_port != port):
            continue
        if address is not None:
            if name == host:
                return True
            continue
        name = name.removeprefix("*")
        if host == name or host.endswith("." + name.removeprefix(".")):
            return True
    return False
