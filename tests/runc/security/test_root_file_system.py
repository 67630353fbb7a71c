"""Images and volumes that lead the runtime elsewhere: links, races, device nodes, masked paths, /proc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runc.differential.cases import MOUNTS
from tests.runc.security.laboratory import Laboratory

_SHOW = ["/bin/cat", "/proc/self/mountinfo"]


def _mount_points(text: str) -> list[str]:
    return [line.split(" ")[4] for line in text.splitlines()]


def _shared(laboratory: Laboratory, mounts: list[dict[str, Any]]) -> tuple[Path, str]:
    """Return a bundle with a directory that another container writes to, and the exchange that this one makes there."""
    bundle = laboratory.bundle({"mounts+": mounts, "process.args": _SHOW})
    (bundle / "rootfs/shared/target").mkdir(parents=True)
    link = bundle / "rootfs/shared/link"
    link.symlink_to(bundle / "host")
    return bundle, f"between_steps={bundle / 'rootfs/shared/target'}:{link}"


@pytest.mark.parametrize("without", [(), ("descriptors",)])
def test_mount_target_exchanged_for_a_link(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    """CVE-2021-30465: the file system must not be mounted where the link leads."""
    mount = {"destination": "/shared/target", "type": "tmpfs", "source": "tmpfs"}
    bundle, exchange = _shared(laboratory, [mount])
    report = bundle / "mountinfo"
    outcome = laboratory.run(bundle, without=[*without, exchange, f"reporting_mounts={report}"])
    assert (bundle / "rootfs/shared/target").is_symlink(), "the exchange did not happen"
    escaped = str(bundle / "host") in _mount_points(report.read_text())
    assert escaped == bool(without), (outcome.answer, report.read_text())


@pytest.mark.parametrize("what", ["directory", "file"])
@pytest.mark.parametrize("without", [(), ("descriptors",)])
def test_mount_target_made_where_a_link_leads(laboratory: Laboratory, without: tuple[str, ...], what: str) -> None:
    """CVE-2024-45310: nothing is made on the host, be it as empty as it may."""
    mount: dict[str, Any] = {"destination": "/shared/target/made", "type": "tmpfs", "source": "tmpfs"}
    if what == "file":
        mount = {"destination": "/shared/target/made", "type": "bind", "source": "/etc/hostname", "options": ["bind"]}
    bundle, exchange = _shared(laboratory, [mount])
    laboratory.run(bundle, without=[*without, exchange])
    assert (bundle / "rootfs/shared/target").is_symlink(), "the exchange did not happen"
    assert (bundle / "host/made").exists() == bool(without)
    assert laboratory.canary(bundle) == "alive"


def test_racing_with_real_exchanges(laboratory: Laboratory) -> None:
    """The same by chance, twenty times: a second container exchanges the names as fast as it can."""
    mounts = [
        {"destination": "/shared/target", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/shared/target/below/it", "type": "tmpfs", "source": "tmpfs"},
    ]
    bundle, _exchange = _shared(laboratory, mounts)
    shared = bundle / "rootfs/shared"
    racer = laboratory.bundle(
        {
            "process.args": ["/attacker", "exchange", "/shared/target", "/shared/link", "20"],
            "mounts+": [{"destination": "/shared", "type": "bind", "source": str(shared), "options": ["bind"]}],
        }
    )
    steps: list[Any] = ["create", "start"]
    for number in range(20):
        steps += [
            {"create": True, "bundle": str(bundle), "id": f"{laboratory.name}-{number}", "may_fail": True},
            "delete_last",
        ]
    outcome = laboratory.run(racer, without=[f"reporting_mounts={bundle / 'mountinfo'}"], steps=steps)
    assert not outcome.answer.get("traceback"), outcome.answer["traceback"]
    assert sorted(os.listdir(bundle / "host")) == ["canary"], outcome.answer
    assert str(bundle / "host") not in _mount_points((bundle / "mountinfo").read_text())
    assert all("\n" not in error for error in outcome.answer["failures"]), outcome.answer["failures"]


@pytest.mark.parametrize("path", ["proc", "sys"])
@pytest.mark.parametrize("without", [(), ("ordinary_directory",)])
def test_proc_and_sys_as_links(laboratory: Laboratory, without: tuple[str, ...], path: str) -> None:
    """CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: a /proc that the image moves elsewhere is not the real one."""
    bundle = laboratory.bundle(
        {"process.args": ["/bin/cat", "/elsewhere/self/mountinfo"], "linux.maskedPaths": [], "linux.readonlyPaths": []},
        {path: "-> /elsewhere", "elsewhere/": ""},
    )
    outcome = laboratory.run(bundle, without=without)
    if without:
        points = _mount_points(outcome.output)
        assert path == "sys" or "/elsewhere" in points, (outcome.answer, outcome.output)
        assert not outcome.error
    else:
        assert outcome.is_clear and "must be mounted on an ordinary directory" in outcome.error, outcome.answer


@pytest.mark.parametrize("without", [(), ("proc_checks",)])
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_other_things_mounted_on_proc(laboratory: Laboratory, kind: str, without: tuple[str, ...]) -> None:
    """CVE-2019-16884: an image's volume at /proc takes the place of the real one."""
    bundle = laboratory.bundle({"process.args": ["/bin/cat", "/proc/self/attr/exec"], "linux.maskedPaths": []})
    fake = bundle / "fake"
    (fake / "self/attr").mkdir(parents=True)
    (fake / "self/attr/exec").write_text("fake")
    mount = {"destination": "/proc", "type": kind, "source": str(fake), "options": ["rbind"] if kind == "bind" else []}
    changes = {
        "mounts": [mount, *(each for name, each in MOUNTS.items() if name != "proc")],
        "linux.maskedPaths": [],
        "linux.readonlyPaths": [],
        "process.args": ["/bin/cat", "/proc/self/attr/exec"],
    }
    outcome = laboratory.run(laboratory.bundle(changes), without=without)
    if without:
        assert not outcome.error and (kind == "tmpfs" or outcome.output == "fake"), outcome.answer
    else:
        assert outcome.is_clear and "not of type proc" in outcome.error, outcome.answer


