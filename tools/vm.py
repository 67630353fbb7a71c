#!/usr/bin/env python3
"""Run a command on a Debian kernel with cgroup v2 and AppArmor, whatever the machine itself has.

    tools/vm.py COMMAND [ARGUMENT ...]

boots Debian's kernel in QEMU under software emulation, with this machine's own root file system below it: what the
command writes is gone with the virtual machine, except in the folder that WHERRY_VM_EXCHANGE names inside it (and
`--exchange` outside). Output and exit status are the command's. Needs qemu-system-x86, cpio, busybox-static and, for
the first run, apt-get.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
#: The kernel is unpacked here, once.
CACHE = TREE / ".cache/vm"
#: Depends on the present kernel of Debian's release. (The cloud flavour has no 9p.)
KERNEL_PACKAGE = "linux-image-amd64"
#: Without these there is no root file system; modules.dep names what else they need.
BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
#: What tests use without asking for it: modprobe is not run from inside a container.
GUEST_MODULES = (
    "veth",
    "bridge",
    "unix_diag",
    "tcp_diag",
    "udp_diag",
    "inet_diag",
    "af_packet_diag",
    "netlink_diag",
    "tun",
    "loop",
    "ext4",
)

#: Where the guest sees the exchange folder.
EXCHANGE = "/run/wherry-vm"
#: No time for what guards against neighbours that this machine does not have, and a clock that costs no exit to QEMU.
KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=-1 lsm=apparmor mitigations=off tsc=reliable nowatchdog audit=0"
#: What la57 adds is a fifth level of page tables to walk, in software.
CPU = "max,la57=off"

_INIT = """#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in {modules}; do
    modprobe $module || echo "vm: no module $module"
