"""Clients that are quick to give up."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.certificates import Authority
from tests.registry.hostile import Hostile
from wherry.registry.client import Client, Options

Connect = Callable[..., Any]

QUICK = {"tries": 4, "retry_delay": 0.01, "stall_timeout": 1.0, "document_timeout": 20.0, "connect_timeout": 5.0}


@pytest.fixture
async def hostile() -> AsyncIterator[Hostile]:
    async with Hostile() as server:
        yield server


@pytest.fixture
async def other() -> AsyncIterator[Hostile]:
    """Another server: another origin, since it has another port."""
    async with Hostile() as server:
        yield server


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def encrypted(authority: Authority, tmp_path: Path) -> AsyncIterator[Hostile]:
    """A server that speaks TLS, with a certificate of the authority's."""
    made = authority.sign("hostile", "IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    async with Hostile(tls=context) as server:
        yield server


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open clients with options, and close them."""
    async with AsyncExitStack() as stack:

        async def open_client(**options: Any) -> Client:
            return await stack.enter_async_context(Client(Options(**{**QUICK, **options})))

        yield open_client
