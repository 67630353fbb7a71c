"""A create that fails: the runtime's own reason, in containerd's words, and nothing half-made."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.harness import leaks
from tests.shim.lab import Container, Lab
from tests.shim.peers import Ours, OursV1, Shim, StockV1, StockV2
from wherry.api import typeurl
from wherry.api.runtime.runc.v1.options_pb2 import Options
from wherry.api.types.types_pb2 import Mount
from wherry.errors import AlreadyExists, Error, InvalidArgument
from wherry.shim.record import BUILTIN_ROOT, DEFAULT_ROOT, has_state

_NO_SOURCE = Mount(type="bind", source="/no/such", options=["rbind", "ro"])
_NO_TYPE = Mount(type="nosuchfs", source="none", options=["x=y"])

#: By name: the command, what the request has beside, what the spec is changed by.
_FAILURES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "no such program": ("/nope", {}, {}),
    "no such program in PATH": ("nope", {}, {}),
    "no program": ("/etc/passwd", {}, {}),
    "no such user": ("true", {}, {"user": {"uid": -1, "gid": 0}}),
    "no such working directory": ("true", {}, {"cwd": "/nope"}),
    "no such mount": ("true", {"rootfs": [_NO_SOURCE]}, {}),
    "no such file system": ("true", {"rootfs": [_NO_TYPE]}, {}),
    "no such fifo": ("true", {"stdout": "/tmp/no-such", "stderr": "/tmp/no-such"}, {}),
    "no such scheme": ("true", {"stdout": "http://x"}, {}),
    "no such runtime": ("true", {"runtime": "nope"}, {}),
    "no such path of a runtime": ("true", {"runtime": "/nope/nope"}, {}),
}


def _chosen(container: Container, fields: dict[str, Any]) -> dict[str, Any]:
    if "runtime" not in fields or container.v1:
        return fields
    return {"options": typeurl.pack(Options(binary_name=fields["runtime"]))}


#: Where runc leaves the words to Go's JSON parser.
_OWN_WORDS = {
    "no such user": "Unknown: OCI runtime create failed: runc create failed: process.user.uid: -1 is no number from 0"
    " to 4294967294",
}


async def _failure(container: Container, fields: dict[str, Any], changes: dict[str, Any]) -> str:
    config = container.bundle / "config.json"
    document = json.loads(config.read_text())
    document["process"].update(changes)
    config.write_text(json.dumps(document))
    with pytest.raises(Error) as failed:
        await container.create(**_chosen(container, fields))
    return f"{type(failed.value).__name__}: {failed.value.message}".replace(str(container.bundle), "BUNDLE")


def _left(container: Container) -> list[str]:
    found = [line for line in leaks.mounts() if f"{container.bundle}/" in line]
    found += [str(path) for path in container.bundle.glob("*.pid")]
    roots = [f"{root}/{container.lab.namespace}" for root in (DEFAULT_ROOT, BUILTIN_ROOT)]
    return found + [root for root in roots if has_state(root, container.id)]


@pytest.mark.parametrize(("ours", "stock"), [(Ours, StockV2), (OursV1, StockV1)])
@pytest.mark.parametrize("name", _FAILURES)
async def test_failed_creates(lab: Lab, ours: type[Shim], stock: type[Shim], name: str) -> None:
    program, fields, changes = _FAILURES[name]
    container = await lab.shim(stock, program)
    expected = await _failure(container, fields, changes)
    # Debian's leaves a container whose FIFO was missing.
    os.system(f"runc --root /run/containerd/runc/{lab.namespace} delete --force {container.id} 2> /dev/null")
    await container.end_shim()
    container = await lab.shim(ours, program)
    assert await _failure(container, fields, changes) in (expected, _OWN_WORDS.get(name))
    assert not _left(container)
    await container.end_shim()


async def test_the_second_mount_fails(lab: Lab) -> None:
    container = await lab.shim(Ours, "true")
    first = Mount(type="bind", source=str(lab.rootfs), options=["rbind", "ro"])
    with pytest.raises(Error, match=r"failed to mount rootfs component &\{nosuchfs none"):
        await container.create(rootfs=[first, _NO_TYPE])
    assert not _left(container)
    await container.end_shim()


async def test_crun_says_why(lab: Lab, crun: str) -> None:
    container = await lab.shim(Ours, "/nope")
    with pytest.raises(Error, match="OCI runtime create failed: executable file `/nope` not found"):
        await container.create(options=typeurl.pack(Options(binary_name=crun)))
    assert not _left(container)
    await container.end_shim()


async def test_a_runtime_that_is_killed_leaves_no_container(lab: Lab) -> None:
    script = lab.directory / "dying-runc"
    script.write_text(
        """#!/bin/sh
case "$*" in *" create "*) runc "$@"; kill -9 $$;; *) exec runc "$@";; esac
"""
    )
    script.chmod(0o755)
    container = await lab.shim(Ours, "sleep", "1000")
    with pytest.raises(Error, match=r"dying-runc did not terminate successfully: exit status 137"):
        await container.create(options=typeurl.pack(Options(binary_name=str(script))))
    assert not _left(container)
    await container.end_shim()


async def test_a_pid_file_that_names_another_process_is_not_believed(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    script = lab.directory / "lying-runc"
    script.write_text(
        f"""#!/bin/sh
case "$*" in
    *" create "*) runc "$@" && echo -n {os.getpid()} > {container.bundle}/init.pid;;
    *) exec runc "$@";;
esac
"""
    )
    script.chmod(0o755)
    with pytest.raises(Error, match=f"process {os.getpid()} is no child of the shim"):
        await container.create(options=typeurl.pack(Options(binary_name=str(script))))
    assert not _left(container)
    await container.end_shim()


async def test_a_container_of_somebody_else_is_left_alone(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.create()
    other = await lab.shim(Ours, "sleep", "1000")
    other.id = container.id
    with pytest.raises(Error, match="container with given ID already exists"):
        await other.create()
    await container.start()
    await container.stop()
    await container.end_shim()
    await other.end_shim()


async def test_refused_arguments(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    with pytest.raises(InvalidArgument):
        await container.shim.call("create", id="../x", bundle=str(container.bundle))
    await container.create()
    with pytest.raises(InvalidArgument):
        await container.exec("../e", "true")
    with pytest.raises(InvalidArgument):
        await container.exec("", "true")
    with pytest.raises(AlreadyExists):
        await container.create()
    await container.stop()
    await container.end_shim()
