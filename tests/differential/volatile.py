"""What may differ between Debian's containerd and wherryd: every such field, with its reason.

Names and paths of a side are replaced before (transcript.Side.normal). All else that ctr prints is compared as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple


class Volatile(NamedTuple):
    """What the ctr commands that `command` finds print under `pattern`, and what stands for it in a comparison.

    A replacement of text may hold `#`: the rank of the match among the different ones of its kind in this flow, so
    that two equal values stay equal and two different ones stay different.
    """

    command: str
    pattern: str
    replacement: str | Callable[[re.Match[str]], str]
    reason: str


def _sorted_labels(match: re.Match[str]) -> str:
    return ",".join(sorted(match[0].split(",")))


VOLATILE = [
    Volatile("^shim --id", r'(?<="pid": )\d+', "<pid>", "The kernel gives them out."),
    Volatile(
        "",
        r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
        "<time>",
        "The clock goes on between the two sides. Zero times (year 1, 1970) are compared.",
    ),
    Volatile(
        "^(events|tasks metrics)",
        r"\b20\d\d-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? \+0000 UTC",
        "<time>",
        "As above, in the form that Go prints a time in.",
    ),
    Volatile(
        "^(tasks checkpoint|images ls|events)",
        r"\b\d\d-\d\d-20\d\d-\d\d:\d\d:\d\d\b",
        "<time>",
        "As above, in the names that ctr gives to checkpoints.",
    ),
    Volatile(
        "^version",
        r"(?<=^Server:\n)  Version: .*\n  Revision: .*$",
        "  Version: <version>\n  Revision: <revision>",
        "Another program with another version; test_version.py says which one wherryd must answer.",
    ),
    Volatile("^version", r"(?<=UUID: )[-0-9a-f]{36}$", "<uuid #>", "Random, made once for a root directory."),
    Volatile(
        "^version",
        r"^WARNING: (version|revision) mismatch\n",
        "",
        "ctr compares the daemon's version with its own; it is Debian's, wherryd is not (see above).",
    ),
    Volatile(
        "^content (ls|label)|^(images|containers|snapshots|namespaces) label",
        r"[^\s,=]+=[^\s,]*(,[^\s,=]+=[^\s,]*)+",
        _sorted_labels,
        "ctr prints these labels in the random order of a Go map.",
    ),
    Volatile(
        "^content (ls|active)",
        r"\t(Less than a second|\d+ seconds?)( ago)?\t+|(?<=\tAGE)\t+",
        " <age> ",
        "How long ago depends on how busy the machine is; the column is as wide as the longest age.",
    ),
    Volatile(
        "",
        r"(?<=/snapshots/)\d+(?=\b)",
        "<#>",
        "Snapshots' directories are numbered over all namespaces of a daemon; which is whose is compared.",
    ),
    Volatile(
        "^content ls labels.kept==yes",
        r"sha256:[0-9a-f]{64}",
        "<digest of a diff>",
        "containerd gives whiteouts the time of the diff, wherryd 1970, so that equal changes make equal layers.",
    ),
    Volatile(
        "^run ",
        r"(?<=^/proc/)(keys|timer_list) (devtmpfs rw,relatime|tmpfs rw,nosuid),size=[^ ]*",
        r"\1 <a null device>",
        "The built-in runtime covers files with the host's /dev/null, runc with the container's (CVE-2025-31133).",
    ),
    Volatile(
        "^tasks ",
        r"runc did not terminate successfully: exit status 1: ",
        "",
        "The built-in runtime is no program: it has no exit status.",
    ),
    Volatile(
        "^run .*--memory-limit 1 ",
        r"(?<=unable to start container process: ).*(unable to set memory limit|OOM-killed).*(?=: unknown$)",
        "<the memory limit is too low>",
        "runc finds its process to have more than that, ours goes in when the limit is there, and is killed.",
    ),
    Volatile(
        "^run ",
        r"(?<=error preparing rootfs)(: mount ([^ :]+):\2, flags: 0x5000| [^ :]+)(?=: )",
        "",
        "runc names the flags of its mount(2), the built-in runtime the directory: the refusal is the same.",
    ),
    Volatile("", r"\bcontainerd-mount\d+", "containerd-mount<#>", "A temporary directory's random name."),
    Volatile("", r"(?<=/run/containerd/fifo/)\d+", "<#>", "ctr makes its FIFOs in a directory with a random name."),
    Volatile(
        "", r"\bextract-\d+-[-\w]{4}(?![-\w])", "extract-<#>", "The key of an unpack: nanoseconds and random letters."
    ),
    Volatile(
        "^tasks ls",
        r"(?s)(?<=STATUS    \n).*|\A(?!TASK).*",
        lambda match: "".join(sorted(match[0].splitlines(keepends=True))),
        "The tasks of runtime v1 come in the random order of a Go map.",
    ),
    Volatile(
        "^tasks ls",
        r" +\d+ +(?=RUNNING|STOPPED|CREATED|PAUSED)",
        "  <pid #>  ",
        "The kernel numbers processes; which is whose is compared.",
    ),
    Volatile("^tasks ls", r" +PID +(?=STATUS)", "  PID  ", "The column is as wide as the longest number."),
    Volatile("^events", r'(?<="pid":)\d+', "<pid #>", "As above."),
    Volatile(
        "^events of runtime v1",
        r"(?s)\A.*\Z",
        lambda match: "\n".join(sorted(match[0].splitlines(), key=lambda line: " /tasks/exit " in line)),
        "A v1 shim has its exit events published by a process of their own, which the daemon's events may overtake.",
    ),
    Volatile(
        "^tasks ps",
        r"(?s)(?<=INFO\n).*",
        lambda match: "".join(sorted(match[0].splitlines(keepends=True), key=lambda line: line.split(maxsplit=1)[1:])),
        "The order is that of the process ids, which begin anew at some point.",
    ),
    Volatile("^tasks ps", r"^\d+ +", "<pid #>  ", "As above."),
    Volatile("^tasks ps", r"^PID +(?=INFO)", "PID  ", "As above."),
    Volatile(
        "^tasks metrics",
        r"^(ID +TIMESTAMP|\S+ +(?=<time>)|METRIC +VALUE| *(memory|cpuacct|pids)\.\S+ +(?=\S)).*$",
        lambda match: " ".join(match[0].split()),
        "Columns are as wide as the time and the figures are long.",
    ),
    Volatile(
        "^tasks metrics",
        r"^(memory\.usage_in_bytes|memory\.stat\.cache|cpuacct\.usage|cpuacct\.usage_percpu) .*$",
        r"\1 <figure>",
        "What a container uses is never twice the same; limits and the number of processes are compared.",
    ),
    Volatile(
        "^run .*--memory-limit 1 ",
        r"current usage: \d+, peak usage: \d+",
        "current usage: <figure>, peak usage: <figure>",
        "What runc itself used when it met a limit that is too small.",
    ),
    Volatile(
        "^run .*--with-ns|^tasks kill",
        r"\n+: unknown",
        ": unknown",
        "containerd leaves the line break in that ends runc's message.",
    ),
    Volatile(
        "",
        r"(: invalid argument){2}$",
        ": invalid argument",
        "containerd's lists say the kind of a bad filter's error twice.",
    ),
    Volatile(
        "",
        r"label key and value( length \(\d+ bytes\))? greater than maximum size",
        "label key and value greater than maximum size",
        "containerd 1.7, the version that wherryd answers, added the length.",
    ),
    Volatile(
        "^events",
        r"code = (Unknown desc = subscription error: failed parsing subscription filters: filters"
        r"|InvalidArgument desc = filters)",
        "code = <code> desc = filters",
        "containerd's Subscribe loses the kind of a bad filter's error; compat.md asks for INVALID_ARGUMENT.",
    ),
    Volatile(
        "^snapshots ls",
        r"(?<=: invalid argument): unknown$",
        "",
        "containerd's list of snapshots loses the kind of its errors on the way to the client.",
    ),
    Volatile(
        "^snapshots",
        r"(?<=[ \"])<namespace>/\d+/",
        "",
        "containerd names a snapshot by its internal key here, wherryd by the client's.",
    ),
    Volatile(
        "^snapshots .*mounts",
        r"failed to get (active|snapshot) mount",
        "failed to get active mount",
        "Each of containerd's snapshotters words this itself; ours have the words of overlayfs.",
    ),
    Volatile(
        "^snapshots prepare $",
        r"(bucket name required: unknown|snapshot key must not be empty: invalid argument)",
        "<no key>",
        "containerd shows what its database said; wherryd says what is wrong.",
    ),
    Volatile(
        "^images import",
        r"(mount callback failed on <root>/tmpmounts/\S+: unexpected EOF: unknown"
        r"|failed to extract layer sha256:\w+: unexpected end of archive: invalid argument)",
        "<bad layer>",
        "containerd names the temporary mount where the layer ended too early; wherryd names the layer.",
    ),
    Volatile(
        "^events",
        r"<(namespace|other)> (?=/namespaces/(create|update) )",
        "<caller or named> ",
        "containerd 1.6 files these under the caller's namespace, later ones under the one that is named.",
    ),
    Volatile(
        "^plugins ls",
        r"^(io\.containerd\.service\.v1 .*|[a-z]+-service)\n",
        "",
        "containerd's inner layer below its API, which no client looks for; wherryd has no such layer.",
    ),
    Volatile(
        "^plugins ls",
        r"^(io\.containerd\.internal\.v1 +(restart|opt) .*|restart|opt)\n",
        "",
        "`restart` would promise the restart monitor and `opt` `ctr install`, which wherryd does not have yet.",
    ),
    Volatile(
        "^plugins ls",
        r"^(io\.containerd\.monitor\.v1 .*|cgroups)\n",
        "",
        "The part of containerd that turns cgroups into its Prometheus metrics, which wherryd does not serve.",
    ),
    Volatile(
        "^plugins ls",
        r"^io\.containerd\.ttrpc\.v1 +events .*\n|(?<=\nversion\n)events\n",
        "",
        "Listed by containerd 1.7, the version that wherryd answers, and not by 1.6.",
    ),
    Volatile(
        "^plugins ls",
        r"^(io\.containerd\.snapshotter\.v1 +erofs .*|erofs)\n",
        "",
        "A snapshotter of containerd 2.1 and of wherryd.",
    ),
    Volatile(
        "^plugins ls",
        r"^Capabilities: +rebase\n",
        "",
        "Snapshots that get their parent when they are committed: since containerd 2.2.",
    ),
    Volatile(
        "^plugins ls",
        r"^io\.containerd\.(mount-handler|mount-manager|shim|sandbox\.store|sandbox\.controller|streaming|transfer)\.v1"
        r" .*\n|^(erofs\n)?loop\nbolt\nmanager\nlocal\nshim\n|^manager\nlocal\n(?=linux\n)",
        "",
        "What containerd 1.7 and 2 have for images that move, for sandboxes, and for mounts that they make.",
    ),
    Volatile(
        "^plugins ls",
        r"^(io\.containerd\.grpc\.v1 +)?(mounts|sandbox-controllers|sandboxes|streaming|transfer)( .*)?\n",
        "",
        "Their services.",
    ),
    Volatile("^plugins ls", r" {2,}", "  ", "Columns are as wide as the longest entry, which is one of the above."),
    Volatile(
        "^plugins ls (?!--detailed)|^plugins ls$",
        r"(?s)(?<=STATUS  \n).*|\A(?!TYPE).*",
        lambda match: "".join(sorted(match[0].splitlines(keepends=True))),
        "containerd's order is that in which it initialised its plugins.",
    ),
    Volatile("^leases", r"^\d+-[-\w]{4}(?= |$)", "<lease #>", "A generated lease id: nanoseconds and random letters."),
]
