"""wherryd's configuration: flags before environment before file before defaults."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from wherry.daemon import transfer_config
from wherry.daemon.transfer_config import TransferConfig
from wherry.errors import InvalidArgument
from wherry.oci import duration
from wherry.rpc import socket_path

DEFAULT_FILE = "/etc/wherry/config.toml"
LOG_LEVELS = ("debug", "info", "warn", "error")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True)
class GarbageCollection:
    """When garbage is collected, in the terms of containerd's plugin io.containerd.gc.v1.scheduler.

    `pause_threshold` is the share of time that collections may take at the most (0.5 is the greatest; with 0 there is
    one in a second). Without a `deletion_threshold` a deletion is followed by a collection as soon as that share
    allows; with one, so many deletions are followed by one at once. `mutation_threshold` is the number of writes that
    make a collection worth its while without any deletion; 0: none does. The delays are in nanoseconds: between what
    asks for a collection at once, a synchronous deletion too, and its beginning, and between the daemon's start and
    the first one; without the latter there is none until something asks for it.
    """

    pause_threshold: float = 0.02
    deletion_threshold: int = 0
    mutation_threshold: int = 100
    schedule_delay: int = 0
    startup_delay: int = 100_000_000

    def to_toml(self) -> dict[str, Any]:
        """Return the settings as their table in the file."""
        return {
            "pause_threshold": self.pause_threshold,
            "deletion_threshold": self.deletion_threshold,
            "mutation_threshold": self.mutation_threshold,
            "schedule_delay": duration.text(self.schedule_delay),
            "startup_delay": duration.text(self.startup_delay),
        }


@dataclass(frozen=True)
class Config:
    """What a daemon is told.

    `runtimes` maps a runtime's name to the shim binary that overrides the usual choice. With `no_shim` the daemon is
    itself the shim of containers that wherry's own would have: they end with it. `ksm` lets the kernel keep equal pages
    of shims once, where its KSM runs.
    """

    root: str = "/var/lib/wherry"
    state: str = "/run/wherry"
    address: str = "/run/wherry/wherry.sock"
    log_level: str = "info"
    log_format: str = "text"
    no_shim: bool = False
    ksm: bool = False
    gc: GarbageCollection = field(default_factory=GarbageCollection)
    runtimes: Mapping[str, str] = field(default_factory=dict)
    transfer: TransferConfig = field(default_factory=TransferConfig)

    @property
    def ttrpc_address(self) -> str:
        """Where shims send events, and clients that speak ttrpc connect: clients derive it the same way."""
        return self.address + ".ttrpc"

    def to_toml(self) -> dict[str, Any]:
        """Return the configuration as the tables of its file."""
        tables: dict[str, Any] = {key: getattr(self, key) for key in _KEYS}
        runtimes = {name: {"shim": shim} for name, shim in self.runtimes.items()}
        return {**tables, "gc": self.gc.to_toml(), "transfer": self.transfer.to_toml(), "runtimes": runtimes}


_TABLES = ("gc", "transfer", "runtimes")
_KEYS = tuple(each.name for each in fields(Config) if each.name not in _TABLES)
_SWITCHES = ("no_shim", "ksm")
_PATH_KEYS = ("root", "state", "address")


def load(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Config:
    """Return the configuration of a command line: `flags` holds the keys of Config and "config", the file's name.

    InvalidArgument, naming where it was said, for a file that was named and cannot be read, and for keys and values
    that cannot be.
    """
    named = flags.get("config") or environment.get("WHERRY_CONFIG")
    path = named or DEFAULT_FILE
    tables = _read(path, needed=bool(named))
    gc = _garbage_collection(tables.pop("gc", {}), path)
    runtimes = _runtimes(tables.pop("runtimes", {}), path)
    transfer = transfer_config.from_table(tables.pop("transfer", {}), path)
    # Of each key the value, and who said so.
    given = {key: (value, path) for key, value in _texts(tables, path).items()}
    for key in _KEYS:
        variable = f"WHERRY_{key.upper()}"
        if environment.get(variable):
            given[key] = environment[variable], variable
        flag = flags.get(key)
        if flag is not None:
            given[key] = flag, f"--{key.replace('_', '-')}"
    for key, (value, source) in given.items():
        given[key] = _checked(key, value, source), source
    values: dict[str, Any] = {
        key: value == "true" if key in _SWITCHES else value for key, (value, _source) in given.items()
    }
    if "state" in values and "address" not in values:
        # A daemon with a state directory of its own has its socket there.
        values["address"] = os.path.join(values["state"], "wherry.sock")
    config = Config(**values, gc=gc, runtimes=runtimes, transfer=transfer)
    if config.root == config.state:
        raise InvalidArgument(f"root and state are both {config.root}: they must be different directories")
    socket_path.check(config.ttrpc_address)
    return config


def _read(path: str, *, needed: bool) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if needed:
            raise InvalidArgument(f"configuration file {path}: no such file") from None
        return {}
    except OSError as error:
        raise InvalidArgument(f"configuration file {path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise InvalidArgument(f"configuration file {path}: {error}") from None


def _texts(tables: Mapping[str, Any], path: str) -> dict[str, str]:
    for key, value in tables.items():
        if key not in _KEYS:
            raise InvalidArgument(f"{path}: unknown key {key}; there are {', '.join((*_KEYS, *_TABLES))}")
        wanted = bool if key in _SWITCHES else str
        if not isinstance(value, wanted):
            raise InvalidArgument(f"{path}: {key} must be {_TYPES[wanted]}, and is {_type_name(value)}")
    return {key: str(value).lower() if key in _SWITCHES else value for key, value in tables.items()}


def _runtimes(tables: Any, path: str) -> dict[str, str]:
    if not isinstance(tables, dict):
        raise InvalidArgument(f"{path}: runtimes must be a table, and is {_type_name(tables)}")
    found = {}
    for name, table in tables.items():
        where = f'{path}: [runtimes."{name}"]'
        if not isinstance(table, dict):
            raise InvalidArgument(f"{where} must be a table, and is {_type_name(table)}")
        for key in table:
            if key != "shim":
                raise InvalidArgument(f"{where}: unknown key {key}; there is shim")
        shim = table.get("shim")
        if not isinstance(shim, str):
            raise InvalidArgument(f"{where}: shim must be a string, and is {_type_name(shim)}")
        if not shim.startswith("/"):
            raise InvalidArgument(f"{where}: shim {shim!r} must be an absolute path")
        found[name] = shim
    return found


def _garbage_collection(table: Any, path: str) -> GarbageCollection:
    if not isinstance(table, dict):
        raise InvalidArgument(f"{path}: gc must be a table, and is {_type_name(table)}")
    values: dict[str, Any] = {}
    for key, value in table.items():
        where = f"{path}: [gc]: {key}"
        if key in ("schedule_delay", "startup_delay"):
            values[key] = _delay(value, where)
        elif key == "pause_threshold":
            if type(value) not in (int, float):
                raise InvalidArgument(f"{where} must be a float, and is {_type_name(value)}")
            if not 0 <= value <= 0.5:
                raise InvalidArgument(f"{where} {value} must be from 0 to 0.5")
            values[key] = float(value)
        elif key in ("deletion_threshold", "mutation_threshold"):
            if type(value) is not int:
                raise InvalidArgument(f"{where} must be an integer, and is {_type_name(value)}")
            if value < 0:
                raise InvalidArgument(f"{where} {value} must not be negative")
            values[key] = value
        else:
            known = ", ".join(each.name for each in fields(GarbageCollection))
            raise InvalidArgument(f"{path}: [gc]: unknown key {key}; there are {known}")
    return GarbageCollection(**values)


def _delay(value: Any, where: str) -> int:
    if not isinstance(value, str):
        raise InvalidArgument(f'{where} must be a string like "100ms", and is {_type_name(value)}')
    try:
        delay = duration.parse(value)
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}: {error.message}") from None
    if delay < 0:
        raise InvalidArgument(f"{where} {value} must not be negative")
    return delay


_TYPES = {bool: "a boolean", int: "an integer", float: "a float", list: "an array", dict: "a table", str: "a string"}


def _type_name(value: Any) -> str:
    return _TYPES.get(type(value), "missing" if value is None else "a date or time")


def _checked(key: str, value: str, source: str) -> str:
    """Return a value in its one form. InvalidArgument if it cannot be."""
    if key in _PATH_KEYS:
        path = value.removeprefix("unix://") if key == "address" else value
        if not path.startswith("/"):
            raise InvalidArgument(f"{source}: {key} {value!r} must be an absolute path")
        # Names of shims' sockets are made from it: they must not depend on how it was written.
        return os.path.normpath(path)
    allowed = ("true", "false") if key in _SWITCHES else {"log_level": LOG_LEVELS, "log_format": LOG_FORMATS}[key]
    if value not in allowed:
        raise InvalidArgument(f"{source}: {key} {value!r} must be one of {', '.join(allowed)}")
    return value


def default_text() -> str:
    """Return a configuration file with every key at its default, and what each is for."""
    default = Config()
    return f"""\
