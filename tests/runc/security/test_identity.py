"""Who a container's process is, and what it is apart from: users, groups, capabilities, namespaces, cgroups."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import COMMANDS
from tests.runc.security.laboratory import Laboratory
from wherry.errors import InvalidArgument, NotFound
from wherry.oci.spec import default_spec
from wherry.oci.user import resolve

_KINDS = ("ipc", "mnt", "net", "pid", "uts")
_PASSWD = b"root:x:0:0::/root:/bin/sh\nuser:x:1000:2000::/home/user:/bin/sh\n"
_GROUP = b"root:x:0:\nhidden:x:2000:\n"


@pytest.mark.parametrize("without", [(), ("groups",)])
@pytest.mark.parametrize("user", ["1000:2000", "user", "user:hidden"])
def test_groups_that_deny(laboratory: Laboratory, user: str, without: tuple[str, ...]) -> None:
    """CVE-2023-25173: who gives up its own group by a program of another one still belongs to it."""
    document = {**resolve(user, _PASSWD, _GROUP).to_json()}
    changes = {"process.user": document, "process.args": ["/of-group", "read", "/secret"]}
    bundle = laboratory.bundle(changes, {"secret": "secret", "of-group": laboratory.attacker.read_bytes()})
    secret, program = bundle / "rootfs/secret", bundle / "rootfs/of-group"
    os.chown(secret, 0, 2000)
    secret.chmod(0o604)
    os.chown(program, 0, 3000)
    program.chmod(0o2755)
    outcome = laboratory.run(bundle, without=without)
    assert outcome.output.startswith("read secret" if without else "refused Permission"), outcome.output


_LARGE = [
    "2147483648",
    "4294967294",
    "4294967295",
    "4294967296",
    "4294968296",
    "18446744073709551616",
    "-1",
    "9" * 5000,
]


@pytest.mark.parametrize("number", _LARGE)
def test_large_numbers_of_users(number: str) -> None:
    """CVE-2024-40635: a number that is too large for an id is refused, and never becomes root's."""
    for text in (number, f"{number}:{number}", f"{number}:1000"):
        try:
            user = resolve(text, b"root:x:0:0::/:/bin/sh\n", b"root:x:0:\n")
        except (InvalidArgument, NotFound):
            continue
        assert user.uid == int(number) > 0, text


@pytest.mark.parametrize("field", ["uid", "gid", "additionalGids"])
@pytest.mark.parametrize(
    ("number", "root_without"), [(-1, True), ((1 << 32) - 1, True), (1 << 32, False), (1 << 63, False)]
)
def test_numbers_that_mean_something_else(laboratory: Laboratory, field: str, number: int, root_without: bool) -> None:
    """CVE-2024-40635 in the runtime: to setresuid(2) the last number means "as it is", which is root."""
    user = {"uid": 1000, "gid": 1000, field: [number] if field == "additionalGids" else number}
    bundle = laboratory.bundle({"process.user": user, "process.args": ["/attacker", "ids"]})
    outcome = laboratory.run(bundle)
    assert outcome.is_clear and field in outcome.error, outcome.answer
    if field == "additionalGids" or not root_without:
        return
    ids = laboratory.run(bundle, without=["id_range"]).output.split()[1].split(":")
    assert ids[("uid", "gid").index(field)] == "0", ids


@pytest.mark.parametrize("inheritable", [False, True])
def test_inheritable_capabilities(laboratory: Laboratory, inheritable: bool) -> None:
    """CVE-2022-24769, CVE-2022-29162: a file with inheritable capabilities gives a user none with our defaults."""
    sets = dict(default_spec("default", "c")["process"]["capabilities"])
    assert not sets.get("inheritable") and not sets.get("ambient")
    if inheritable:  # the positive control: as the defaults of those engines were
        sets["inheritable"] = sets["bounding"]
    changes = {
        "process.user": {"uid": 1000, "gid": 1000},
        "process.capabilities": sets,
        "process.args": ["/bin/grep", "CapPrm", "/proc/self/status"],
    }
    bundle = laboratory.bundle(changes)
    program = bundle / "rootfs/bin/grep"
    program.write_bytes(laboratory.busybox.read_bytes())
    program.chmod(0o755)
    # struct vfs_cap_data of revision 2, capabilities(7): CAP_DAC_OVERRIDE inheritable, effective.
    os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, 0, 1 << 1, 0, 0))
    permitted = int(laboratory.run(bundle).output.split()[1], 16)
    assert (permitted != 0) == inheritable


_SCRIPT = "for kind in " + " ".join(_KINDS) + "; do readlink /proc/self/ns/$kind; done"