done
mkdir -p /lower /writable /root
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=524288,cache=loose hostroot /lower || exec sh
mount -t tmpfs -o size=75% writable /writable
mkdir /writable/upper /writable/work
mount -t overlay -o lowerdir=/lower,upperdir=/writable/upper,workdir=/writable/work root /root
# Over those of the machine below, whose /proc/self is QEMU.
mount -t proc proc /root/proc
mount -t sysfs sys /root/sys
mount -t devtmpfs dev /root/dev
mount -t tmpfs tmpfs /root/run
mkdir /root{exchange}
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 exchange /root{exchange}
exec switch_root /root /bin/sh {exchange}/guest
"""

_GUEST = """
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
mkdir -p /dev/pts /dev/shm /dev/mqueue
for link in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do ln -s /proc/self/${{link#*:}} /dev/${{link%:*}}; done
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
# An overlay is no upper layer of another: what daemons of tests write needs a file system of its own.
mkdir /run/root
mount --bind / /run/root
for folder in /tmp /mnt; do mount -t tmpfs tmpfs $folder; done
for place in {hidden}; do
    mkdir -p $place
    mount --bind /run/root$place $place
done
umount -l /run/root
rmdir /run/root
# What starts here is not in the root cgroup, so that controllers can be passed on.
mkdir /sys/fs/cgroup/init
echo $$ >/sys/fs/cgroup/init/cgroup.procs
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo +$controller >/sys/fs/cgroup/cgroup.subtree_control
done
busybox ip link set lo up
mkdir -p /lib/modules
[ -e /lib/modules/{release} ] || ln -s {modules} /lib/modules/{release}
[ -e /sbin/modprobe ] || ln -s /bin/busybox /sbin/modprobe
for module in {guest_modules}; do busybox modprobe $module; done
busybox stty -F /dev/ttyS1 raw
unset TMPDIR
export WHERRY_VM=1 WHERRY_VM_EXCHANGE={exchange}
"""

_RUN = """
cd {directory} && setsid sh {exchange}/command </dev/null >/dev/ttyS1 2>&1
echo $? >{exchange}/status
echo o >/proc/sysrq-trigger
# The end of the first process would be a panic, and nothing can be run any more.
while :; do read -r _ </dev/ttyS0; done
"""

#: Debian's systemd as the first process, in the root cgroup as it wants it, with nothing but a bus and the command.
_RUN_UNDER_SYSTEMD = """
echo $$ >/sys/fs/cgroup/cgroup.procs
rmdir /sys/fs/cgroup/init
mkdir -p /run/systemd/system
cat >/run/systemd/system/wherry-vm.service <<'END'
[Unit]
DefaultDependencies=no
Requires=dbus.service
After=dbus.service
[Service]
Type=oneshot
Delegate=yes
TimeoutStartSec=infinity
WorkingDirectory={directory}
Environment=WHERRY_VM=1 WHERRY_VM_EXCHANGE={exchange} HOME=/root TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/bin/sh -c 'sh {exchange}/command </dev/null >/dev/ttyS1 2>&1; echo $$? >{exchange}/status; \\
    echo o >/proc/sysrq-trigger'
END
cat >/run/systemd/system/wherry-vm.target <<'END'
[Unit]
DefaultDependencies=no
Wants=wherry-vm.service
END
mkdir -p /run/systemd/system/dbus.service.d /run/systemd/system/dbus.socket.d
for unit in service socket; do
    printf '[Unit]\\nDefaultDependencies=no\\n' >/run/systemd/system/dbus.$unit.d/small.conf
done
exec /lib/systemd/systemd --unit=wherry-vm.target --log-target=console --log-level=notice --show-status=no
"""


def _run(*command: str | Path, cwd: str | Path | None = None) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout


def kernel() -> tuple[Path, Path]:
    """Fetch and unpack Debian's kernel, unless that is done; its image, and the folder of its modules."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (CACHE / "kernel").exists():
            _fetch_kernel()
    (modules,) = (CACHE / "kernel/lib/modules").iterdir()
    return CACHE / f"kernel/boot/vmlinuz-{modules.name}", modules


def _fetch_kernel() -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        try:
            _download_kernel(directory)
        except (subprocess.CalledProcessError, StopIteration):
            # A machine that has no lists of packages yet, or those of a kernel that has been replaced since.
            _run("apt-get", "-qq", "update")
            _download_kernel(directory)
        (archive,) = Path(directory).glob("*.deb")
        unpacked = Path(directory, "kernel")
        _run("dpkg", "-x", archive, unpacked)
        (modules,) = (unpacked / "lib/modules").iterdir()
        _run("busybox", "depmod", "-b", unpacked, modules.name)
        unpacked.rename(CACHE / "kernel")


def _download_kernel(directory: str) -> None:
    depends = _run("apt-cache", "depends", "--no-recommends", "--no-suggests", KERNEL_PACKAGE)
    package = next(line.split()[1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    print(f"vm: fetching {package}", file=sys.stderr)
    # apt's own user can't write here.
    _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=directory)


def _needed(modules: Path, names: tuple[str, ...]) -> set[str]:
    """The files of modules, and of all that they depend on, relative to the folder of modules (modules.dep(5))."""
    depends = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        name, _, needs = line.partition(":")
        depends[name] = needs.split()
    files = {Path(name).name.removesuffix(".ko"): name for name in depends}
    found: set[str] = set()
    for name in names:
        if name in files:
            found |= {files[name], *depends[files[name]]}
    return found


def initramfs(modules: Path, folder: Path) -> Path:
    """Write the archive that the kernel unpacks as its first root: busybox, an init, and what the root needs."""
    root = folder / "initramfs"
    target = root / "lib/modules" / modules.name
    for name in _needed(modules, BOOT_MODULES):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(modules / name, target / name)
    for name in ("modules.dep", "modules.builtin", "modules.order"):
        shutil.copy(modules / name, target / name)
    for name in ("bin", "proc", "dev", "sys"):
        (root / name).mkdir(exist_ok=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, root / "bin/busybox")
    for applet in ("sh", "mount", "modprobe", "mkdir", "switch_root", "echo"):
        (root / "bin" / applet).symlink_to("busybox")
    init = root / "init"
    init.write_text(_INIT.format(modules=" ".join(BOOT_MODULES), exchange=EXCHANGE))
    init.chmod(0o755)
    archive = folder / "initramfs.cpio"
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with open(archive, "wb") as out:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), cwd=root, stdout=out, check=True)
    return archive


def boot(image: Path, archive: Path, exchange: Path, console: Path, memory: int, cpus: int) -> list[str]:
    """The command line of the virtual machine; its second serial line is our standard output."""
    return [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", str(cpus), "-m", str(memory)),
        *("-display", "none", "-monitor", "none", "-no-reboot", "-net", "none"),
        *("-kernel", str(image), "-initrd", str(archive), "-append", KERNEL_ARGUMENTS),
        *("-serial", f"file:{console}", "-serial", "stdio"),
        *("-virtfs", "local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap"),
        *("-virtfs", f"local,path={exchange},mount_tag=exchange,security_model=none,multidevs=remap"),
    ]


@contextlib.contextmanager
def _exchange(named: Path | None) -> Iterator[Path]:
    if named is not None:
        named.mkdir(parents=True, exist_ok=True)
        yield named.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="wherry-vm-") as directory:
        yield Path(directory)


