"""Runtime options, from whichever of containerd's messages they come in."""

from __future__ import annotations

import json
import os
import tomllib

import wherry.api.runtime.options.v1.options_pb2
from wherry.api import typeurl
from wherry.api.runtime.linux.runctypes.runc_pb2 import CreateOptions, RuncOptions
from wherry.api.runtime.runc.v1.options_pb2 import CheckpointOptions, Options
from wherry.api.wellknown_pb2 import Any
from wherry.errors import InvalidArgument

#: Where runc keeps state for containerd's clients, by namespace, unless told otherwise.
DEFAULT_ROOT = "/run/containerd/runc"
DEFAULT_BINARY = "runc"

_OPTIONS_FILE = "options.json"
_RUNTIME_FILE = "runtime"

__all__ = [
    "DEFAULT_BINARY",
    "DEFAULT_ROOT",
    "CheckpointOptions",
    "Options",
    "checkpoint_options",
    "from_any",
    "read",
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


def runtime_root(options: Options, namespace: str) -> str:
    """Return what runc's --root is for a namespace."""
    return os.path.join(options.root or DEFAULT_ROOT, namespace)


def write(bundle: str, options: Options) -> None:
    """Record in the bundle which runtime a container has, for whoever cleans up after a dead shim."""
    with open(os.path.join(bundle, _RUNTIME_FILE), "w") as file:
        file.write(options.binary_name)
    fields = {field.name: value for field, value in options.ListFields()}
    with open(os.path.join(bundle, _OPTIONS_FILE), "w") as file:
        json.dump(fields, file)


def read(bundle: str) -> Options:
    """Return the options recorded in a bundle; the defaults where there is no record, or a damaged one."""
    options = Options()
    try:
        with open(os.path.join(bundle, _OPTIONS_FILE)) as file:
            values = json.load(file)
    except (OSError, ValueError):
        values = {}
    if isinstance(values, dict):
        for name, value in values.items():
            try:
                setattr(options, name, value)
            except (AttributeError, TypeError, ValueError):
                continue  # a field of a newer shim's: the cleaner needs root, binary and cgroup driver only
    try:
        with open(os.path.join(bundle, _RUNTIME_FILE)) as file:
            options.binary_name = file.read().strip()
    except OSError:
        pass  # the stock 1.6 shim fails here; the options, or runc, do as well
    return options
