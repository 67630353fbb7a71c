"""Mounts: types, options, propagation, targets and sources of every kind; read-only and masked paths."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.runc.differential.cases import DIR, HOST_ID, MASKED, MOUNTS, READ_ONLY, Case, bind, tmpfs, user_namespace

_FLAGS = (
    "ro rw nosuid suid nodev dev noexec exec sync async dirsync mand nomand noatime atime nodiratime diratime relatime"
    " norelatime strictatime nostrictatime lazytime nolazytime silent loud iversion noiversion symfollow"
)
_RECURSIVE = (
    "rro rrw rnosuid rsuid rnodev rdev rnoexec rexec rnodiratime rdiratime rrelatime rnorelatime rnoatime"
    " rstrictatime rsymfollow rnosymfollow"
)
_PROPAGATION = "private rprivate shared rshared slave rslave unbindable runbindable".split()
_SOURCES: dict[str, str] = {"data/": "", "data/file": "text", "file": "other"}


def _with(name: str, *mounts: dict[str, Any], asked: tuple[str, ...] = (), **others: Any) -> Case:
    """A case with mounts after those of the base."""
    return Case(f"mounts/{name}", {"mounts+": list(mounts)}, asked, {**_SOURCES, **others.pop("files", {})}, **others)


def _mounted(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


@contextlib.contextmanager
def _nested(bundle: Path, *, propagation: str = "", options: str = "rw") -> Iterator[None]:
    """Have `tree` a mount, with another one on `tree/below`."""
    top = bundle / "tree"
    _mounted("-t", "tmpfs", "-o", options, "outer", str(top))
    (top / "below").mkdir()
    (top / "file").write_text("outer")
    if propagation:
        _mounted(f"--make-{propagation}", str(top))
    _mounted("-t", "tmpfs", "inner", str(top / "below"))
    (top / "below/file").write_text("inner")
    try:
        yield
    finally:
        subprocess.run(["umount", "--recursive", top], check=True)


def _shared(bundle: Path) -> contextlib.AbstractContextManager[None]:
    return _nested(bundle, propagation="shared")


def _slave(bundle: Path) -> contextlib.AbstractContextManager[None]:
    return _nested(bundle, propagation="slave")


def _private(bundle: Path) -> contextlib.AbstractContextManager[None]:
    return _nested(bundle, propagation="private")


def _restricted(bundle: Path) -> contextlib.AbstractContextManager[None]:
    return _nested(bundle, options="nosuid,nodev,noexec,noatime")


@contextlib.contextmanager
def _root_is(bundle: Path, propagation: str) -> Iterator[None]:
    """Have the root file system a mount of its own."""
    _mounted("--bind", str(bundle / "rootfs"), str(bundle / "rootfs"))
    _mounted(f"--make-{propagation}", str(bundle / "rootfs"))
    try:
        yield
    finally:
        subprocess.run(["umount", bundle / "rootfs"], check=True)


def _root_shared(bundle: Path) -> contextlib.AbstractContextManager[None]:
    return _root_is(bundle, "shared")


def _base_with(name: str, **changes: Any) -> list[dict[str, Any]]:
    """The base's mounts with one of them changed."""
    return [{**mount, **(changes if key == name else {})} for key, mount in MOUNTS.items()]


_TREE: dict[str, str] = {"tree/": ""}

