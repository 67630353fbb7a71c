"""What wherry's own programs do before their first import. Not for programs that use wherry as a library."""

from __future__ import annotations

import sys


def forgo_tls() -> None:
    """Keep OpenSSL out of this process, for good: asyncio imports it wherever it is, which takes 15 ms and 2 MB.

    Without effect once it has been imported. Afterwards `import ssl` is an ImportError.
    """
    if "ssl" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # as the import system documents it
