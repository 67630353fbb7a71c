"""TLS contexts: made in a thread, since reading the system's authorities takes some 30 ms, and once each."""

from __future__ import annotations

import asyncio
import ssl

from wherry.errors import InvalidArgument
from wherry.registry.hosts import Tls


class Contexts:
    """The contexts of a client."""

    def __init__(self) -> None:
        self._contexts: dict[Tls, asyncio.Future[ssl.SSLContext]] = {}

    async def get(self, tls: Tls) -> ssl.SSLContext:
        """Return the context for a configuration. InvalidArgument for files that are missing or no certificates."""
        if tls not in self._contexts:
            self._contexts[tls] = asyncio.ensure_future(asyncio.to_thread(_make, tls))
        return await asyncio.shield(self._contexts[tls])


def _make(tls: Tls) -> ssl.SSLContext:
    if tls.skip_verify:
        # Nobody's word is needed, so the authorities are not read.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context()
    for path in tls.ca:
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument(f"CA certificate {path}: {_words(error)}") from None
    for certificate, key in tls.client:
        try:
            context.load_cert_chain(certificate, key or None, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise InvalidArgument(f"client certificate {certificate}: {_words(error)}") from None
    return context


def _no_password() -> str:
    # OpenSSL would ask the terminal.
    raise ValueError("its key is encrypted, which is not supported")


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a certificate or key in PEM ({error.reason or error})"
    return (error.strerror if isinstance(error, OSError) else "") or str(error)
