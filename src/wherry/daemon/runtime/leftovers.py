"""What a dead shim left of its container: the OCI runtime that is still at work for it, and the container itself."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import time

from wherry.daemon.runtime import shims
from wherry.daemon.runtime.bundle import Bundle
from wherry.linux.process import open_by_argument, wait_all

log = logging.getLogger(__name__)

#: Our own runtime, where a shim of ours has it in process, and where its state is; as wherry.shim.record has it.
_BUILTIN = "wherry-runc"
_BUILTIN_ROOT = "/run/wherry/runc"

#: Seconds for what a dead shim had asked of the OCI runtime.
_RUNTIME_TIMEOUT = 5.0


async def runtime_ended(bundle: Bundle) -> None:
    """Wait for what a dead shim had asked of the OCI runtime: a create goes on, and would make what is removed now."""
    # In a thread already to look: there may be thousands of processes.
    await asyncio.to_thread(_wait_for, os.path.join(bundle.path, "log.json"))


def _wait_for(log_path: str) -> None:
    wait_all(open_by_argument(log_path), _RUNTIME_TIMEOUT)


async def delete_container(bundle: Bundle) -> None:
    """Have the OCI runtime that the bundle records kill and delete what is left of a container."""
    options = bundle.options()
    binary = str(options.get("binary_name") or "runc")
    default_root = "/run/containerd/runc"
    if binary == _BUILTIN:
        default_root = _BUILTIN_ROOT
        binary = shims.own_command(binary)
    root = os.path.join(str(options.get("root") or default_root), bundle.namespace)
    command = [binary, "--root", root]
    if options.get("systemd_cgroup"):
        command.append("--systemd-cgroup")
    began = time.monotonic()
    child = await asyncio.create_subprocess_exec(
        *command,
        "delete",
        "--force",
        bundle.id,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _output, errors = await child.communicate()
    log.debug("%s delete of %s took %.3f s", binary, bundle.id, time.monotonic() - began)
    if child.returncode and b"does not exist" not in errors:
        log.warning("%s delete --force %s: %s", binary, bundle.id, errors.decode(errors="replace").strip())
