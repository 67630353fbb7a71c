"""Modules found by their compiled files alone: what is imported is what the import system would have imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wherry import startup

_REPORT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from wherry.startup import hurry
hurry()
import wherry.room.thing as thing
json.dump({
    "value": thing.VALUE,
    "quick": [type(m.__spec__.loader).__name__ == "_CompiledLoader" for m in (thing, sys.modules["wherry.room"])],
    "file": thing.__file__,
    "cached": thing.__cached__,
    "path": list(sys.modules["wherry.room"].__path__),
    "source": thing.__spec__.loader.get_source("wherry.room.thing"),
}, sys.stdout)
"""


class House:
    """A package of the same name with one room."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.room = place / "wherry/room"
        self.thing = self.room / "thing.py"
        self.room.mkdir(parents=True)
        shutil.copy(startup.__file__, place / "wherry/startup.py")
        for path in (place / "wherry/__init__.py", self.room / "__init__.py"):
            path.write_text("")
        self.thing.write_text("VALUE = 1\n")

    def report(self, *flags: str, **environment: str) -> dict[str, object]:
        """Import the thing in a process of its own and return what it is then."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [sys.executable, *flags, "-c", _REPORT, str(self.place)]
        ended = subprocess.run(command, check=True, capture_output=True, env={**kept, **environment})
        found: dict[str, object] = json.loads(ended.stdout)
        return found


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_compiled_module_is_found(house: House) -> None:
    first = house.report()
    assert (first["value"], first["quick"]) == (1, [False, False])  # which compiles both
    second = house.report()
    assert second["quick"] == [True, True]
    assert {**second, "quick": 0} == {**first, "quick": 0}
    assert (second["file"], second["path"]) == (str(house.thing), [str(house.room)])
    assert second["source"] == "VALUE = 1\n"


def test_a_changed_module_is_compiled_anew(house: House) -> None:
    house.report()
    time = house.thing.stat().st_mtime_ns
    house.thing.write_text("VALUE = 12\n")
    os.utime(house.thing, ns=(time, time))
    assert house.report()["value"] == 12  # its size tells
    house.thing.write_text("VALUE = 21\n")
    os.utime(house.thing, ns=(time + 10**9, time + 10**9))
    assert house.report()["value"] == 21  # its time tells
    assert house.report()["quick"] == [True, True]


@pytest.mark.parametrize("damage", [b"", b"\0" * 200, None])
def test_a_damaged_file_is_not_used(house: House, damage: bytes | None) -> None:
    compiled = Path(str(house.report()["cached"]))
    compiled.write_bytes(compiled.read_bytes()[:15] if damage is None else damage)
    assert house.report()["value"] == 1


def test_other_compiled_files_are_the_import_systems(house: House) -> None:
    house.report()
    assert house.report("-O")["quick"] == [False, False]
    assert house.report(PYTHONPYCACHEPREFIX=str(house.place / "elsewhere"))["quick"] == [False, False]
