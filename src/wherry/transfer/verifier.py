"""Programs that judge images before they are pulled: containerd's image verifiers (its plugin `bindir`).

Each program of a directory is run with ``-name REFERENCE -digest DIGEST -stdin-media-type
application/vnd.oci.descriptor.v1+json`` and the descriptor as JSON on standard input. Exit status 0 lets the image
pass; any other blocks it, and standard output tells why. One that cannot be run, or takes too long, blocks as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from wherry.errors import Unknown
from wherry.oci.descriptor import Descriptor

_MEDIA_TYPE = "application/vnd.oci.descriptor.v1+json"
#: Octets of a program's output that are looked at.
_MAX_REASON = 32768


@dataclass(frozen=True)
class Verifiers:
    """The programs of a directory, in the order of their names; there may be none."""

    directory: str
    #: How many are run at the most; -1 for all, as containerd has it.
    limit: int = 10
    #: Seconds for each.
    timeout: float = 10.0

    async def verify(self, name: str, descriptor: Descriptor) -> None:
        """Ask each program. Unknown, with what it says, for the first that does not let the image pass."""
        for program in self._programs():
            await self._ask(program, name, descriptor)

    def _programs(self) -> list[str]:
        try:
            names = sorted(os.listdir(self.directory))
        except (FileNotFoundError, NotADirectoryError):
            return []
        programs = [os.path.join(self.directory, name) for name in names]
        programs = [program for program in programs if not os.path.isdir(program)]
        return programs if self.limit < 0 else programs[: self.limit]

    async def _ask(self, program: str, name: str, descriptor: Descriptor) -> None:
        blocking = f"blocking pull of {name} with digest {descriptor.digest}: image verifier {program}"
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                *("-name", name, "-digest", descriptor.digest, "-stdin-media-type", _MEDIA_TYPE),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise Unknown(f"{blocking} could not be run: {(error.strerror or str(error)).lower()}") from None
        try:
            async with asyncio.timeout(self.timeout):
                reason = await _talk(process, json.dumps(descriptor.to_json()).encode())
                status = await process.wait()
        except TimeoutError:
            raise Unknown(f"{blocking} took more than {self.timeout:g} seconds") from None
        finally:
            # Also what it has started.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if status:
            said = reason.decode(errors="replace").strip() or f"exit status {status}"
            raise Unknown(f"image verifier {program} blocked pull of {name} with digest {descriptor.digest}: {said}")


async def _talk(process: asyncio.subprocess.Process, document: bytes) -> bytes:
    """Give a program its input and return the beginning of its output; what follows is read and dropped."""
    assert process.stdin is not None and process.stdout is not None
    with suppress(ConnectionError):
        process.stdin.write(document)
        await process.stdin.drain()
    process.stdin.close()
    reason = b""
    while piece := await process.stdout.read(_MAX_REASON):
        reason += piece[: _MAX_REASON - len(reason)]
    return reason
