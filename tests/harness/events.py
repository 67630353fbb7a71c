"""`ctr events` beside a test."""

from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.command import environment
from tests.harness.daemon import Daemon

_TIMEOUT = 30.0


@contextmanager
def listening(daemon: Daemon, namespace: str) -> Iterator[subprocess.Popen[str]]:
    """Run `ctr events` of a namespace for the length of a block, which begins once it hears something."""
    command = daemon.ctr_command("events", f"namespace=={namespace}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), text=True) as process:
        try:
            assert process.stdout is not None
            deadline = time.monotonic() + _TIMEOUT
            daemon.ctr("namespaces", "label", namespace, "mark=begin", namespace=namespace).check()
            while not select.select([process.stdout], [], [], 0.2)[0]:
                assert time.monotonic() < deadline, "ctr events is not told of anything"
                daemon.ctr("namespaces", "label", namespace, "mark=begin", namespace=namespace).check()
            yield process
        finally:
            process.kill()
