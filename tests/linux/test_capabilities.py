"""capabilities.py against the kernel."""

from __future__ import annotations

import os

import pytest

from tests.linux.child import in_child, status
from wherry.linux import capabilities
from wherry.linux.capabilities import CAPABILITIES

root = pytest.mark.skipif(os.geteuid() != 0, reason="capabilities need root")

KILL, CHOWN, NET_RAW = (1 << CAPABILITIES[f"CAP_{name}"] for name in ("KILL", "CHOWN", "NET_RAW"))


def sets() -> dict[str, int]:
    return {name: int(status(f"Cap{name}"), 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


def test_numbers() -> None:
    assert (CAPABILITIES["CAP_CHOWN"], CAPABILITIES["CAP_SYS_ADMIN"], CAPABILITIES["CAP_SETFCAP"]) == (0, 21, 31)
    assert CAPABILITIES["CAP_CHECKPOINT_RESTORE"] == 40 == len(CAPABILITIES) - 1


def test_names_make_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["CAP_CHOWN", "CAP_NONE", "CAP_BPF", "cap_kill", "CAP_NONE"]
    assert capabilities.mask(names) == (1 | 1 << 39, ["CAP_NONE", "cap_kill"])
    monkeypatch.setattr(capabilities, "_last", 38)
    assert capabilities.mask(names) == (1, ["CAP_NONE", "CAP_BPF", "cap_kill"])


def test_the_kernels_last_is_known() -> None:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        assert capabilities.last_capability() == int(file.read())


@root
def test_sets_of_a_process() -> None:
    def child() -> None:
        bounding = sets()["Bnd"]
        capabilities.drop_bounding(bounding & ~NET_RAW | 1 << 62)
        assert sets()["Bnd"] == bounding & ~NET_RAW
        capabilities.set_capabilities(KILL, KILL | CHOWN, KILL)
        assert sets() == {"Inh": KILL, "Prm": KILL | CHOWN, "Eff": KILL, "Bnd": bounding & ~NET_RAW, "Amb": 0}
        capabilities.set_ambient(KILL | CHOWN)  # CHOWN is not inheritable
        assert sets()["Amb"] == KILL
        capabilities.set_ambient(0)
        assert sets()["Amb"] == 0
        with pytest.raises(PermissionError):
            capabilities.set_capabilities(NET_RAW, NET_RAW, 0)
        capabilities.drop_bounding(bounding & ~NET_RAW)  # nothing to drop: no CAP_SETPCAP is needed
        with pytest.raises(PermissionError):
            capabilities.drop_bounding(0)

    in_child(child)


@root
def test_the_upper_half_of_a_mask() -> None:
    def child() -> None:
        upper = int(status("CapPrm"), 16) & ~0xFFFFFFFF
        assert upper
        capabilities.set_capabilities(upper, upper, 0)
        assert (sets()["Eff"], sets()["Prm"]) == (upper, upper)

    in_child(child)


@root
@pytest.mark.parametrize("keep", [True, False])
def test_what_a_change_of_user_leaves(keep: bool) -> None:
    def child() -> None:
        capabilities.keep_capabilities(not keep)
        capabilities.keep_capabilities(keep)
        permitted = sets()["Prm"]
        os.setresuid(1000, 1000, 1000)
        assert sets()["Prm"] == (permitted if keep else 0)

    in_child(child)