CASES = [
    Case("mounts/none", {"mounts": [], "linux.maskedPaths": [], "linux.readonlyPaths": []}, fails=True),
    Case("mounts/only-proc", {"mounts": [MOUNTS["proc"]]}),
    Case(
        "mounts/no-dev",
        {"mounts": [mount for name, mount in MOUNTS.items() if name not in ("dev", "pts", "shm", "mqueue")]},
    ),
    Case("mounts/pts-first", {"mounts": [MOUNTS["pts"], MOUNTS["dev"], MOUNTS["proc"]]}),
    Case("mounts/no-pts", {"mounts": [mount for name, mount in MOUNTS.items() if name != "pts"]}),
    Case("mounts/dev-read-only", {"mounts": _base_with("dev", options=["nosuid", "ro", "mode=755"])}, ("create:/dev",)),
    Case(
        "mounts/dev-bind",
        {"mounts": [MOUNTS["proc"], bind("devices", "/dev", "rbind")]},
        ("tree:/dev",),
        {"devices/": ""},
        fails=True,
    ),
    Case(
        "mounts/dev-of-the-host",
        {"mounts": [MOUNTS["proc"], {"destination": "/dev", "type": "bind", "source": "/dev", "options": ["bind"]}]},
        ("stat:/dev/null", "open:/dev/null"),
    ),
    Case(
        "mounts/proc-options",
        {"mounts": _base_with("proc", options=["nosuid", "noexec", "nodev", "ro"])},
        ("write:/proc/self/oom_score_adj",),
    ),
    Case("mounts/proc-hidepid", {"mounts": _base_with("proc", options=["hidepid=2"])}),
    Case(
        "mounts/sys-read-write",
        {"mounts": _base_with("sys", options=["nosuid", "noexec", "nodev"])},
        ("write:/sys/kernel/mm/ksm/run",),
    ),
    Case("mounts/proc-target-missing", {}, files={"rootfs/proc": None, "rootfs/sys": None, "rootfs/dev": None}),
    Case("mounts/proc-target-link", {}, files={"rootfs/proc": None, "rootfs/proc2/": "", "rootfs/linked": "-> /proc2"}),
    Case("mounts/proc-elsewhere", {"mounts+": [{"destination": "/other/proc", "type": "proc", "source": "proc"}]}),
    Case("mounts/over-proc", {"mounts+": [tmpfs("/proc")]}, fails=True, text=True),
    Case("mounts/below-proc", {"mounts+": [tmpfs("/proc/scsi")]}, fails=True),
    Case(
        "mounts/bind-on-proc-file",
        {"mounts+": [bind("file", "/proc/uptime")]},
        ("read:/proc/uptime",),
        {"file": "1 2\n"},
    ),
    Case(
        "mounts/bind-on-proc-other",
        {"mounts+": [bind("file", "/proc/version")]},
        files={"file": ""},
        fails=True,
        text=True,
    ),
    *(
        _with(f"tmpfs-{name}", tmpfs("/mnt", *options), asked=("stat:/mnt", "create:/mnt"))
        for name, options in {
            "plain": (),
            "size": ("size=1m",),
            "size-percent": ("size=10%",),
            "mode-owner": ("mode=0750", "uid=1000", "gid=2000"),
            "inodes": ("nr_inodes=100",),
            "twice": ("ro", "rw"),
            "other-order": ("rw", "ro"),
            "empty-option": ("", "nosuid"),
            "huge": ("huge=never",),
        }.items()
    ),
    *(_with(f"option-{flag}", tmpfs("/mnt", flag), asked=("create:/mnt",)) for flag in _FLAGS.split()),
    *(_with(f"bind-option-{flag}", bind("data", "/mnt", flag), asked=("create:/mnt",)) for flag in _FLAGS.split()[:18]),
    _with("tmpfs-several-options-in-one", tmpfs("/mnt", "nosuid,nodev,mode=711"), fails=True, text=True),
    _with("tmpfs-defaults", tmpfs("/mnt", "defaults"), fails=True, text=True),
    _with("tmpfs-unknown-option", tmpfs("/mnt", "nosuchoption"), fails=True, text=True),
    _with("tmpfs-bad-size", tmpfs("/mnt", "size=word"), fails=True, text=True),
    _with("unknown-type", {"destination": "/mnt", "type": "nosuchfs", "source": "none"}, fails=True, text=True),
    _with("no-type", {"destination": "/mnt", "source": "none"}, fails=True),
    _with("empty-type-bind", {"destination": "/mnt", "source": f"{DIR}/data", "options": ["bind"]}),
    _with("none-type-bind", {"destination": "/mnt", "type": "none", "source": f"{DIR}/data", "options": ["rbind"]}),
    _with(
        "bind-type-without-option",
        {"destination": "/mnt", "type": "bind", "source": f"{DIR}/data"},
        fails=True,
        text=True,
    ),
    _with("ramfs", {"destination": "/mnt", "type": "ramfs", "source": "ramfs", "options": ["mode=700"]}),
    _with("tmpfs-over-bind", bind("data", "/mnt"), tmpfs("/mnt", "ro"), asked=("create:/mnt",)),
    _with(
        "bind-over-tmpfs", tmpfs("/mnt"), bind("data", "/mnt/deep/er", "ro"), asked=("tree:/mnt", "create:/mnt/deep/er")
    ),
    _with("bind-directory", bind("data", "/home"), asked=("tree:/home", "create:/home")),
    _with("bind-file", bind("file", "/etc/passwd"), asked=("read:/etc/passwd", "write:/etc/passwd")),
    _with("bind-directory-on-missing", bind("data", "/a/b/c"), asked=("tree:/a",)),
    _with("bind-file-on-missing", bind("file", "/a/b/c"), asked=("tree:/a",)),
    _with("bind-file-on-directory", bind("file", "/home"), fails=True),
    _with("bind-directory-on-file", bind("data", "/etc/passwd"), fails=True),
    _with(
        "bind-relative-source",
        {"destination": "/mnt", "type": "bind", "source": "data", "options": ["bind"]},
        asked=("tree:/mnt",),
    ),
    _with("bind-missing-source", bind("nothing", "/mnt"), fails=True, text=True),
    _with("bind-source-link", bind("link", "/mnt"), asked=("tree:/mnt",), files={"link": "-> data"}),
    _with(
        "bind-socket",
        {"destination": "/run/zero", "type": "bind", "source": "/dev/zero", "options": ["bind"]},
        asked=("stat:/run/zero", "open:/run/zero"),
    ),
    _with("bind-with-data", bind("data", "/mnt", "bind", "size=1m")),
    _with("destination-relative", bind("data", "relative/place"), asked=("tree:/relative",)),
    _with("destination-dots", bind("data", "/home/../../../mnt/./x/"), asked=("tree:/mnt",)),
    _with("destination-double-slash", bind("data", "//mnt//x"), asked=("tree:/mnt",)),
    _with("destination-root", bind("data", "/"), fails=True),
    _with("destination-empty", tmpfs(""), fails=True),
    _with("target-link", bind("data", "/link"), asked=("tree:/home",), files={"rootfs/link": "-> /home/user"}),
    _with(
        "target-link-relative",
        bind("data", "/etc/link"),
        asked=("tree:/home",),
        files={"rootfs/etc/link": "-> ../home/user"},
    ),
    _with(
        "target-link-outside",
        bind("data", "/link/x"),
        asked=("tree:/home",),
        files={"rootfs/link": "-> ../../../../home"},
    ),
    _with(
        "target-link-dangling",
        bind("data", "/link"),
        asked=("tree:/made", "stat:/link"),
        files={"rootfs/link": "-> /made/here"},
    ),
    _with(
        "target-link-dangling-file",
        bind("file", "/link"),
        asked=("tree:/made", "stat:/link"),
        files={"rootfs/link": "-> /made/here"},
    ),
    _with(
        "target-link-chain",
        bind("data", "/one/x"),
        asked=("tree:/home",),
        files={"rootfs/one": "-> two", "rootfs/two": "-> /home/user"},
    ),
    _with("target-link-loop", bind("data", "/one"), files={"rootfs/one": "-> two", "rootfs/two": "-> one"}, fails=True),
    _with("target-through-file", bind("data", "/etc/passwd/x"), fails=True),
    _with(
        "target-link-to-host-absolute",
        bind("data", "/link"),
        asked=("tree:/link",),
        files={"rootfs/link": f"-> {DIR}/data"},
    ),
    _with("bind-recursive", bind("tree", "/mnt", "rbind"), asked=("tree:/mnt",), files=_TREE, around=_nested),
    _with("bind-not-recursive", bind("tree", "/mnt"), asked=("tree:/mnt",), files=_TREE, around=_nested),
    _with(
        "bind-recursive-read-only",
        bind("tree", "/mnt", "rbind", "ro"),
        asked=("create:/mnt", "create:/mnt/below"),
        files=_TREE,
        around=_nested,
    ),
    _with("bind-of-restricted", bind("tree", "/mnt", "rbind"), asked=("create:/mnt",), files=_TREE, around=_restricted),
    _with("bind-of-restricted-read-only", bind("tree", "/mnt", "rbind", "ro"), files=_TREE, around=_restricted),
    _with(
        "bind-of-restricted-loosened",
        bind("tree", "/mnt", "rbind", "exec", "dev", "suid"),
        files=_TREE,
        around=_restricted,
    ),
    *(
        _with(
            f"recursive-{flag}",
            bind("tree", "/mnt", "rbind", flag),
            asked=("create:/mnt", "create:/mnt/below"),
            files=_TREE,
            around=_nested,
        )
        for flag in _RECURSIVE.split()
    ),
    # runc 1.1 asks the kernel to clear one bit of the access time's mode, which is none: EINVAL.
    *(
        _with(
            f"recursive-{flag}",
            bind("tree", "/mnt", "rbind", flag),
            files=_TREE,
            around=_nested,
            peer="",  # runc 1.1 does not know them, crun 1.8 asks the kernel for what it refuses
        )
        for flag in ("ratime", "rnostrictatime")
    ),
    _with(
        "recursive-several",
        bind("tree", "/mnt", "rbind", "rro", "rnosuid", "rnodev", "rnoexec"),
        files=_TREE,
        around=_nested,
    ),
    _with("recursive-not-bind", tmpfs("/mnt", "rro")),
    *(
        _with(f"propagation-{kind}-of-{name}", bind("tree", "/mnt", "rbind", kind), files=_TREE, around=around)
        for name, around in {"private": _private, "shared": _shared, "slave": _slave}.items()
        for kind in _PROPAGATION
    ),
    _with("propagation-default-of-shared", bind("tree", "/mnt", "rbind"), files=_TREE, around=_shared),
    _with("propagation-several", bind("tree", "/mnt", "rbind", "rslave", "rshared"), files=_TREE, around=_shared),
    _with("propagation-of-tmpfs", tmpfs("/mnt", "shared")),
    _with(
        "propagation-with-flags", bind("tree", "/mnt", "rbind", "rslave", "ro", "nosuid"), files=_TREE, around=_shared
    ),
    *(
        Case(
            f"propagation/{kind or 'default'}{suffix}", {"linux.rootfsPropagation": kind} if kind else {}, around=around
        )
        for suffix, around in {"": None, "-of-shared-root": _root_shared}.items()
        for kind in ("", *_PROPAGATION[:-2])
    ),
    *(
        Case(
            f"propagation/{root}-with-{kind}",
            {"linux.rootfsPropagation": root, "mounts+": [bind("tree", "/mnt", "rbind", kind)]},
            files=_TREE,
            around=_shared,
        )
        for root in ("shared", "slave", "rprivate")
        for kind in ("rshared", "rslave")
    ),
    *(Case(f"propagation/{kind}", {"linux.rootfsPropagation": kind}, fails=True) for kind in _PROPAGATION[-2:]),
    Case("propagation/unknown", {"linux.rootfsPropagation": "word"}, fails=True, text=True),
    Case("propagation/no-pivot", {"linux.rootfsPropagation": "shared"}, flags=("--no-pivot",)),
    _with(
        "tmpcopyup",
        tmpfs("/home", "tmpcopyup"),
        asked=("tree:/home",),
        files={"rootfs/home/user/.profile": "text", "rootfs/home/link": "-> user"},
    ),
    _with("tmpcopyup-modes", tmpfs("/tmp", "tmpcopyup", "ro"), asked=("stat:/tmp", "tree:/tmp")),
    _with("tmpcopyup-missing", tmpfs("/absent", "tmpcopyup"), asked=("tree:/absent",)),
    _with(
        "overlay",
        {
            "destination": "/mnt",
            "type": "overlay",
            "source": "overlay",
            "options": [f"lowerdir={DIR}/data", f"upperdir={DIR}/upper", f"workdir={DIR}/work"],
        },
        asked=("tree:/mnt", "create:/mnt"),
        files={"upper/": "", "work/": ""},
    ),
    _with("many", *(tmpfs(f"/mnt/{i}") for i in range(40))),
    Case(
        "mounts/user-namespace-tmpfs",
        user_namespace(**{"mounts+": [tmpfs("/mnt", "mode=755", "size=1m")]}),
        ("stat:/mnt", "create:/mnt"),
        owner=HOST_ID,
    ),
    Case(
        "mounts/user-namespace-restricted",
        user_namespace(**{"mounts+": [bind("tree", "/mnt", "rbind")]}),
        owner=HOST_ID,
        files=_TREE,
        around=_restricted,
    ),
    # runc 1.1 does not keep the flags that a user namespace may not take away: EPERM.
    Case(
        "mounts/user-namespace-restricted-read-only",
        user_namespace(**{"mounts+": [bind("tree", "/mnt", "rbind", "ro")]}),
        ("create:/mnt",),
        owner=HOST_ID,
        files=_TREE,
        around=_restricted,
        peer="",
        expect={"probe.asked.create:/mnt": "EROFS"},
    ),
    Case(
        "mounts/user-namespace-sys-bind",
        user_namespace(
            mounts=[
                MOUNTS["proc"],
                {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro", "nosuid"]},
            ]
        ),
        owner=HOST_ID,
        asked=("stat:/sys/kernel",),
    ),
    Case(
        "paths/none",
        {"linux.maskedPaths": None, "linux.readonlyPaths": None},
        ("read:/proc/sysrq-trigger", "write:/proc/sys/kernel/hostname", "tree:/proc/scsi"),
    ),
    Case(
        "paths/base",
        {},
        tuple(f"{verb}:{path}" for path in MASKED for verb in ("read", "stat", "tree"))
        + tuple(f"write:{path}" for path in READ_ONLY)
        + ("write:/proc/sys/kernel/hostname", "create:/proc/sys"),
    ),
    Case(
        "paths/masked-file-and-directory",
        {"linux.maskedPaths": ["/etc/passwd", "/home"]},
        ("read:/etc/passwd", "open:/etc/passwd", "tree:/home", "create:/home"),
    ),
    Case("paths/masked-missing", {"linux.maskedPaths": ["/no/such/path"]}),
    Case(
        "paths/masked-link", {"linux.maskedPaths": ["/link"]}, ("tree:/home", "stat:/link"), {"rootfs/link": "-> /home"}
    ),
    Case("paths/masked-twice", {"linux.maskedPaths": ["/home", "/home"]}),
    Case("paths/masked-relative", {"linux.maskedPaths": ["home"]}, ("tree:/home",)),
    Case("paths/masked-mount", {"mounts+": [tmpfs("/mnt")], "linux.maskedPaths": ["/mnt"]}, ("create:/mnt",)),
    Case("paths/masked-device", {"linux.maskedPaths": ["/dev/zero"]}, ("stat:/dev/zero", "open:/dev/zero")),
    Case(
        "paths/masked-root-read-only",
        {"root.readonly": True, "linux.maskedPaths": ["/home", "/etc/group"]},
        ("read:/etc/group", "tree:/home"),
    ),
    Case(
        "paths/read-only",
        {"linux.readonlyPaths": ["/home", "/etc/passwd"]},
        ("create:/home", "create:/home/user", "write:/etc/passwd", "write:/etc/group"),
    ),
    Case("paths/read-only-missing", {"linux.readonlyPaths": ["/no/such/path"]}),
    Case("paths/read-only-link", {"linux.readonlyPaths": ["/link"]}, ("create:/home",), {"rootfs/link": "-> /home"}),
    Case(
        "paths/read-only-above-mount",
        {"mounts+": [tmpfs("/home/user")], "linux.readonlyPaths": ["/home"]},
        ("create:/home", "create:/home/user"),
    ),
    Case(
        "paths/read-only-on-restricted",
        {"mounts+": [bind("tree", "/mnt", "rbind")], "linux.readonlyPaths": ["/mnt"]},
        files=_TREE,
        around=_restricted,
    ),
    Case(
        "paths/both", {"linux.maskedPaths": ["/home"], "linux.readonlyPaths": ["/home"]}, ("tree:/home", "create:/home")
    ),
    Case(
        "paths/user-namespace",
        user_namespace(),
        ("read:/proc/kcore", "write:/proc/sys/kernel/hostname", "tree:/sys/firmware"),
        owner=HOST_ID,
    ),
    Case("paths/no-pivot", {}, ("read:/proc/kcore", "write:/proc/sys/kernel/hostname"), flags=("--no-pivot",)),
]
