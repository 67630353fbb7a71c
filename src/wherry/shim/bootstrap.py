"""What a daemon tells a shim's `start`, and how it wants to be answered."""

from __future__ import annotations

import json
import sys

from wherry.api.runtime.bootstrap.v1.bootstrap_pb2 import BootstrapParams
from wherry.api.runtime.linux.runctypes import runc_pb2
from wherry.api.runtime.runc.v1 import options_pb2
from wherry.api.wellknown_pb2 import Any

#: The version that our shim is: it serves v2 by its side.
VERSION = 3


class Bootstrap:
    """The standard input of `start`: runtime options, and whether the daemon reads JSON."""

    def __init__(self, options: Any | None, json_answer: bool) -> None:
        self.options = options
        self.json_answer = json_answer

    @property
    def shim_cgroup(self) -> str:
        """The cgroup that the shim is to live in, or ""."""
        if self.options is None or not self.options.value:
            return ""
        if self.options.type_url == "containerd.runc.v1.Options":
            return options_pb2.Options.FromString(self.options.value).shim_cgroup
        if self.options.type_url == "containerd.linux.runc.CreateOptions":
            return runc_pb2.CreateOptions.FromString(self.options.value).shim_cgroup
        return ""

    def answer(self, address: str) -> str:
        """Return what `start` prints: a daemon up to 1.7 takes a bare address, one from 2.0 on also JSON."""
        if not self.json_answer:
            return address
        return json.dumps({"version": VERSION, "address": address, "protocol": "ttrpc"})


def read(data: bytes, id: str, environment_says_2: bool) -> Bootstrap:
    """Tell what standard input holds: an Any of options (up to 2.2), or BootstrapParams (2.3 and later).

    The bytes of an Any are BootstrapParams too, with the type URL where the instance id belongs: that tells them apart.
    """
    if not data:
        return Bootstrap(None, environment_says_2)
    try:
        params = BootstrapParams.FromString(data)
    except Exception:
        params = BootstrapParams()
    if params.instance_id == id:
        options = next(
            (extension.value for extension in params.extensions if "ptions" in extension.value.type_url), None
        )
        return Bootstrap(options, True)
    try:
        return Bootstrap(Any.FromString(data), environment_says_2)
    except Exception as error:
        sys.exit(f"standard input of start is neither options nor bootstrap parameters: {error}")