def _guest(modules: Path, systemd: bool) -> str:
    """The script that sets up the guest's root, runs the command, by itself or under systemd, and powers off."""
    here = Path.cwd()
    # The guest's own /tmp and /mnt would hide them.
    hidden = [place for place in {here, TREE} if place.is_relative_to("/tmp") or place.is_relative_to("/mnt")]
    script = _GUEST + (_RUN_UNDER_SYSTEMD if systemd else _RUN)
    return script.format(
        directory=shlex.quote(str(here)),
        exchange=EXCHANGE,
        guest_modules=" ".join(GUEST_MODULES),
        hidden=shlex.join(str(place) for place in hidden),
        modules=modules,
        release=modules.name,
    )


def _end_with_us() -> None:
    """Have the kernel end the virtual machine even if this program is killed (PR_SET_PDEATHSIG of prctl(2))."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def run(command: list[str], exchange: Path, memory: int, cpus: int, timeout: float, systemd: bool = False) -> int:
    """Boot, run a command with its output on ours, power off; the command's exit status, 125 if it did not end."""
    image, modules = kernel()
    (exchange / "guest").write_text(_guest(modules, systemd))
    (exchange / "command").write_text(f"exec {shlex.join(command)}\n")
    (exchange / "status").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="wherry-vm-boot-") as directory:
        folder = Path(directory)
        console = folder / "console"
        machine = subprocess.Popen(
            boot(image, initramfs(modules, folder), exchange, console, memory, cpus),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_us,
        )
        try:
            machine.wait(timeout)
        except subprocess.TimeoutExpired:
            print(f"vm: not done after {timeout:g} s; ended", file=sys.stderr)
        finally:
            machine.kill()
            machine.wait()
        try:
            return int((exchange / "status").read_text())
        except (FileNotFoundError, ValueError):
            sys.stderr.write(f"vm: the command did not end. The console:\n{console.read_text(errors='replace')}\n")
            return 125


def main() -> int:
    """Read the command line and run the command."""
    parser = argparse.ArgumentParser(
        description="Run a command on a Debian kernel with cgroup v2 and AppArmor, over this machine's root."
    )
    parser.add_argument("--memory", type=int, default=3072, metavar="MIB", help="of the virtual machine (3072)")
    parser.add_argument("--cpus", type=int, default=2, metavar="N", help="of the virtual machine (2)")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="then it is ended (900)")
    parser.add_argument("--systemd", action="store_true", help="with Debian's systemd as the first process, and D-Bus")
    parser.add_argument("--exchange", type=Path, metavar="FOLDER", help="shared with it, writable on both sides")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("name the command to run in the virtual machine")
    missing = [p for p in ("qemu-system-x86_64", "cpio", "busybox", "apt-get") if shutil.which(p) is None]
    if missing or os.geteuid() != 0:
        parser.error(f"needs root and {', '.join(missing or ['nothing else'])}: `make test-packages` installs them")
    # As after Ctrl-C, what was made is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with _exchange(arguments.exchange) as exchange:
        return run(arguments.command, exchange, arguments.memory, arguments.cpus, arguments.timeout, arguments.systemd)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
