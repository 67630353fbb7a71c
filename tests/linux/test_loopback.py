"""loopback.py against the kernel."""

from __future__ import annotations

import os
import socket

import pytest

from tests.linux.child import in_child
from wherry.linux.loopback import bring_up_loopback
from wherry.linux.namespaces import CLONE_NEWNET, unshare


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_loopback_comes_up() -> None:
    def child() -> None:
        unshare(CLONE_NEWNET)
        with socket.socket() as sock, pytest.raises(OSError, match=r"unreachable|assign"):
            sock.connect(("127.0.0.1", 9))
        bring_up_loopback()
        bring_up_loopback()
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
            pass
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))

    in_child(child)


def test_not_without_privileges() -> None:
    def child() -> None:
        if os.geteuid() == 0:
            os.setresuid(1000, 1000, 1000)
        with pytest.raises(PermissionError):
            bring_up_loopback()

    in_child(child)
