"""The process: arguments, environment, directory, ids, capabilities, limits, scores, descriptors."""

from __future__ import annotations

from tests.runc.differential.cases import MOUNTS, Case, alike, namespaces

_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
_THREE = ("bounding", "effective", "permitted")
_ALL = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE"
    " NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT"
    " SYS_ADMIN SYS_BOOT SYS_NICE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP"
    " MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
ALL_CAPABILITIES = [f"CAP_{name}" for name in _ALL.split()]
_LIMITS = "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK"
_UNLIMITED = 2**64 - 1
#: What this machine's root may not raise stays at what it is: lowered to these.
_LOW = {"NICE": 0, "RTPRIO": 0, "MEMLOCK": 65536, "STACK": 1048576, "AS": 2**32, "DATA": 2**31}


def _capabilities(name: str, **sets: list[str]) -> Case:
    return Case(f"capabilities/{name}", {"process.capabilities": sets})


def _user(name: str, **user: object) -> Case:
    return Case(f"user/{name}", {"process.user": user})


CASES = [
    Case("arguments/several", {"process.args": ["/probe", "", "two words", "ü", 'quote"d', "line\nbreak"]}),
    Case("arguments/by-path-variable", {"process.args": ["probe"], "process.env": ["PATH=/nowhere:/"]}),
    Case("arguments/relative", {"process.args": ["./probe"]}),
    Case("arguments/relative-to-cwd", {"process.args": ["../probe"], "process.cwd": "/tmp"}),
    Case(
        "arguments/no-path-variable",
        {"process.args": ["probe"], "process.env": ["A=b"], "process.cwd": "/"},
        fails=True,
        text=True,
    ),
    Case(
        "arguments/empty-path-element",
        {"process.args": ["probe"], "process.env": ["PATH=:/bin"]},
        fails=True,
        text=True,
    ),
    Case("arguments/link", {"process.args": ["/bin/link"]}, files={"rootfs/bin/link": "-> ../probe"}),
    Case("arguments/many", {"process.args": ["/probe", *(f"argument-{i}" for i in range(500))]}),
    Case("arguments/not-found", {"process.args": ["no-such-program"]}, fails=True, text=True),
    Case("arguments/path-not-found", {"process.args": ["/no/such/program"]}, fails=True, text=True),
    Case("arguments/not-executable", {"process.args": ["/etc/passwd"]}, fails=True, text=True),
    Case(
        "arguments/not-executable-in-path",
        {"process.args": ["passwd"], "process.env": ["PATH=/etc"]},
        fails=True,
        text=True,
    ),
    Case("arguments/directory", {"process.args": ["/etc"]}, fails=True, text=True),
    Case(
        "arguments/no-interpreter",
        {"process.args": ["/script"]},
        files={"rootfs/script": "#!/no/shell\n"},
        fails=True,
        text=True,
    ),
    Case("arguments/none", {"process.args": []}, fails=True, text=True),
    Case("arguments/absent", {"process.args": None}, fails=True, text=True),
    Case("arguments/exit-code", asked=("exit:42",)),
    Case("arguments/exit-code-255", asked=("exit:255",)),
    Case("environment/none", {"process.env": None, "process.args": ["/probe"]}),
    Case("environment/empty", {"process.env": [], "process.args": ["/probe"]}),
    Case("environment/home-of-root", {"process.env": ["PATH=/bin", "A=1"]}),
    Case("environment/home-given", {"process.env": ["HOME=/elsewhere", "PATH=/bin"]}),
    Case("environment/home-empty", {"process.env": ["HOME=", "PATH=/bin"]}),
    Case("environment/home-of-user", {"process.user": {"uid": 1000, "gid": 1000}}),
    Case("environment/home-of-unknown", {"process.user": {"uid": 4321, "gid": 4321}}),
    Case("environment/home-without-passwd", {}, files={"rootfs/etc/passwd": None}),
    Case(
        "environment/home-malformed-passwd",
        {},
        files={"rootfs/etc/passwd": "root:x\n\n#comment\nr:x:0:0::/late:/bin/sh\n"},
    ),
    Case("environment/home-second-entry", {}, files={"rootfs/etc/passwd": "a:x:0:0::/first:\nb:x:0:0::/second:\n"}),
    Case(
        "environment/home-passwd-link",
        {},
        files={
            "rootfs/etc/passwd": None,
            "rootfs/etc/passwd2": "root:x:0:0::/linked:\n",
            "rootfs/home/link": "-> /etc/passwd2",
        },
    ),
    Case("environment/twice", {"process.env": ["A=1", "PATH=/bin", "A=2"]}),
    Case("environment/no-equals", {"process.env": ["PATH=/bin", "WORD"]}, fails=True, text=True),
    Case("environment/empty-name", {"process.env": ["PATH=/bin", "=value"]}, fails=True),
    Case("environment/equals-in-value", {"process.env": ["PATH=/bin", "A=b=c=", "E="]}),
    Case("environment/not-ascii", {"process.env": ["PATH=/bin", "Ä=ö€"]}),
    Case("environment/long", {"process.env": ["PATH=/bin", "A=" + "x" * 100000]}),
    Case("cwd/existing", {"process.cwd": "/home/user"}),
    Case("cwd/missing", {"process.cwd": "/made/on/demand"}, ("tree:/made",)),
    Case("cwd/missing-for-user", {"process.cwd": "/made", "process.user": {"uid": 1000, "gid": 1000}}, ("stat:/made",)),
    Case("cwd/file", {"process.cwd": "/etc/passwd"}, fails=True, text=True),
    Case("cwd/link", {"process.cwd": "/link"}, files={"rootfs/link": "-> /home/user"}),
    Case("cwd/link-outside", {"process.cwd": "/link"}, files={"rootfs/link": "-> ../../../home/user"}),
    Case("cwd/dots", {"process.cwd": "/home/../home/./user/"}),
    Case("cwd/relative", {"process.cwd": "home"}, fails=True, text=True),
    Case("cwd/empty", {"process.cwd": ""}, fails=True, text=True),
    Case(
        "cwd/unreadable-by-user",
        {
            "process.cwd": "/tmp/closed",
            "process.user": {"uid": 1000, "gid": 1000},
            "mounts+": [{"destination": "/tmp/closed", "type": "tmpfs", "source": "tmpfs", "options": ["mode=700"]}],
        },
    ),
    Case("cwd/on-a-mount", {"process.cwd": "/dev/shm"}),
    Case("cwd/read-only-root", {"process.cwd": "/not/there", "root.readonly": True}),
    _user("plain", uid=1000, gid=1000),
    _user("root-of-group", uid=0, gid=1000),
    _user("of-root-group", uid=1000, gid=0),
    _user("groups", uid=1000, gid=1000, additionalGids=[5, 1000, 0, 70000]),
    _user("groups-of-root", uid=0, gid=0, additionalGids=[10, 20]),
    _user("groups-twice", uid=0, gid=0, additionalGids=[10, 10]),
    _user("large", uid=2147483647, gid=2147483647),
    Case("user/too-large", {"process.user": {"uid": 2147483648, "gid": 0}}, fails=True, text=True),
    _user("umask-0", uid=0, gid=0, umask=0),
    _user("umask-077", uid=0, gid=0, umask=0o77),
    _user("umask-beyond", uid=0, gid=0, umask=0o1777),
    _user("username", uid=1000, gid=1000, username="ignored-here"),
    _capabilities("none"),
    _capabilities("empty", bounding=[], effective=[], permitted=[], inheritable=[], ambient=[]),
    _capabilities("all", **alike(_THREE, ALL_CAPABILITIES)),
    *(_capabilities(f"only-{kind}", **{kind: ["CAP_KILL"]}) for kind in ("bounding", "permitted")),
    _capabilities("inheritable", **alike((*_THREE, "inheritable"), ["CAP_KILL", "CAP_CHOWN"])),
    _capabilities("five", **alike(_SETS, ["CAP_KILL", "CAP_CHOWN"])),
    _capabilities("bounding-larger", bounding=ALL_CAPABILITIES, effective=["CAP_KILL"], permitted=["CAP_KILL"]),
    _capabilities(
        "permitted-larger", bounding=["CAP_KILL"], effective=["CAP_KILL"], permitted=["CAP_KILL", "CAP_CHOWN"]
    ),
    _capabilities(
        "effective-less",
        bounding=["CAP_KILL", "CAP_CHOWN"],
        effective=["CAP_KILL"],
        permitted=["CAP_KILL", "CAP_CHOWN"],
    ),
    _capabilities(
        "ambient-not-inheritable",
        bounding=["CAP_KILL"],
        effective=["CAP_KILL"],
        permitted=["CAP_KILL"],
        ambient=["CAP_KILL"],
    ),
    _capabilities("repeated", **alike(_THREE, ["CAP_KILL", "CAP_KILL"])),
    _capabilities("unknown", **alike(_THREE, ["CAP_KILL", "CAP_NO_SUCH"])),
    _capabilities("lower-case", **alike(_THREE, ["cap_kill"])),
    Case("capabilities/absent", {"process.capabilities": None}),
    Case(
        "capabilities/effective-not-permitted",
        {"process.capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"]}},
        fails=True,
    ),
    Case(
        "capabilities/user-ambient",
        {"process.user": {"uid": 1000, "gid": 1000}, "process.capabilities": alike(_SETS, ["CAP_NET_ADMIN"])},
    ),
    Case(
        "capabilities/user-without-ambient",
        {"process.user": {"uid": 1000, "gid": 1000}, "process.capabilities": alike(_THREE, ["CAP_NET_ADMIN"])},
    ),
    Case(
        "capabilities/user-inheritable",
        {
            "process.user": {"uid": 1000, "gid": 1000},
            "process.capabilities": alike((*_THREE, "inheritable"), ["CAP_KILL"]),
        },
    ),
    Case("no-new-privileges/off", {"process.noNewPrivileges": False}),
    Case("no-new-privileges/absent", {"process.noNewPrivileges": None}),
    Case("no-new-privileges/user", {"process.noNewPrivileges": False, "process.user": {"uid": 1, "gid": 1}}),
    *(
        Case(
            f"limits/{kind.lower()}",
            {
                "process.rlimits": [
                    {"type": f"RLIMIT_{kind}", "soft": _LOW.get(kind, 1000) // 2, "hard": _LOW.get(kind, 1000)}
                ]
            },
        )
        for kind in _LIMITS.split()
    ),
    Case("limits/none", {"process.rlimits": None}),
    Case(
        "limits/several",
        {
            "process.rlimits": [
                {"type": f"RLIMIT_{kind}", "soft": 100, "hard": 200} for kind in ("CORE", "NPROC", "NOFILE")
            ]
        },
    ),
    Case("limits/unlimited", {"process.rlimits": [{"type": "RLIMIT_CORE", "soft": _UNLIMITED, "hard": _UNLIMITED}]}),
    Case(
        "limits/twice",
        {"process.rlimits": [{"type": "RLIMIT_CORE", "soft": n, "hard": n} for n in (1, 2)]},
        fails=True,
        text=True,
    ),
    Case(
        "limits/soft-above-hard",
        {"process.rlimits": [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]},
        fails=True,
        text=True,
    ),
    Case("limits/unknown", {"process.rlimits": [{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]}, fails=True, text=True),
    Case("limits/short-name", {"process.rlimits": [{"type": "CORE", "soft": 1, "hard": 1}]}, fails=True),
    # As the peer: these take CAP_SYS_RESOURCE, which tests/vm has.
    *(
        Case(
            f"limits/raised-{kind.lower()}",
            {
                "process.rlimits": [
                    {"type": f"RLIMIT_{kind}", "soft": 1 << 32, "hard": 1 << 40},
                    # Go raises the soft one for itself, and runc 1.1 leaves it like that.
                    {"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99},
                ]
            },
            fails=None,
        )
        for kind in ("NPROC", "MEMLOCK", "SIGPENDING")
    ),
    *(Case(f"oom-score/{score}", {"process.oomScoreAdj": score}, fails=None) for score in (-1000, -500)),
    *(Case(f"oom-score/{score}", {"process.oomScoreAdj": score}) for score in (0, 1, 500, 1000)),
    Case("oom-score/beyond", {"process.oomScoreAdj": 1001}, fails=True),
    Case(
        "root/read-only",
        {"root.readonly": True},
        ("create:/tmp", "create:/dev/shm", "create:/dev", "write:/etc/passwd"),
    ),
    Case("root/absolute", {"root.path": "@DIR@/rootfs"}),
    Case("root/dots", {"root.path": "./nothing/../rootfs/"}, files={"nothing/": ""}),
    Case("root/link", {"root.path": "link"}, files={"link": "-> rootfs"}, fails=True, text=True),
    Case("root/other-name", {"root.path": "."}, files={"dev/": "", "proc/": "", "sys/": ""}),
    Case("root/missing", {"root.path": "none"}, fails=True, text=True),
    Case("root/file", {"root.path": "file"}, files={"file": ""}, fails=True),
    Case("root/absent", {"root": None}, fails=True, text=True),
    Case("root/empty", {"root.path": ""}),
    Case("root/no-pivot", flags=("--no-pivot",)),
    Case("root/no-pivot-read-only", {"root.readonly": True}, ("create:/tmp",), flags=("--no-pivot",)),
    Case("keyring/none", flags=("--no-new-keyring",)),
    Case("keyring/for-user", {"process.user": {"uid": 1000, "gid": 1000}}, ("syscall:keyctl",)),
    Case("descriptors/preserved", flags=("--preserve-fds", "2")),
    Case("descriptors/one-of-two", flags=("--preserve-fds", "1")),
    Case("descriptors/listen", environment={"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}),
    Case("descriptors/listen-and-preserved", environment={"LISTEN_FDS": "1"}, flags=("--preserve-fds", "1")),
    Case("descriptors/too-many", flags=("--preserve-fds", "9"), fails=True, text=True),
    Case("pid/subreaper-off", flags=("--no-subreaper",)),
    Case("pid/host", {"linux.namespaces": namespaces("network", "ipc", "uts", "mount")}, ("peers:4",)),
    Case("pid/own", asked=("peers:4",)),
    Case("annotations/some", {"annotations": {"org.example.key": "value", "empty": ""}}),
    Case("version/1.0.0", {"ociVersion": "1.0.0"}),
    Case("version/1.2.0", {"ociVersion": "1.2.0"}),
    Case("version/development", {"ociVersion": "1.1.0-rc.1+dev"}),
    Case("unknown-fields", {"futureField": {"a": 1}, "process.futureField": True, "linux.futureField": [1]}),
    Case(
        "no-proc",
        {"mounts": [MOUNTS["dev"], MOUNTS["pts"]], "linux.maskedPaths": [], "linux.readonlyPaths": []},
        fails=True,
    ),
    Case("console-size-without-terminal", {"process.consoleSize": {"height": 10, "width": 20}}),
]
