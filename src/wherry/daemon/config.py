"""wherryd's configuration: flags before environment before file before defaults."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from wherry.errors import InvalidArgument

DEFAULT_FILE = "/etc/wherry/config.toml"
LOG_LEVELS = ("debug", "info", "warning", "error")

#: sun_path of sockaddr_un holds 108 bytes, the closing zero among them; unix(7).
MAX_SOCKET_PATH = 107


@dataclass(frozen=True)
class Config:
    """What a daemon is told. `runtimes` maps a runtime's name to the shim binary that overrides the usual choice."""

    root: str = "/var/lib/wherry"
    state: str = "/run/wherry"
    address: str = "/run/wherry/wherry.sock"
    log_level: str = "info"
    runtimes: Mapping[str, str] = field(default_factory=dict)

    @property
    def ttrpc_address(self) -> str:
        """Where shims send events, and clients that speak ttrpc connect: clients derive it the same way."""
        return self.address + ".ttrpc"

    def validate(self) -> None:
        """Raise InvalidArgument for values that cannot work, naming the key and what to do."""
        for key in ("root", "state", "address"):
            path = getattr(self, key)
            if not path.startswith("/"):
                raise InvalidArgument(f"{key} {path!r} must be an absolute path")
        length = len(os.fsencode(self.ttrpc_address))
        if length > MAX_SOCKET_PATH:
            raise InvalidArgument(
                f"address {self.address}: the socket path {self.ttrpc_address} has {length} bytes, the kernel takes "
                f"{MAX_SOCKET_PATH}: choose a shorter --address"
            )
        if self.root == self.state:
            raise InvalidArgument(f"root and state are both {self.root}: they must be different directories")
        if self.log_level not in LOG_LEVELS:
            raise InvalidArgument(f"log_level {self.log_level!r} must be one of {', '.join(LOG_LEVELS)}")

    def to_toml(self) -> dict[str, Any]:
        """Return the configuration as the tables of its file."""
        return {
            "root": self.root,
            "state": self.state,
            "address": self.address,
            "log_level": self.log_level,
            "runtimes": {name: {"shim": shim} for name, shim in self.runtimes.items()},
        }


_TEXT_KEYS = tuple(each.name for each in fields(Config) if each.name != "runtimes")


def load(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Config:
    """Return the configuration of a command line: `flags` holds the keys of Config and "config", the file's name.

    InvalidArgument for a file that was named and cannot be read, and for keys and values that are not known.
    """
    named = flags.get("config") or environment.get("WHERRY_CONFIG")
    config = Config()
    path = named or DEFAULT_FILE
    try:
        with open(path, "rb") as file:
            config = _from_tables(tomllib.load(file), path)
    except FileNotFoundError:
        if named:
            raise InvalidArgument(f"configuration file {path}: no such file") from None
    except OSError as error:
        raise InvalidArgument(f"configuration file {path}: {(error.strerror or '').lower()}") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"configuration file {path}: {error}") from None
    given = {
        key: environment[f"WHERRY_{key.upper()}"] for key in _TEXT_KEYS if environment.get(f"WHERRY_{key.upper()}")
    }
    given.update((key, value) for key in _TEXT_KEYS if (value := flags.get(key)) is not None)
    if "state" in given and "address" not in given and config.address == Config.address:
        # A daemon with a state directory of its own has its socket there.
        given["address"] = os.path.join(given["state"], "wherry.sock")
    config = replace(config, **given)  # type: ignore[arg-type]
    config.validate()
    return config


def _from_tables(tables: Mapping[str, Any], path: str) -> Config:
    values: dict[str, Any] = {}
    for key, value in tables.items():
        if key == "runtimes":
            values[key] = _runtimes(value, path)
        elif key not in _TEXT_KEYS:
            raise InvalidArgument(f"{path}: unknown key {key!r}; there are {', '.join((*_TEXT_KEYS, 'runtimes'))}")
        elif not isinstance(value, str):
            raise InvalidArgument(f"{path}: {key} must be a string")
        else:
            values[key] = value
    return Config(**values)


def _runtimes(tables: Any, path: str) -> dict[str, str]:
    if not isinstance(tables, dict):
        raise InvalidArgument(f"{path}: runtimes must be a table of tables")
    found = {}
    for name, table in tables.items():
        if not isinstance(table, dict) or set(table) != {"shim"} or not isinstance(table["shim"], str):
            raise InvalidArgument(f'{path}: [runtimes."{name}"] must have one key, shim, the path of a shim binary')
        found[name] = table["shim"]
    return found


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

# {", ".join(LOG_LEVELS)}
log_level = "{default.log_level}"

# The shim of a runtime, by the runtime's name. Without one, io.containerd.runc.v2 and io.containerd.wherry.v2 are
# wherry's own shim, and any other io.containerd.NAME.vN is containerd-shim-NAME-vN in PATH.
#
# [runtimes."io.containerd.runc.v2"]
# shim = "/usr/bin/containerd-shim-runc-v2"
"""
