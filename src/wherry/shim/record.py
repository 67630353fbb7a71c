"""What a bundle records of its container, for whoever cleans up after a dead shim: its runtime, and how it ended."""

from __future__ import annotations

import json
import logging
import os
import sys

from wherry.api.runtime.runc.v1.options_pb2 import Options
from wherry.runc.state import directory_of

log = logging.getLogger(__name__)

#: Where runc keeps state for containerd's clients, by namespace, unless told otherwise.
DEFAULT_ROOT = "/run/containerd/runc"

#: The name of wherry's own runtime; a shim of ours runs no program for it. Its command is of the same name.
BUILTIN = "wherry-runc"
#: Who runs containers for which no runtime is named.
DEFAULT_BINARY = BUILTIN
#: Where its state is: apart from runc's, of which it knows nothing.
BUILTIN_ROOT = "/run/wherry/runc"

_OPTIONS_FILE = "options.json"
_RUNTIME_FILE = "runtime"
_EXIT_FILE = "exit.json"


def runtime_root(options: Options, namespace: str) -> str:
    """Return what the runtime's --root is for a namespace."""
    default = BUILTIN_ROOT if runtime_binary(options) == BUILTIN else DEFAULT_ROOT
    return os.path.join(options.root or default, namespace)


def runtime_binary(options: Options) -> str:
    """Return the runtime that options name, or the default one."""
    return options.binary_name or DEFAULT_BINARY


def runtime_program(options: Options) -> str:
    """Return the program of the runtime that options name: our own is where this interpreter's commands are."""
    binary = runtime_binary(options)
    return os.path.join(os.path.dirname(sys.executable), binary) if binary == BUILTIN else binary


def has_state(root: str, id: str) -> bool:
    """Tell whether an OCI runtime has state of a container: runc and crun right below the root, ours further down."""
    return os.path.lexists(os.path.join(root, id)) or os.path.lexists(directory_of(root, id))


def write(bundle: str, options: Options) -> None:
    """Record in the bundle which runtime a container has, for whoever cleans up after a dead shim."""
    with open(os.path.join(bundle, _RUNTIME_FILE), "w") as file:
        file.write(runtime_binary(options))
    fields = {field.name: value for field, value in options.ListFields()}
    with open(os.path.join(bundle, _OPTIONS_FILE), "w") as file:
        json.dump(fields, file)


def write_exit(bundle: str, status: int, at: int) -> None:
    """Record how init ended: its exit status, and when, in nanoseconds since the epoch.

    A disk that is full costs only those who ask after the shim's death: they are told 137, as for any unseen end.
    """
    path = os.path.join(bundle, _EXIT_FILE)
    try:
        with open(path + ".new", "w") as file:
            json.dump({"exit_status": status, "exited_at": at}, file)
        os.rename(path + ".new", path)
    except OSError as error:
        log.warning("exit of %s is not recorded: %s", bundle, error.strerror)


def read_exit(bundle: str) -> tuple[int, int] | None:
    """Return the exit status of a bundle's init and when it ended, in nanoseconds; None if nobody saw it."""
    try:
        with open(os.path.join(bundle, _EXIT_FILE)) as file:
            values = json.load(file)
        return int(values["exit_status"]), int(values["exited_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
