"""wherry setup, below a directory of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.harness.command import Result, run
from tests.harness.daemon import COMMANDS
from wherry.client.installation import Installation
from wherry.errors import AlreadyExists, NotFound


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc/systemd/system").mkdir(parents=True)
    (tmp_path / "root/usr/local/bin").mkdir(parents=True)
    return tmp_path / "root"


def setup(root: Path, *flags: str) -> Result:
    return run([COMMANDS / "wherry", "setup", "--prefix", root, *flags])


def tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_setup_and_its_removal(root: Path) -> None:
    assert [line.split()[0] for line in setup(root).check().text.splitlines()] == ["linked", "linked", "wrote"]
    made = tree(root)
    assert made["usr/local/bin/containerd-shim-wherry-v2"] == str(COMMANDS / "containerd-shim-wherry-v2")
    assert made["usr/local/bin/wherry-shim"] == str(COMMANDS / "wherry-shim")
    unit = made["etc/systemd/system/wherryd.service"]
    for line in (
        f"ExecStart={COMMANDS}/wherryd",
        "Type=notify",
        "KillMode=process",
        "Delegate=yes",
        "OOMPolicy=continue",
        "TasksMax=infinity",
    ):
        assert line in unit.splitlines()
    assert len(made) == 3
    assert [line.split()[0] for line in setup(root).check().text.splitlines()] == ["unchanged"] * 3
    assert tree(root) == made
    assert [line.split()[0] for line in setup(root, "--remove").check().text.splitlines()] == ["removed"] * 3
    assert tree(root) == {}
    assert setup(root, "--remove").check().text == ""


def test_systemd_takes_the_unit(root: Path, tmp_path: Path) -> None:
    import shutil

    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    setup(root).check()
    unit = root / "etc/systemd/system/wherryd.service"
    checked = subprocess.run(["systemd-analyze", "verify", unit], check=False, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.parametrize("taken", ["file", "link", "unit"])
def test_what_others_put_there_stays(taken: str, root: Path) -> None:
    place = root / "usr/local/bin/wherry-shim"
    if taken == "file":
        place.write_text("mine")
    elif taken == "link":
        place.symlink_to("/bin/true")
    else:
        place = root / "etc/systemd/system/wherryd.service"
        place.write_text("mine")
    before = tree(root)
    result = setup(root)
    assert (result.code, result.text) == (1, "")
    assert result.error_text.startswith(f"wherry: {place}, ")
    assert len(result.error_text.splitlines()) == 1
    assert tree(root) == before
    assert setup(root, "--remove").check().text.startswith(f"left {place}: ")
    assert tree(root) == before


def test_a_unit_that_was_changed_stays(root: Path) -> None:
    setup(root).check()
    unit = root / "etc/systemd/system/wherryd.service"
    unit.write_text(unit.read_text().replace("RestartSec=5", "RestartSec=6"))
    assert "or changed since" in setup(root).error_text
    assert "or was changed since" in setup(root, "--remove").text
    assert "RestartSec=6" in unit.read_text()


def test_another_wherrys_place_is_taken_over_when_it_is_gone(root: Path, tmp_path: Path) -> None:
    def commands(name: str) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        for command in ("wherryd", "containerd-shim-wherry-v2", "wherry-shim"):
            (directory / command).touch()
        return directory

    first, second = commands("first"), commands('sec "ond%')
    Installation(str(root), str(first)).install()
    with pytest.raises(AlreadyExists, match="a link to"):
        Installation(str(root), str(second)).install()
    for command in first.iterdir():
        command.unlink()
    Installation(str(root), str(second)).install()
    made = tree(root)
    assert made["usr/local/bin/wherry-shim"] == str(second / "wherry-shim")
    assert f'ExecStart="{tmp_path}/sec \\"ond%%/wherryd"' in made["etc/systemd/system/wherryd.service"]


def test_without_systemd_there_is_no_unit(tmp_path: Path) -> None:
    text = setup(tmp_path).check().text
    assert f"no unit: there is no {tmp_path}/etc/systemd/system" in text
    assert sorted(tree(tmp_path)) == ["usr/local/bin/containerd-shim-wherry-v2", "usr/local/bin/wherry-shim"]


def test_commands_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="containerd-shim-wherry-v2"):
        Installation(str(tmp_path), str(tmp_path))
