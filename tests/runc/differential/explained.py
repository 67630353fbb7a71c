"""Where wherry-runc may differ from Debian's runc: every such field, with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Explained(NamedTuple):
    """The fields that `field` finds may differ in the cases that `case` finds."""

    case: str
    field: str
    reason: str


EXPLAINED: list[Explained] = [
    Explained(
        "",
        r"^probe\.mounts\./(proc|sys|etc)/(keys|timer_list|kcore|passwd|group)$",
        "What hides a file is the host's /dev/null, opened before; runc 1.1 takes the container's (CVE-2025-31133).",
    ),
    Explained(
        "hooks|generated",
        r"^(start )?hooks\.\d+\.descriptors\.[012]\.(mode|target|type)$",
        "Hooks have memory files for standard input and output, and nobody who copies; with runc they have pipes.",
    ),
    Explained(
        "^terminal/foreground",
        r"^probe\.terminals\.\d\.(rows|columns)$",
        "runc passes the size of its own terminal on at a moment of its own, before or after the process looks.",
    ),
    Explained(
        "^(seccomp|generated)/",
        r"^probe\.asked\.syscall:unknown-\d+$",
        "Unknown system calls answer ENOSYS always; runc 1.1 only where the profile names architectures.",
    ),
    Explained(
        "^exec(-traced)?/(umask|oom-score)$",
        r"^probe\.(umask|status\.Umask|files\.oom_score_adj\.text)$",
        "The process's own umask and score, as the specification has it; runc 1.1 leaves them out in exec.",
    ),
    Explained(
        "^exec(-traced)?/limits$",
        r"^probe\.limits\.NOFILE$",
        "Go raises the soft limit of open files to the hard one, and runc 1.1 does not take it back in exec.",
    ),
    Explained(
        "^environment/home-malformed-passwd$|^mounts/bind-file$|^generated/",
        r"^probe\.environment$",
        "A line without a number is no user; runc takes it for uid 0, whose home is then empty.",
    ),
    Explained(
        "",
        r"^probe\.dev\./dev/mqueue\.gid$",
        "runc 1.1 makes the IPC namespace before it has a mapped group in the user namespace: nobody's.",
    ),
    Explained(
        "^(hooks|generated)/",
        r"^hooks\.\d+\.input\.status$",
        "A container is running when poststart hooks run, says the specification; runc 1.1 calls it created.",
    ),
    Explained(
        "hooks|generated|create",
        r"^((start )?hooks\.\d+\.input|calls\.\w+\.state)\.ociVersion$",
        "The state has the version that config.json names; runc 1.1 says which it was built for.",
    ),
    Explained(
        "hooks|generated|create",
        r"^(start )?hooks\.\d+\.descriptors\.([3-9]|\d\d)\.",
        "runc's own sockets, pipes and exec.fifo are open in its hooks; of ours nothing is.",
    ),
    Explained(
        "user|generated|terminal|namespaces",
        r"^probe\.keyring$",
        "In a user namespace runc 1.1 reads a key's permissions wrongly and sets others than elsewhere.",
    ),
    Explained(
        "^(mounts|generated)/",
        r"^probe\.(top|dev)\./\w+\.mode$|^probe\.mounts\./(home|mnt)$",
        "A mode that the options of a tmpfs name is its mode; runc 1.1 gives it that of the directory below.",
    ),
    Explained(
        "^cgroups/memory-kernel",
        r"^errors$",
        "Kernel memory limits are gone from the kernel; that they are not set is no news, and there is no warning.",
    ),
    Explained(
        "^errors/(apparmor-absent|selinux-absent|selinux-mount-label|unknown-flag|unknown-global-flag)$",
        r"^(errors|output)$",
        "The reason is told in our words: they say what to do, and the help is our own.",
    ),
    Explained(
        "^errors/config-null$",
        r"^code$",
        "runc ends by a panic of Go's, with 2.",
    ),
    Explained(
        "^errors/dev-a-link$",
        r"^probe\.dev\.",
        "Where /dev is a link in the image, what it leads to in the image has the default links too.",
    ),
    Explained(
        "",
        r"^probe\.mount order$",
        "What is bound is opened before there is a process, and the kernel lists mounts by their age.",
    ),
    Explained(
        "^hooks/each-created$",
        r"^hooks\.\d\.cwd$",
        "Hooks of the runtime's run in the bundle, whoever calls it from where; runc's of delete do not.",
    ),
    Explained(
        "^mounts/(tmpfs-|unknown-type|over-proc|bind-on-proc|destination-r)",
        r"^errors$",
        "The same reason, without the descriptor by which runc mounts; it is told before anything is mounted.",
    ),
    Explained(
        "^generated/",
        r"^probe\.descriptors\.[012]\.owner$",
        "The streams are the user's before the seccomp filter is there, which may forbid it.",
    ),
    Explained(
        "^(paths|generated|terminal)/",
        r"^probe\.mounts\./dev/|^probe\.mounts\..*\(above\)$|^probe\.asked\.create:",
        "A read-only path is so with all that is mounted below it, and a device is hidden by the host's /dev/null.",
    ),
    Explained(
        "^(sysctl|cwd|root|limits|descriptors|capabilities|seccomp|environment|arguments|user|oom-score|time|scheduler)",
        r"^errors$",
        "The same reason in words that name the field or the file; unknown capabilities are passed over in silence.",
    ),
    Explained(
        "^devices/unknown-type$",
        r"^errors$",
        "The device is named.",
    ),
]

#: What runc takes and wherry-runc refuses, or the other way round, with the reason.
OTHERWISE = {
    "not-checked/version-empty": "a configuration has a version (config.md), and this runtime knows version 1",
    "not-checked/version-2": "as above",
    "not-checked/version-word": "as above",
    "not-checked/intel-rdt-absent": "what is not supported is refused, not passed over",
    "hooks/relative-prestart": "a hook's path is absolute (config.md)",
    "hooks/relative-createRuntime": "as above",
    "cgroups/hugepages": "on a hybrid host they are limited in the unified hierarchy, which has them; runc 1.1 fails",
    "device-rules/access-empty": "a rule without access rules nothing",
    "user/too-large": "ids have 32 bits; Go's half of them is not this runtime's",
    "mounts/none": "no mounts at all is a container without /proc, which this runtime needs none of",
    "no-proc": "as above",
    "root/link": "a root that is a link is what it leads to when the container is created",
    "mounts/dev-bind": "a /dev of the host's is taken as it is",
    "mounts/tmpfs-defaults": '"defaults" asks for nothing; runc 1.1 hands it to the file system',
    "device-rules/access-absent": "as above",
    "devices/a-default": "what config.json says of a default device holds; runc 1.1 finds it there and fails",
    "mounts/bind-type-without-option": "a mount of type bind is a bind mount",
}


def differences(case: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return the fields that differ without a reason here, each with both values."""
    explained = [re.compile(entry.field) for entry in EXPLAINED if re.search(entry.case, case)]
    found = []
    for name in sorted({*theirs, *ours}):
        their, our = theirs.get(name, "(absent)"), ours.get(name, "(absent)")
        if their != our and not any(pattern.search(name) for pattern in explained):
            found.append(f"{name}:\n    theirs: {their!r}\n    ours:   {our!r}")
    return found
