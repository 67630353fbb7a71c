"""`wherry-runc events`."""

from __future__ import annotations

import os
import select
import sys
import time

from wherry.errors import Error, Unknown
from wherry.runc.command.command import Command
from wherry.runc.command.flags import DURATION, SWITCH, Flag
from wherry.runc.command.go_json import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runc.command.command import Call
    from wherry.runc.container import Container

COMMAND = Command(
    "print a container's figures as time goes by, and when it runs out of memory",
    "ID",
    "Print a line of JSON with the figures of a container's cgroups (processors, memory, block devices, processes) at\n"
    "every interval, and one whenever the kernel's OOM killer was there, until the container is gone.",
    (
        Flag("interval", "the time between figures", DURATION, default="5s"),
        Flag("stats", "print the figures once", SWITCH),
    ),
)


def run(call: Call) -> int:
    container = call.load()
    interval = call.values.seconds("interval")
    if interval <= 0:
        raise Unknown("duration interval must be greater than 0")
    if container.status() == "stopped":
        raise Unknown(f"container with id {container.id} is not running")
    if call.values.switch("stats"):
        _print({"type": "stats", "id": container.id, "data": container.stats()})
    else:
        _follow(call, container, interval)
    return 0


def _print(event: dict[str, Any]) -> None:
    sys.stdout.write(encode(event) + "\n")
    sys.stdout.flush()


def _follow(call: Call, container: Container, interval: float) -> None:
    """Print what happens until the container is gone."""
    # By its end, not by its cgroup's: that is only removed by `delete`.
    init = container.open_init()
    try:
        notice = container.cgroup.oom()
    except OSError as error:
        os.close(init)
        raise Unknown(f"no news of OOM: {(error.strerror or str(error)).lower()}") from None
    poll = select.poll()
    poll.register(init, select.POLLIN)
    poll.register(notice.fileno(), notice.events)
    due = time.monotonic() + interval
    while True:
        ready = dict(poll.poll(max(0.0, due - time.monotonic()) * 1000))
        if notice.fileno() in ready:
            happened = notice.read()
            if happened is None:
                break
            if happened:
                _print({"type": "oom", "id": container.id})
        if init in ready:
            break
        if time.monotonic() >= due:
            due += interval
            _print_stats(call, container)
    notice.close()
    os.close(init)


def _print_stats(call: Call, container: Container) -> None:
    try:
        _print({"type": "stats", "id": container.id, "data": container.stats()})
    except Error as error:
        call.settings.log.error(error.message)  # the next ones may do
