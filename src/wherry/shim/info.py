"""`-info`: what this shim is, for daemons that ask before they use it."""

from __future__ import annotations

import os
import sys

import wherry
from wherry.api import typeurl
from wherry.api.types.types_pb2 import RuntimeInfo, RuntimeVersion
from wherry.api.wellknown_pb2 import Any
from wherry.shim import options


def print_info() -> None:
    """Read packed runtime options on standard input, print a marshalled RuntimeInfo."""
    data = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    given = Any.FromString(data)
    chosen = options.from_any(given)
    features = _features(options.runtime_program(chosen))
    info = RuntimeInfo(
        name="io.containerd.wherry.v2",
        version=RuntimeVersion(version=wherry.__version__),
        options=given if given.type_url else None,
        features=Any(type_url=typeurl.FEATURES, value=features) if features else None,
    )
    sys.stdout.buffer.write(info.SerializeToString())
    sys.stdout.flush()


def _features(binary: str) -> bytes:
    """Return what `RUNTIME features` prints; nothing for a runtime that does not have the command."""
    read, write = os.pipe()
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, write, 1),
            (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_RDWR, 0),
        ]
        pid = os.posix_spawnp(binary, [binary, "features"], os.environ, file_actions=actions)
    except OSError:
        os.close(read)
        return b""
    finally:
        os.close(write)
    with os.fdopen(read, "rb") as file:
        output = file.read()
    _pid, status = os.waitpid(pid, 0)
    return output if status == 0 else b""
