"""Whether a registry takes somebody's password."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from wherry.errors import Unauthenticated
from wherry.registry.client import Client, Credentials, Options
from wherry.registry.docker_config import HUB, key_of

#: Where the daemon looks, too, unless it is told otherwise.
_HOSTS_DIRECTORIES = ("/etc/containerd/certs.d", "/etc/docker/certs.d")


def check(host: str, credentials: Credentials, *, plain_http: bool = False, hosts_dir: str = "") -> None:
    """Return if a registry takes the credentials, or wants none. `host` is "" for Docker Hub.

    Unauthenticated if it does not take them; what `wherry.registry.client.Client.check` raises, otherwise.
    """
    registry = "docker.io" if key_of(host or "docker.io") == HUB else host
    asked = False

    async def provide(_host: str, _reference: str, _challenges: Sequence[str]) -> Credentials:
        nonlocal asked
        asked = True
        return credentials

    async def run() -> None:
        options = Options(
            hosts_dirs=[hosts_dir] if hosts_dir else _HOSTS_DIRECTORIES,
            credentials=provide,
            default_scheme="http" if plain_http else "",
            tries=2,
        )
        async with Client(options) as client:
            await client.check(registry)

    try:
        asyncio.run(run())
    except Unauthenticated:
        if not asked:
            raise
        raise Unauthenticated(f"{registry} does not take the user name and password") from None
