"""Bundles: a task's directories and files, the one place where what is known of its shim is kept."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wherry.errors import AlreadyExists

#: The names of containerd's runtime plugins, which its directories carry.
V1 = "io.containerd.runtime.v1.linux"
V2 = "io.containerd.runtime.v2.task"
#: Of the shims that are sandboxes.
SANDBOX = "io.containerd.sandbox.controller.v1.shim"

_ADDRESS = "address"
_BOOTSTRAP = "bootstrap.json"
_SHIM_BINARY = "shim-binary-path"
_SANDBOX = "sandbox"


class Bundle:
    """One task's bundle: `path` below the state directory, `work` below the root."""

    def __init__(self, state: str, root: str, runtime: str, namespace: str, id: str) -> None:
        self.runtime = runtime
        self.namespace = namespace
        self.id = id
        self.path = os.path.join(state, runtime, namespace, id)
        self.work = os.path.join(root, runtime, namespace, id)

    def create(self, spec: bytes) -> None:
        """Make the directories and write config.json, byte for byte. AlreadyExists if they are there."""
        with ExitStack() as undo:
            for path in (self.path, self.work):
                os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
                try:
                    os.mkdir(path, 0o700)
                except FileExistsError:
                    raise AlreadyExists(f"bundle {path}") from None
                undo.callback(shutil.rmtree, path, ignore_errors=True)
            os.mkdir(os.path.join(self.path, "rootfs"), 0o711)
            if self.runtime != V1:
                os.symlink(self.work, os.path.join(self.path, "work"))
            self.write("config.json", spec)
            undo.pop_all()

    def delete(self) -> None:
        """Remove everything, in one step as far as anyone sees: what is renamed is left over from a deletion."""
        hidden = os.path.join(os.path.dirname(self.path), "." + self.id)
        try:
            os.rename(self.path, hidden)
        except FileNotFoundError:
            pass  # only the work directory is left
        shutil.rmtree(hidden, ignore_errors=True)
        shutil.rmtree(self.work, ignore_errors=True)

    def write(self, name: str, content: bytes) -> None:
        with open(os.path.join(self.path, name), "wb") as file:
            file.write(content)

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None if there is no such file."""
        try:
            with open(os.path.join(self.path, name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    @property
    def rootfs(self) -> str:
        return os.path.join(self.path, "rootfs")

    def record_shim(self, address: str, version: int, binary: str) -> None:
        """Write down how the shim is reached, for whichever daemon comes next."""
        self.write(_ADDRESS, address.encode())
        self.write(_BOOTSTRAP, json.dumps({"version": version, "address": address, "protocol": "ttrpc"}).encode())
        self.write(_SHIM_BINARY, binary.encode())

    def record_sandbox(self, id: str) -> None:
        """Write down the sandbox that the task belongs to, whose shim it has."""
        self.write(_SANDBOX, id.encode())

    @property
    def sandbox(self) -> str:
        """The sandbox that the task belongs to, or ""."""
        return (self.read(_SANDBOX) or b"").decode()

    def shim_record(self) -> tuple[str, int, str] | None:
        """Return the shim's address, version and binary, or None if none was started."""
        binary = (self.read(_SHIM_BINARY) or b"").decode()
        bootstrap = self.read(_BOOTSTRAP)
        if bootstrap:
            try:
                values = json.loads(bootstrap)
                return values["address"], int(values["version"]), binary
            except (ValueError, KeyError, TypeError):
                pass  # torn by a crash: the plain file says the same
        address = (self.read(_ADDRESS) or b"").decode().strip()
        return (address, 2, binary) if address else None

    def options(self) -> dict[str, Any]:
        """Return the runtime options that the shim recorded."""
        try:
            values = json.loads(self.read("options.json") or b"{}")
        except ValueError:
            values = {}
        options: dict[str, Any] = values if isinstance(values, dict) else {}
        runtime = (self.read("runtime") or b"").decode().strip()
        if runtime:
            options["binary_name"] = runtime
        return options

    def exit(self) -> tuple[int, int] | None:
        """Return the exit status of init and when it ended, in nanoseconds, if the shim saw it and is one of ours."""
        try:
            values = json.loads(self.read("exit.json") or b"{}")
            return int(values["exit_status"]), int(values["exited_at"])
        except (ValueError, KeyError, TypeError):
            return None

    def init_pid(self) -> int | None:
        """Return the pid of the container's init, None if it was never made."""
        try:
            return int(self.read("init.pid") or b"")
        except ValueError:
            return None


def found(state: str, root: str, runtime: str) -> list[Bundle]:
    """Return the bundles that exist, after finishing deletions that were begun."""
    bundles = []
    base = Path(state, runtime)
    for namespace in sorted(base.iterdir()) if base.is_dir() else ():
        for entry in sorted(namespace.iterdir()):
            if entry.name.startswith("."):
                shutil.rmtree(entry, ignore_errors=True)
            else:
                bundles.append(Bundle(state, root, runtime, namespace.name, entry.name))
    known = {bundle.work for bundle in bundles}
    work = Path(root, runtime)
    for namespace in work.iterdir() if work.is_dir() else ():
        for entry in namespace.iterdir():
            if str(entry) not in known:
                shutil.rmtree(entry, ignore_errors=True)
    return bundles
