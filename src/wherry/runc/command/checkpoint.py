"""`wherry-runc checkpoint`."""

from __future__ import annotations

import os

from wherry.errors import Unknown
from wherry.runc.command.command import Command
from wherry.runc.command.flags import NUMBER, SWITCH, TEXTS, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runc.checkpoint import CriuOptions
    from wherry.runc.command.command import Call

IMAGES = Flag("image-path", "the directory of criu's images (default: ./checkpoint)")
WORK = Flag("work-path", "a directory for criu's log and other files that are no image")

#: Of both directions.
COMMON = (
    Flag("tcp-established", "allow open TCP connections", SWITCH),
    Flag("ext-unix-sk", "allow unix sockets that are connected to the outside", SWITCH),
    Flag("shell-job", "allow a terminal that belongs to somebody else's session", SWITCH),
    Flag("file-locks", "keep file locks", SWITCH),
    Flag("manage-cgroups-mode", "what becomes of cgroups: soft (the default), full, strict or ignore"),
    Flag("empty-ns", "a namespace to restore empty: network", TEXTS),
    Flag("auto-dedup", "keep each page of memory in one image only", SWITCH),
    Flag("lazy-pages", "fetch pages of memory when they are needed, with userfaultfd", SWITCH),
)

COMMAND = Command(
    "write a container's processes to files, with CRIU",
    "ID",
    "Write the processes of a running container to images, from which `restore` makes them again. They end by it, and\n"
    "the container is deleted, unless --leave-running or --pre-dump is given. Takes the program criu.",
    (
        IMAGES,
        WORK,
        Flag("parent-path", "the images of a pre-dump, relative to --image-path"),
        Flag("leave-running", "let the container go on", SWITCH),
        *COMMON,
        Flag(
            "status-fd", "a descriptor that a zero byte is written to when lazy pages can be had", NUMBER, default="-1"
        ),
        Flag("page-server", "ADDRESS:PORT of a page server that pages of memory go to"),
        Flag("pre-dump", "write memory alone, as the parent of a later checkpoint; the container goes on", SWITCH),
    ),
)


def run(call: Call) -> int:
    if os.geteuid() != 0:
        raise Unknown("checkpoint needs root")
    container = call.load()
    from wherry.runc.checkpoint import checkpoint

    values = call.values
    options = criu_options(call)
    options.parent = values.text("parent-path")
    options.leave_running = values.switch("leave-running")
    options.pre_dump = values.switch("pre-dump")
    options.status_fd = values.number("status-fd")
    if values.text("page-server"):
        options.page_server = _address(values.text("page-server"))
    checkpoint(container, options)
    if not (options.leave_running or options.pre_dump):
        container.delete(force=True)
    return 0


def criu_options(call: Call) -> CriuOptions:
    """Return what the flags of both directions say."""
    from wherry.runc.checkpoint import CriuOptions

    values, work = call.values, call.values.text("work-path")
    options = CriuOptions(
        os.path.abspath(values.text("image-path") or "checkpoint"),
        os.path.abspath(work) if work else "",
        criu=call.settings.criu,
    )
    options.tcp_established = values.switch("tcp-established")
    options.external_unix_sockets = values.switch("ext-unix-sk")
    options.shell_job = values.switch("shell-job")
    options.file_locks = values.switch("file-locks")
    options.auto_dedup = values.switch("auto-dedup")
    options.lazy_pages = values.switch("lazy-pages")
    options.cgroups_mode = values.text("manage-cgroups-mode")
    options.empty_namespaces = values.texts("empty-ns")
    return options


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit()):
        raise Unknown("Use --page-server ADDRESS:PORT to specify page server")
    return host, int(port)
