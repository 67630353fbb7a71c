"""Runtime options, from whichever of containerd's messages they come in."""

from __future__ import annotations

import tomllib

import wherry.api.runtime.options.v1.options_pb2
from wherry.api import typeurl
from wherry.api.runtime.linux.runctypes.runc_pb2 import CreateOptions, RuncOptions
from wherry.api.runtime.runc.v1.options_pb2 import CheckpointOptions, Options
from wherry.api.wellknown_pb2 import Any
from wherry.errors import InvalidArgument
from wherry.shim.record import BUILTIN, DEFAULT_ROOT, read, runtime_binary, runtime_program, runtime_root, write

__all__ = [
    "BUILTIN",
    "DEFAULT_ROOT",
    "CheckpointOptions",
    "Options",
    "checkpoint_options",
    "from_any",
    "read",
    "runtime_binary",
    "runtime_program",
    "runtime_root",
    "write",
]


def from_any(packed: Any | None) -> Options:
    """Return the options of a create request. An empty value means none were given, whatever its type URL.

    InvalidArgument for a type that is no runtime's options.
    """
    if packed is None or not packed.type_url or not packed.value:
        return Options()
    message = typeurl.unpack(packed)
    if isinstance(message, Options):
        return message
    if isinstance(message, CreateOptions):
        return Options(
            no_pivot_root=message.no_pivot_root,
            no_new_keyring=message.no_new_keyring,
            shim_cgroup=message.shim_cgroup,
            io_uid=message.io_uid,
            io_gid=message.io_gid,
            criu_image_path=message.criu_image_path,
            criu_work_path=message.criu_work_path,
        )
    if isinstance(message, RuncOptions):
        return Options(binary_name=message.runtime, root=message.runtime_root, systemd_cgroup=message.systemd_cgroup)
    if isinstance(message, wherry.api.runtime.options.v1.options_pb2.Options):
        return _from_configuration(message)
    raise InvalidArgument(f"{packed.type_url} are no runtime options")


def _from_configuration(message: wherry.api.runtime.options.v1.options_pb2.Options) -> Options:
    """Read options from a TOML configuration named or carried by runtimeoptions.v1.Options (CRI's way)."""
    try:
        if message.config_body:
            values = tomllib.loads(message.config_body.decode())
        elif message.config_path:
            with open(message.config_path, "rb") as file:
                values = tomllib.load(file)
        else:
            values = {}
        return Options(**{_snake(key): value for key, value in values.items()})
    except (OSError, ValueError, TypeError) as error:
        raise InvalidArgument(f"runtime options: {error}") from None


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def checkpoint_options(packed: Any | None) -> CheckpointOptions:
    """Return the options of a checkpoint request, v1's as v2's."""
    if packed is None or not packed.type_url or not packed.value:
        return CheckpointOptions()
    if packed.type_url == "containerd.linux.runc.CheckpointOptions":
        old = typeurl.unpack(packed)
        made = CheckpointOptions()
        for field in old.DESCRIPTOR.fields:
            value = getattr(old, field.name)
            if field.name == "empty_namespaces":
                made.empty_namespaces.extend(value)
            else:
                setattr(made, field.name, value)
        return made
    message = typeurl.unpack(packed)
    if not isinstance(message, CheckpointOptions):
        raise InvalidArgument(f"{packed.type_url} are no checkpoint options")
    return message
