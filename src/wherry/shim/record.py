"""What a bundle records of its container's runtime, for whoever cleans up after a dead shim."""

from __future__ import annotations

import json
import os

from wherry.api.runtime.runc.v1.options_pb2 import Options

#: Where runc keeps state for containerd's clients, by namespace, unless told otherwise.
DEFAULT_ROOT = "/run/containerd/runc"
DEFAULT_BINARY = "runc"

_OPTIONS_FILE = "options.json"
_RUNTIME_FILE = "runtime"


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
