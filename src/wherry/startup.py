"""What wherry's own programs do before their first import. Not for programs that use wherry as a library."""

from __future__ import annotations

import os
import sys


def forgo_tls() -> None:
    """Keep OpenSSL out of this process, for good: asyncio imports it wherever it is, which takes 15 ms and 2 MB.

    Without effect once it has been imported. Afterwards `import ssl` is an ImportError.
    """
    if "ssl" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # as the import system documents it


def forgo_fork_handlers() -> None:
    """Have nothing that is imported from now on called around forks: for a process that has one thread, always.

    logging, threading and random register with os.register_at_fork(), for locks that other threads may hold, for other
    threads, for numbers that differ. Of these one that has no other threads needs the last, and calls random.seed()
    itself where it matters. In a child of a process as large as a shim they take a millisecond and 170 page faults.
    """
    os.register_at_fork = _register_nothing


def _register_nothing(*, before: object = None, after_in_child: object = None, after_in_parent: object = None) -> None:
    return
