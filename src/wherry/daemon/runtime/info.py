"""What a runtime's shim says of itself when it is run with -info."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Mapping

from wherry.api import typeurl
from wherry.api.types import types_pb2
from wherry.api.wellknown_pb2 import Any
from wherry.daemon.runtime.shims import shim_binary
from wherry.errors import Unavailable, Unimplemented, Unknown

#: Seconds that a shim may take to answer.
_TIMEOUT = 10.0


def runtime_info(configured: Mapping[str, str]) -> Callable[[str, Any], Awaitable[Any]]:
    """Return a function from a runtime's name and options to its packed RuntimeInfo."""

    async def ask(runtime: str, options: Any) -> Any:
        binary = shim_binary(runtime or "io.containerd.runc.v2", configured)
        child = await asyncio.create_subprocess_exec(
            binary, "-info", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            async with asyncio.timeout(_TIMEOUT):
                output, errors = await child.communicate(options.SerializeToString())
        except TimeoutError:
            child.kill()
            await child.wait()
            raise Unavailable(f"{binary} -info: no answer within {_TIMEOUT:.0f} s") from None
        if child.returncode == 2:
            # What Go's flag package exits with: a shim of 1.x, which does not have the flag.
            raise Unimplemented(f"{binary} -info")
        if child.returncode:
            raise Unknown(f"{binary} -info: {errors.decode(errors='replace').strip()}")
        return typeurl.pack(types_pb2.RuntimeInfo.FromString(output))

    return ask
