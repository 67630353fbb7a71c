"""The built-in runtime in a process that the zygote forked, as a shim has it: a target of wherry.zygote."""

from __future__ import annotations

import os
import time
from typing import Any

from wherry.runc.container import Container
from wherry.runc.create import CreateOptions, Creation
from wherry.runc.spec import load_spec
from wherry.shim import forked


def lifecycle(root: str, id: str, bundle: str, stdout: int) -> int:
    """Create, start, wait for and delete a container, each as the shim does it; returns nanoseconds."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    began = time.perf_counter_ns()
    with Creation(root, id, load_spec(bundle), CreateOptions(bundle, stdio=(null, stdout, null))) as creation:
        creation.begin()
        while not creation.advance():
            continue
        container = creation.finish()
    container = _current(container, root)
    container.start()
    status = container.wait()
    _current(container, root).delete()
    taken = time.perf_counter_ns() - began
    os.close(null)
    if status:
        raise SystemExit(f"exit status {status}")
    return taken


def _current(container: Container, root: str) -> Container:
    return container if container.is_current() else Container.load(root, container.id)


def main(arguments: dict[str, Any], fds: list[int]) -> None:
    """Run a container for each byte of the first descriptor, and write its nanoseconds to the second as a line."""
    orders, answers, stdout = fds
    while os.read(orders, 1):
        taken = lifecycle(arguments["root"], arguments["id"], arguments["bundle"], stdout)
        os.write(answers, f"{taken}\n".encode())


main.warm = forked.main.warm  # type: ignore[attr-defined]