# wherryd's configuration. Every key stands here with its default; flags and WHERRY_* in the environment come first.

# What must last: the metadata database, content, snapshots.
root = "{default.root}"

# What may go with a reboot: bundles of running tasks.
state = "{default.state}"

# The gRPC socket; the ttrpc socket is beside it, with .ttrpc behind its name.
address = "{default.address}"

# What is logged on standard error, and how: {", ".join(LOG_LEVELS)}; {" or ".join(LOG_FORMATS)}.
log_level = "{default.log_level}"
log_format = "{default.log_format}"

# Be the shim of containers that wherry's own would have, in this process: they end with the daemon.
no_shim = {str(default.no_shim).lower()}

# Let the kernel keep equal pages of shims once (KSM; `echo 1 >/sys/kernel/mm/ksm/run` turns it on): an idle shim then
# holds a tenth. What is merged can be told apart from what is not by the time that a write takes, so leave this off
# where containers may not learn what other processes that take part hold.
ksm = {str(default.ksm).lower()}

{transfer_config.default_text(default.transfer)}
# When what nothing refers to is collected, in the terms of containerd's scheduler.
[gc]
# The share of time that collections may take at the most, from 0 to 0.5: with a collection of 5 ms, the next begins
# 245 ms after it at the earliest. With 0 there is one second in between.
pause_threshold = {default.gc.pause_threshold}
# So many deletions are followed by a collection at once; with 0, each by one as soon as the share allows.
deletion_threshold = {default.gc.deletion_threshold}
# So many writes are worth a collection without any deletion; with 0, none are.
mutation_threshold = {default.gc.mutation_threshold}
# Between what asks for a collection at once, a synchronous deletion too, and its beginning: as in 500ms, 1m30s.
schedule_delay = "{duration.text(default.gc.schedule_delay)}"
# Between the daemon's start and the first collection; with 0s, there is none until something asks for it.
startup_delay = "{duration.text(default.gc.startup_delay)}"

# The shim of a runtime, by the runtime's name. Without one, io.containerd.runc.v2 and io.containerd.wherry.v2 are
# wherry's own shim, and any other io.containerd.NAME.vN is containerd-shim-NAME-vN in PATH.
#
# [runtimes."io.containerd.runc.v2"]
# shim = "/usr/bin/containerd-shim-runc-v2"
"""
