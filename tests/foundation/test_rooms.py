"""The rooms of docs/architecture.md: what a module may import is part of the design, so it is checked."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"

#: The rooms that each room may import, itself apart. The table is docs/architecture.md's.
MAY_IMPORT = {
    "errors": set[str](),
    "identifiers": {"errors"},
    "protobuf": set[str](),
    "completion": set[str](),
    "startup": set[str](),
    "linux": {"errors"},
    "api": {"protobuf", "errors"},
    "ttrpc": {"protobuf", "api", "errors"},
    "rpc": {"ttrpc", "protobuf", "api", "identifiers", "errors"},
    "zygote": {"startup", "linux", "errors"},
    "oci": {"errors", "linux"},
    "runc": {"startup", "oci", "linux", "errors"},
    "shim": {
        "completion",
        "startup",
        "api",
        "rpc",
        "ttrpc",
        "oci",
        "runc",
        "linux",
        "protobuf",
        "identifiers",
        "errors",
    },
    "store": {"oci", "linux", "identifiers", "errors"},
    "images": {"oci", "linux", "errors"},
    "registry": {"oci", "errors"},
    "transfer": {"api", "rpc", "oci", "images", "registry", "client", "protobuf", "identifiers", "errors"},
    "daemon": {
        "completion",
        "startup",
        "api",
        "rpc",
        "ttrpc",
        "zygote",
        "oci",
        "store",
        "images",
        "registry",
        "transfer",
        "linux",
        "protobuf",
        "identifiers",
        "errors",
    },
    "client": {
        "api",
        "rpc",
        "ttrpc",
        "oci",
        "images",
        "registry",
        "linux",
        "protobuf",
        "identifiers",
        "errors",
    },
    "cli": {"startup", "client", "registry", "transfer", "protobuf", "errors"},
}

#: Imports that the table does not allow and that stay, each with its reason.
EXCEPTIONS = {
    ("wherry/daemon/runtime/local.py", "shim"): "NoShim is the shim's core in the daemon's process",
    (
        "wherry/daemon/runtime/task.py",
        "shim",
    ): "runtime v1's figures are the daemon's to read, by the code that reads the shim's",
}


def modules(room: str) -> Iterator[Path]:
    path = SOURCE / "wherry" / room
    if path.is_dir():
        yield from (file for file in path.rglob("*.py") if not file.name.endswith("_pb2.py"))
    else:
        yield path.with_suffix(".py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith("wherry.")} - {"__version__"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for path in modules(room):
        for other in rooms_imported(path) - MAY_IMPORT[room] - {room}:
            name = str(path.relative_to(SOURCE))
            assert (name, other) in EXCEPTIONS, f"{name} imports wherry.{other}, which the room {room} must not know"


def test_every_room_is_in_the_table() -> None:
    entries = {path.stem for path in (SOURCE / "wherry").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert entries - {"__init__", "__pycache__", "py"} == set(MAY_IMPORT)


def test_a_shim_waits_for_children_in_one_place_and_has_one_thread() -> None:
    """A second waiter would take the reaper's statuses and report a failed runc as a success."""
    forbidden = {"subprocess", "threading", "concurrent", "multiprocessing"}
    for path in modules("shim"):
        names = {name.split(".")[0] for name in imported(path)}
        assert not names & forbidden, f"{path.name} imports {names & forbidden}"
        for word in ("to_thread", "run_in_executor", "create_subprocess", "os.system(", "os.popen("):
            assert word not in path.read_text(), f"{path.name} uses {word}"
