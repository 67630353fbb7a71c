"""mount.py against the kernel, in a mount namespace of the test process's child, so that nothing can stay behind."""

from __future__ import annotations

import errno
import os
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from wherry.linux import mount as m
from wherry.linux.mount import Mount

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


def in_namespace(function: Callable[[], None]) -> None:
    """Run function in a forked child with its own mount namespace; its failure is this one's."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            m.enter_private_namespace()
            function()
            status = 0
        except BaseException:
            os.write(write, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(write)
    with open(read, "rb") as pipe:
        report = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    assert status == 0, report


def mount_options(path: Path) -> set[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[4] == str(path):
            return set(fields[5].split(",")) | {field.split(":")[0] for field in fields[6 : fields.index("-")]}
    raise AssertionError(f"{path} is no mount point")


def is_mounted(path: Path) -> bool:
    return any(line.split(" ")[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def test_options_are_split_into_flags_propagation_and_data() -> None:
    assert m.parse_options(["rbind", "ro"]) == (m.MS_BIND | m.MS_REC | m.MS_RDONLY, 0, "")
    assert m.parse_options(["ro", "rw", "nosuid", "suid", "nodev"]) == (m.MS_NODEV, 0, "")
    assert m.parse_options(["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"]) == (
        0,
        0,
        "index=off,workdir=/w,upperdir=/u,lowerdir=/a:/b",
    )
    assert m.parse_options(["bind", "rprivate"]) == (m.MS_BIND, m.MS_PRIVATE | m.MS_REC, "")
    assert m.parse_options(["shared", "slave", "defaults"]) == (0, m.MS_SLAVE, "")
    assert m.parse_options(["mode=755", "size=64k"]) == (0, 0, "mode=755,size=64k")


def test_read_only_forms() -> None:
    overlay = Mount("overlay", "overlay", ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"])
    assert m.read_only([overlay]) == [Mount("overlay", "overlay", ["index=off", "lowerdir=/u:/a:/b", "ro"])]
    assert m.read_only([Mount("bind", "/x", ["rw", "rbind"])]) == [Mount("bind", "/x", ["rbind", "ro"])]


def test_bind_takes_its_flags(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()

    def check() -> None:
        m.mount_one(Mount("bind", str(source), ["rbind", "ro", "nosuid", "shared"]), str(target))
        assert {"ro", "nosuid", "shared"} <= mount_options(target)
        with pytest.raises(OSError, match="Read-only"):
            (target / "x").touch()
        (source / "x").touch()
        assert (target / "x").exists()
        m.mount_one(Mount("", "", ["remount", "bind", "rw"]), str(target))
        (target / "y").touch()
        m.umount(str(target))
        m.mount_one(Mount("bind", str(source), ["bind", "rprivate"]), str(target))
        assert "shared" not in mount_options(target)

    in_namespace(check)
    assert not is_mounted(target)


def test_a_failing_list_leaves_nothing(tmp_path: Path) -> None:
    def check() -> None:
        with pytest.raises(OSError) as caught:
            m.mount_all(
                [
                    Mount("tmpfs", "tmpfs", ["size=64k", "mode=711"]),
                    Mount("bind", str(tmp_path / "absent"), ["rbind"]),
                ],
                str(tmp_path),
            )
        assert caught.value.errno == errno.ENOENT
        assert caught.value.filename == str(tmp_path / "absent")
        assert not is_mounted(tmp_path)

    in_namespace(check)


def test_unmount_all_takes_off_every_layer(tmp_path: Path) -> None:
    def check() -> None:
        for _ in range(3):
            m.mount_one(Mount("tmpfs", "tmpfs"), str(tmp_path))
        with open(tmp_path / "busy", "w"):
            with pytest.raises(OSError) as caught:
                m.unmount_all(str(tmp_path))
            assert caught.value.errno == errno.EBUSY
            m.unmount_all(str(tmp_path), m.MNT_DETACH)
        assert not is_mounted(tmp_path)
        m.unmount_all(str(tmp_path))
        m.unmount_all(str(tmp_path / "absent"))

    in_namespace(check)


@pytest.mark.parametrize("count", [2, 3, 120])
def test_overlay_of_many_layers(tmp_path: Path, count: int) -> None:
    """120 lower directories under pytest's long paths are well over a page of options."""
    lowers = []
    for number in range(count):
        lower = tmp_path / "snapshots" / str(number) / "fs"
        lower.mkdir(parents=True)
        (lower / str(number)).touch()
        lowers.append(str(lower))
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    what = Mount(
        "overlay",
        "overlay",
        ["index=off", f"workdir={tmp_path}/work", f"upperdir={tmp_path}/upper", "lowerdir=" + ":".join(lowers)],
    )

    def check() -> None:
        before = os.getcwd()
        m.mount_one(what, str(tmp_path / "merged"))
        assert os.getcwd() == before
        assert len(os.listdir(tmp_path / "merged")) == count
        (tmp_path / "merged" / "new").touch()
        assert (tmp_path / "upper" / "new").exists()

    in_namespace(check)


def test_options_over_a_page_are_refused(tmp_path: Path) -> None:
    def check() -> None:
        with pytest.raises(OSError) as caught:
            m.mount_one(Mount("tmpfs", "tmpfs", ["x" * 5000]), str(tmp_path))
        assert caught.value.errno == errno.E2BIG

    in_namespace(check)


def test_targets_stay_below_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "inside").mkdir(parents=True)
    outside.mkdir()
    (root / "escape").symlink_to("../outside")
    (root / "absolute").symlink_to("/inside")

    def check() -> None:
        with pytest.raises(OSError):
            m.mount_one(Mount("tmpfs", "tmpfs", [], "escape"), str(root))
        m.mount_one(Mount("tmpfs", "tmpfs", [], "/absolute/../inside"), str(root))
        assert is_mounted(root / "inside")
        assert not is_mounted(outside)

    in_namespace(check)


def test_temporary_mount_goes_with_its_context(tmp_path: Path) -> None:
    def check() -> None:
        with m.TemporaryMount([Mount("tmpfs", "tmpfs")], str(tmp_path)) as root:
            assert is_mounted(Path(root))
            straggler = os.open(f"{root}/x", os.O_CREAT | os.O_WRONLY)
        assert not os.path.exists(root)
        os.close(straggler)
        with pytest.raises(OSError), m.TemporaryMount([Mount("bind", "/absent")], str(tmp_path)):
            raise AssertionError
        assert os.listdir(tmp_path) == []

    in_namespace(check)


def test_loop_option(tmp_path: Path) -> None:
    image, target = tmp_path / "image", tmp_path / "target"
    target.mkdir()
    with image.open("wb") as file:
        file.truncate(4 << 20)
    made = subprocess.run(["mkfs.ext4", "-q", "-F", image], check=False, capture_output=True)
    if made.returncode != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("no mkfs.ext4 or no loop devices")

    def check() -> None:
        m.mount_one(Mount("ext4", str(image), ["loop", "ro", "nodev"]), str(target))
        assert (target / "lost+found").is_dir()
        assert {"ro", "nodev"} <= mount_options(target)
        m.umount(str(target))

    in_namespace(check)
    listed = subprocess.run(["losetup", "-j", image], check=True, capture_output=True, text=True)
    assert listed.stdout == ""
