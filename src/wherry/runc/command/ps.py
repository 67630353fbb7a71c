"""`wherry-runc ps`."""

from __future__ import annotations

import os
import sys

from wherry.errors import Unknown
from wherry.runc.command.command import Command
from wherry.runc.command.flags import Flag
from wherry.runc.command.go_json import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.runc.command.command import Call

COMMAND = Command(
    "list the processes of a container",
    "ID [ps options]",
    "Print what ps(1) tells of a container's processes, with pids as the host sees them. Options behind the id are\n"
    "ps's own, -ef by default; its output must have a column PID.",
    (Flag("format", "table or json, which is the pids alone", short="f", default="table"),),
    most=None,
    flags_first=True,
)


def run(call: Call) -> int:
    container = call.load()
    if call.settings.is_rootless():
        call.settings.log.warning("ps shows what there is in the container's cgroup: without one of its own, too much")
    pids = container.pids()
    if not pids and container.pid:
        raise Unknown("unable to get all container pids: it has no cgroup of its own")
    form = call.values.text("format")
    if form == "json":
        sys.stdout.write(encode(pids or None) + "\n")
        return 0
    if form != "table":
        raise Unknown("invalid format option")
    lines = _ps(call.words[1:] or ["-ef"]).split("\n")
    sys.stdout.write("\n".join(_of(pids, lines)) + "\n")
    return 0


def _ps(options: Sequence[str]) -> str:
    """Return what ps prints. Unknown if it fails."""
    output = os.memfd_create("ps")
    try:
        pid = os.posix_spawnp(
            "ps",
            ["ps", *options],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)],
        )
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        printed = os.pread(output, os.fstat(output).st_size, 0).decode(errors="surrogateescape")
    except FileNotFoundError:
        raise Unknown('exec: "ps": executable file not found in $PATH') from None
    finally:
        os.close(output)
    if status:
        how = f"exit status {status}" if status > 0 else f"signal: {-status}"
        raise Unknown(f"{how}: {printed}")
    return printed


def _of(pids: Sequence[int], lines: Sequence[str]) -> list[str]:
    """Return the header, and the lines of the pids."""
    header = lines[0].split()
    if "PID" not in header:
        raise Unknown("couldn't find PID field in ps output")
    column = header.index("PID")
    found = [lines[0]]
    for line in lines[1:]:
        if not line:
            continue
        fields = line.split()
        try:
            pid = int(fields[column])
        except (ValueError, IndexError):
            raise Unknown(f"unable to parse pid: {line!r}") from None
        if pid in pids:
            found.append(line)
    return found
