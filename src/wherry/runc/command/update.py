"""`wherry-runc update`."""

from __future__ import annotations

import sys

from wherry.errors import Unknown
from wherry.runc.command.command import Command
from wherry.runc.command.flags import NUMBER, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runc.command.command import Call
    from wherry.runc.command.flags import Values

COMMAND = Command(
    "change the limits of a container",
    "ID",
    "Change the limits of a container, running or paused. What is not named stays as it is. With --resources they\n"
    "come from a JSON document, the `linux.resources` of config.json, and the other flags do not count:\n\n"
    '  {"memory": {"limit": 268435456, "swap": -1}, "cpu": {"shares": 512, "cpus": "0-1"}, "pids": {"limit": 100}}',
    (
        Flag("resources", "a file with the limits as JSON, - for standard input", short="r"),
        Flag("blkio-weight", "share of the block devices' time, 10 to 1000", NUMBER),
        Flag("cpu-period", "microseconds of a CFS period"),
        Flag("cpu-quota", "microseconds of processor time in a CFS period, -1 for no limit"),
        Flag("cpu-share", "share of the processors' time"),
        Flag("cpu-rt-period", "microseconds of a period of realtime scheduling"),
        Flag("cpu-rt-runtime", "microseconds of realtime processor time in such a period"),
        Flag("cpu-burst", "microseconds of unused quota that may be used later"),
        Flag("cpu-idle", "1: the processors' time that nobody else wants, 0: a share of it"),
        Flag("cpuset-cpus", "processors to use, as in 0-2,7"),
        Flag("cpuset-mems", "memory nodes to use"),
        Flag("memory", "limit of memory: bytes, or with k, m, g; -1 for none"),
        Flag("memory-reservation", "memory to keep when it gets scarce: bytes, or with k, m, g"),
        Flag("memory-swap", "limit of memory and swap together: bytes, or with k, m, g; -1 for none"),
        Flag("kernel-memory", "without effect: the kernel has no such limit any more", hidden=True),
        Flag("kernel-memory-tcp", "without effect: the kernel has no such limit any more", hidden=True),
        Flag("pids-limit", "how many processes there may be, -1 for any number", NUMBER),
        Flag("l3-cache-schema", "cache for Intel RDT; this runtime does not support it"),
        Flag("mem-bw-schema", "memory bandwidth for Intel RDT; this runtime does not support it"),
    ),
)

# Where the value of a flag goes in the document.
_UNSIGNED = {
    "cpu-period": ("cpu", "period"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-share": ("cpu", "shares"),
    "cpu-burst": ("cpu", "burst"),
}
_SIGNED = {
    "cpu-quota": ("cpu", "quota"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
}
_TEXTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
_SIZES = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
}
_KERNEL_MEMORY = ("kernel-memory", "kernel-memory-tcp")
_RDT = {"l3-cache-schema": "l3 cache", "mem-bw-schema": "memory bandwidth"}

_MAX_UINT64 = (1 << 64) - 1
_SHIFTS = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_MAX_WEIGHT = (1 << 16) - 1


def run(call: Call) -> int:
    container = call.load()
    if container.status() == "stopped":
        raise Unknown("container not running")
    source = call.values.text("resources")
    resources = _read(source) if source else _of_flags(call)
    memory = resources.get("memory") or {}
    if memory.get("limit") == -1 and "swap" not in memory:
        memory["swap"] = -1  # a limit of both together that is below the one of memory would be refused
    if memory.pop("kernel", None) is not None or memory.pop("kernelTCP", None) is not None:
        _warn_of_kernel_memory(call)
    container.update({name: limits for name, limits in resources.items() if limits})
    return 0


def _warn_of_kernel_memory(call: Call) -> None:
    call.settings.log.warning("limits of kernel memory have no effect: the kernel has them no more")


def _read(source: str) -> dict[str, Any]:
    from wherry.runc.spec import parse_object

    if source == "-":
        return parse_object(sys.stdin.buffer.read(), "standard input")
    with open(source, "rb") as file:
        return parse_object(file.read(), source)


def _of_flags(call: Call) -> dict[str, Any]:
    """Return the document that the flags come to. Unknown for a value that is none."""
    values = call.values
    for name, what in _RDT.items():
        if values.text(name):
            raise Unknown(f"Intel RDT: the {what} schema is not supported by this runtime")
    if any(values.text(name) for name in _KERNEL_MEMORY):
        _warn_of_kernel_memory(call)
    resources: dict[str, Any] = {"memory": {}, "cpu": {}, "blockIO": {}, "pids": {}}
    _take(resources, values)
    weight = values.number("blkio-weight")
    if weight:
        if not 0 < weight <= _MAX_WEIGHT:
            raise Unknown(f"invalid value for blkio-weight: {weight} is not from 10 to 1000")
        resources["blockIO"]["weight"] = weight
    limit = values.number("pids-limit")
    if limit:
        resources["pids"]["limit"] = limit
    return resources


def _take(resources: dict[str, Any], values: Values) -> None:
    for name, (part, field) in {**_UNSIGNED, **_SIGNED, **_TEXTS, **_SIZES}.items():
        text = values.text(name)
        if not text:
            continue
        try:
            if name in _TEXTS:
                resources[part][field] = text
            elif name in _SIZES:
                resources[part][field] = -1 if text == "-1" else parse_size(text)
            else:
                resources[part][field] = _number(text, signed=name in _SIGNED)
        except ValueError as error:
            raise Unknown(f"invalid value for {name}: {error}") from None


def _number(text: str, *, signed: bool) -> int:
    """Return a decimal number. ValueError in the words of Go's library."""
    function = "ParseInt" if signed else "ParseUint"
    digits = text[1:] if signed and text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f'strconv.{function}: parsing "{text}": invalid syntax')
    number = int(text)
    if not (-(1 << 63) <= number < 1 << 63 if signed else number <= _MAX_UINT64):
        raise ValueError(f'strconv.{function}: parsing "{text}": value out of range')
    return number


def parse_size(text: str) -> int:
    """Return the bytes of a size like 64m, 1.5GiB or 1024, in powers of 1024. ValueError."""
    suffix = text.lstrip("0123456789.")
    number, letters = text[: len(text) - len(suffix)], suffix.removeprefix(" ").lower()
    shift = 0
    if letters and letters != "b":
        shift = _SHIFTS.get(letters[0], -1)
        if shift < 0 or letters[1:] not in ("", "b", "i", "ib"):
            raise ValueError(f"invalid size: '{text}'")
    try:
        return int(float(number) * (1 << shift)) if "." in number else int(number) << shift
    except ValueError:
        raise ValueError(f"invalid size: '{text}'") from None