@pytest.mark.parametrize("without", [(), ("proc_descriptor",)])
def test_label_written_to_a_file_of_the_image(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    """CVE-2019-16884: an image with files in /proc, which is not mounted, would have a container run unconfined."""
    changes = {
        "mounts": [each for name, each in MOUNTS.items() if name != "proc"],
        "linux.maskedPaths": [],
        "linux.readonlyPaths": [],
        "process.selinuxLabel": "system_u:system_r:container_t:s0",
        "process.args": ["/bin/cat", "/proc/self/attr/exec"],
    }
    outcome = laboratory.run(laboratory.bundle(changes, {"proc/self/attr/exec": "fake"}), without=without)
    if without:
        assert "container_t" in outcome.output, outcome.answer
    else:
        assert outcome.is_clear and "selinux label" in outcome.error, outcome.answer


@pytest.mark.parametrize("without", [(), ("proc_descriptor",)])
def test_sysctl_written_to_a_file_of_the_image(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    """CVE-2025-52881: what leads elsewhere in the image's own /proc is not written to."""
    changes = {
        "mounts": [each for name, each in MOUNTS.items() if name != "proc"],
        "linux.maskedPaths": [],
        "linux.readonlyPaths": [],
        "linux.sysctl": {"kernel.msgmax": "4242"},
        "process.args": ["/bin/cat", "/victim"],
    }
    files = {"victim": "untouched", "proc/sys/kernel/msgmax": "-> /victim"}
    outcome = laboratory.run(laboratory.bundle(changes, files), without=without)
    assert (outcome.output, outcome.error) == ("4242" if without else "untouched", "")


def test_sysctl_redirected_by_a_mount(laboratory: Laboratory) -> None:
    """CVE-2025-52881: the parameter is set, whatever is mounted over its file in the namespace that we come from."""
    changes = {"linux.sysctl": {"kernel.msgmax": "4242"}, "process.args": ["/bin/cat", "/proc/sys/kernel/msgmax"]}
    bundle = laboratory.bundle(changes)
    victim = bundle / "victim"
    victim.write_text("untouched")
    outcome = laboratory.run(bundle, without=[f"overmounted_proc={victim}:/proc/sys/kernel/msgmax"])
    assert (outcome.output, victim.read_text()) == ("4242\n", "untouched"), outcome.answer


@pytest.mark.parametrize("without", [[], ["proc_resolution"]])
def test_proc_file_under_a_mount(laboratory: Laboratory, without: list[str]) -> None:
    """CVE-2025-52881, without a container: a file of /proc that something else is mounted over is not written to."""
    victim = laboratory.bundle() / "victim"
    victim.write_text("untouched")
    code = f"""
import sys
from tests.runc.security import defences
defences.overmounted_proc("{victim}:/proc/sys/kernel/msgmax")
for name in {without!r}:
    getattr(defences, name)()
defences.host_proc.HostProc().write("sys/kernel/msgmax", "4242")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert (ran.returncode, victim.read_text()) == ((0, "4242uched") if without else (1, "untouched")), ran.stderr
    assert without or "Invalid cross-device link" in ran.stderr


@pytest.mark.parametrize("without", [(), ("own_null",)])
def test_masked_path_covered_by_a_link(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    """CVE-2025-31133: a /dev/null of the image's that leads to a file of /proc would be laid over a masked one."""
    bundle = laboratory.bundle()
    dev = bundle / "dev"
    dev.mkdir()
    (dev / "null").symlink_to("/proc/sys/kernel/hostname")
    changes = {
        "mounts": [MOUNTS["proc"], {"destination": "/dev", "type": "bind", "source": str(dev), "options": ["rbind"]}],
        "linux.maskedPaths": ["/proc/timer_list"],
        "linux.readonlyPaths": [],
        "process.args": [
            "/bin/sh",
            "-c",
            "cat /proc/timer_list; echo taken > /proc/timer_list; cat /proc/sys/kernel/hostname",
        ],
    }
    outcome = laboratory.run(laboratory.bundle(changes), without=without)
    expected = "probed\ntaken\n" if without else "probed\n"
    assert outcome.output == expected, (outcome.answer, outcome.output)


def test_missing_null_masks_nothing_less(laboratory: Laboratory) -> None:
    """CVE-2025-31133, the second way: without a /dev/null of the container's the mask is there all the same."""
    bundle = laboratory.bundle()
    (bundle / "dev").mkdir()
    changes = {
        "mounts": [
            MOUNTS["proc"],
            {"destination": "/dev", "type": "bind", "source": str(bundle / "dev"), "options": ["rbind"]},
        ],
        "process.args": ["/bin/cat", "/proc/timer_list"],
    }
    outcome = laboratory.run(laboratory.bundle(changes))
    assert (outcome.output, outcome.error) == ("", "")


@pytest.mark.parametrize("without", [(), ("terminal_by_descriptor",)])
def test_terminal_of_a_false_devpts(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    """CVE-2025-52565: a /dev/pts of the image's would have a file of its choice bound to /dev/console."""
    bundle = laboratory.bundle()
    dev = bundle / "dev"
    (dev / "pts").mkdir(parents=True)
    (dev / "console").touch()
    (dev / "pts/ptmx").symlink_to("/proc/uptime")
    (dev / "pts/0").symlink_to(bundle / "host/canary")
    changes = {
        "mounts": [MOUNTS["proc"], {"destination": "/dev", "type": "bind", "source": str(dev), "options": ["rbind"]}],
        "process.terminal": True,
        "process.args": ["/bin/true"],
    }
    bundle = laboratory.bundle(changes)
    (dev / "pts/0").unlink()
    (dev / "pts/0").symlink_to(bundle / "host/canary")
    if without:
        (dev / "pts/ptmx").unlink()
        (dev / "pts/ptmx").symlink_to("/dev/null")
    outcome = laboratory.run(bundle, without=without, console=True)
    if without:
        assert not outcome.error, outcome.answer  # the file of the host's has become its terminal
    else:
        assert outcome.is_clear and "not devpts' own" in outcome.error, outcome.answer


@pytest.mark.parametrize("without", [(), ("descriptors",)])
@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_console_as_a_link_to_the_host(laboratory: Laboratory, without: tuple[str, ...], kind: str) -> None:
    """CVE-2025-52565: where /dev/console is a link, the terminal is bound to what it names in the image, if to any."""
    bundle = laboratory.bundle()
    host = bundle / "host"
    changes = {
        "mounts": [mount for name, mount in MOUNTS.items() if name not in ("dev", "shm", "mqueue")],
        "process.terminal": True,
        "process.args": ["/bin/true"],
        "root.path": str(bundle / "rootfs"),
    }
    link = str(host / "made") if kind == "absolute" else f"../../../../../..{host}/made"
    (bundle / "rootfs/dev/console").symlink_to(link)
    (bundle / "rootfs/dev/pts").mkdir()
    outcome = laboratory.run(laboratory.bundle(changes), without=without, console=True)
    assert (host / "made").exists() == bool(without), outcome.answer
    assert without or not outcome.error or outcome.is_clear, outcome.answer


@pytest.mark.parametrize("without", [(), ("reopening",)])
def test_terminal_of_an_exec_named_by_a_false_proc(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    """CVE-2025-52881: a container that covers its /proc does not choose what an exec opens with all capabilities."""
    links = "for i in 3 4 5 6 7 8 9 10 11 12; do ln -s /tmp/victim /proc/self/fd/$i; done"
    script = (
        f"mount -t tmpfs t /proc && mkdir -p /proc/self/fd && {links}; echo > /tmp/victim; echo ready; exec sleep 20"
    )
    changes = {
        "process.args": ["/bin/sh", "-c", script],
        "process.capabilities": {kind: ["CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")},
    }
    bundle = laboratory.bundle(changes)
    for name in ("ln", "mkdir"):
        os.link(laboratory.busybox, bundle / "rootfs/bin" / name)
    process = {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "terminal": True}
    steps = ["create", "start", {"await": "ready"}, {"exec": process, "output": str(bundle / "exec.output")}]
    outcome = laboratory.run(bundle, without=without, steps=steps)
    assert ("ioctl" in outcome.error) == bool(without), outcome.answer
    assert without or not outcome.error


@pytest.mark.parametrize("how", ["without proc", "with links in its place"])
def test_read_only_mount_in_an_image_with_its_own_proc(laboratory: Laboratory, how: str) -> None:
    """What is to be read-only at last is not found by a name below the container's /proc."""
    changes = {
        "mounts": [{"destination": "/data", "type": "tmpfs", "source": "t", "options": ["ro"]}, MOUNTS["dev"]],
        "linux.maskedPaths": [],
        "linux.readonlyPaths": [],
        "process.args": ["/bin/sh", "-c", "echo > /data/written && echo written"],
    }
    files = {f"proc/self/fd/{number}": "-> /dev" for number in range(3, 20)} if how != "without proc" else {}
    outcome = laboratory.run(laboratory.bundle(changes, {**files}))
    assert "Read-only" in outcome.output and "written\n" not in outcome.output, (outcome.answer, outcome.output)
