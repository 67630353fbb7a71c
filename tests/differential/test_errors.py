"""What every command does with a bad namespace, a bad address, or no daemon."""

from __future__ import annotations

import pytest

from tests.differential.transcript import Side, differential

COMMANDS = [
    ("containers", "ls"),
    ("content", "ls"),
    ("content", "get", "sha256:" + "0" * 64),
    ("images", "ls"),
    ("leases", "ls"),
    ("leases", "create", "--id", "x"),
    ("snapshots", "ls"),
    ("snapshots", "prepare", "x"),
    ("tasks", "ls"),
    ("run", "--rm", "image", "id"),
    ("namespaces", "ls", "-q"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("namespace", ["a--b", "-", "x" * 77, "with blank"])
@differential
def test_bad_namespace(side: Side, namespace: str, command: tuple[str, ...]) -> None:
    if command[0] == "namespaces":
        side.note("needs none", side.daemon.ctr(*command, namespace=namespace).code)
    else:
        side.ctr(*command, namespace=namespace)


@pytest.mark.parametrize("command", COMMANDS[:4], ids=" ".join)
@differential
def test_no_daemon(side: Side, command: tuple[str, ...]) -> None:
    side.ctr("--address", f"{side.directory}/absent.sock", "--connect-timeout", "200ms", *command)


@differential
def test_timeout(side: Side) -> None:
    side.ctr("--timeout", "30s", "containers", "ls")