@pytest.mark.parametrize("without", [(), ("new_namespaces",)])
def test_long_configuration_leaves_the_namespaces_alone(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    """CVE-2021-43784: there is no message of the configuration to the process whose length could overflow."""
    changes = {
        "hostname": None,
        "process.args": ["/bin/sh", "-c", _SCRIPT],
        "process.env": [f"A{number}={'x' * 66000}" for number in range(20)],
        "annotations": {"a" * 70000: "b" * 70000},
        "mounts+": [
            {"destination": f"/{'m/' * 500}{number}", "type": "tmpfs", "source": "x" * 4000} for number in range(10)
        ],
    }
    outcome = laboratory.run(laboratory.bundle(changes), without=without)
    host = [os.readlink(f"/proc/self/ns/{kind}") for kind in _KINDS]
    shared = [kind for kind, theirs, ours in zip(_KINDS, outcome.output.split(), host, strict=True) if theirs == ours]
    assert shared == (["ipc", "net", "pid", "uts"] if without else []), outcome.answer


@pytest.mark.parametrize("name", ["uidMappings", "gidMappings"])
def test_long_maps(laboratory: Laboratory, name: str) -> None:
    """CVE-2021-43784: more than 64 KiB of id maps, the field in which it was."""
    one = [{"containerID": 0, "hostID": 100000, "size": 1}]
    many = [{"containerID": number, "hostID": 100000 + number, "size": 1} for number in range(8000)]
    changes: dict[str, Any] = {
        "linux.namespaces+": [{"type": "user"}],
        "linux.uidMappings": one,
        "linux.gidMappings": one,
    }
    outcome = laboratory.run(laboratory.bundle({**changes, f"linux.{name}": many}))
    assert outcome.is_clear and "id_map" in outcome.error, outcome.answer


_CGROUPS = "/sys/fs/cgroup"
_V2 = Path(_CGROUPS, "cgroup.controllers").exists()
_CGROUP_MOUNT = {
    "destination": _CGROUPS,
    "type": "cgroup",
    "source": "cgroup",
    "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
}


@pytest.mark.parametrize("without", [(), ("own_cgroup",)])
def test_host_cgroups_out_of_reach(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    """CVE-2023-25809: without a cgroup namespace, a container sees its own cgroup alone, and cannot write to it."""
    made = f"{laboratory.name}-attack"
    top = _CGROUPS if _V2 else f"{_CGROUPS}/pids"
    script = f"cd {top} && ls -d {laboratory.name}*; mkdir {made} && echo made; rmdir {made}; true"
    capabilities = {kind: ["CAP_DAC_OVERRIDE"] for kind in ("bounding", "effective", "permitted")}
    changes = {
        "process.args": ["/bin/sh", "-c", script],
        "process.capabilities": capabilities,
        "mounts+": [_CGROUP_MOUNT],
    }
    bundle = laboratory.bundle(changes)
    for name in ("mkdir", "rmdir"):
        os.link(laboratory.busybox, bundle / "rootfs/bin" / name)
    output = laboratory.run(bundle, without=without).output
    assert ("made\n" in output, "Read-only" not in output) == (bool(without), bool(without)), output


@pytest.mark.parametrize("without", [(), *([("own_cgroup_namespace",)] if _V2 else [])])
def test_cgroup_namespace_of_another_user_namespace(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    """CVE-2023-25809: where the container may not mount its hierarchy, it is not given the host's."""
    ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    changes = {
        "linux.namespaces+": [{"type": "user"}, {"type": "cgroup", "path": "/proc/self/ns/cgroup"}],
        "linux.uidMappings": ids,
        "linux.gidMappings": ids,
        "mounts+": [_CGROUP_MOUNT],
        "process.args": ["/bin/ls", _CGROUPS],
    }
    outcome = laboratory.run(laboratory.bundle(changes), without=without)
    if without:
        assert laboratory.name in outcome.output, outcome.answer
    else:
        assert outcome.is_clear and "cgroup" in outcome.error, outcome.answer


def test_capabilities_of_the_command_are_not_inheritable(laboratory: Laboratory) -> None:
    """CVE-2022-29162: `exec --cap` gives none that a file could hand on."""
    command: list[str | Path] = [COMMANDS / "wherry-runc", "--root", laboratory.root]
    bundle = laboratory.bundle({"process.args": ["/attacker", "sleep", "30"]})
    os.link(laboratory.busybox, bundle / "rootfs/bin/grep")
    name = f"{laboratory.name}-{bundle.name}"
    subprocess.run([*command, "run", "--detach", "--bundle", bundle, name], stdout=subprocess.DEVNULL, check=True)
    try:
        words = ["exec", "--cap", "CAP_DAC_OVERRIDE", name, "/bin/grep", "Cap", "/proc/self/status"]
        printed = subprocess.run([*command, *words], capture_output=True, text=True, check=True).stdout
    finally:
        subprocess.run([*command, "delete", "--force", name], check=True)
    sets = {line.split(":")[0]: int(line.split()[1], 16) for line in printed.splitlines()}
    assert sets["CapInh"] == sets["CapAmb"] == 0 and sets["CapEff"] & 1 << 1, printed
