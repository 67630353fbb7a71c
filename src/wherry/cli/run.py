"""wherry run."""

from __future__ import annotations

import os
import sys

from wherry.client.run import (
    ImageNotFound,
    RunOptions,
    Task,
    Timing,
    create_container,
    remove_container,
    start_attached,
)
from wherry.errors import Error, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session
    from wherry.client.client import Client
    from wherry.client.run import Prepared

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

#: What runtimes say of a command that cannot be run, and the exit status that shells and docker have for it.
_NOT_FOUND = ("executable file not found", "no such file or directory", "not a directory")
_NOT_EXECUTABLE = ("permission denied", "exec format error", "is a directory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = "Run a command in a new container. Its exit status is the command's."
    parser.usage = "wherry run [flags] IMAGE [COMMAND [ARG ...]]"
    add = parser.add_argument
    add("image", metavar="IMAGE", help="an image's name, or a directory with --rootfs")
    add("args", nargs="...", metavar="COMMAND", help="what to run instead of the image's command")
    add("--rm", action="store_true", help="remove the container when the command has ended")
    add("-d", "--detach", action="store_true", help="print the container's name and go, without its output")
    add("-t", "--tty", action="store_true", help="give the command a terminal")
    add("-i", "--interactive", action="store_true", help="connect standard input")
    add("--name", help="the container's name (default: one by chance)")
    add("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="set a variable, or pass ours on")
    add("--env-file", action="append", default=[], metavar="FILE", help="set the variables of a file, one a line")
    add("--mount", action="append", default=[], metavar="SPEC", help="type=bind,src=/a,dst=/b[,options=rbind:ro]")
    add("--read-only", action="store_true", help="make the root file system read-only")
    add("--privileged", action="store_true", help="all capabilities and devices, nothing masked")
    add("-u", "--user", default="", metavar="USER[:GROUP]", help="run as a user of the image's, or a number")
    add("-w", "--cwd", "--workdir", default="", metavar="DIR", help="the working directory")
    add("--hostname", default="", help="the host name")
    add("--net", choices=("none", "host"), default="none", help="the network: loopback alone, or the host's")
    add("--cap-add", action="append", default=[], metavar="CAP", help="add a capability, or ALL")
    add("--cap-drop", action="append", default=[], metavar="CAP", help="take a capability away, or ALL")
    add("-m", "--memory", default="", metavar="SIZE", help="limit memory, as in 512m")
    add("--cpus", type=float, default=0.0, metavar="N", help="limit CPU time to that of N CPUs")
    add("--pids-limit", type=int, default=0, metavar="N", help="limit processes and threads")
    add("-l", "--label", action="append", default=[], metavar="KEY=VALUE", help="label the container")
    add("--runtime", default=RunOptions().runtime, help="the shim's runtime name (default: %(default)s)")
    add(
        "--runc-binary",
        default="",
        metavar="PATH",
        help="the OCI runtime (default: the daemon's own)",
    )
    add("--snapshotter", default="", help="the snapshotter (default: overlayfs)")
    add(
        "--pull",
        choices=("missing", "always", "never"),
        default="missing",
        help="pull the image (default: %(default)s)",
    )
    add("--rootfs", action="store_true", help="IMAGE is a directory to run as it is")
    add("--entrypoint", metavar="PROGRAM", help="run this instead of the image's entrypoint")
    add("--timing", action="store_true", help="tell how long each step took, on standard error")


def run(options: argparse.Namespace, session: Session) -> int:
    """Run the container."""
    if options.detach and options.rm:
        raise InvalidArgument("--rm and --detach: nobody would be there to remove the container")
    if options.detach and options.interactive:
        raise InvalidArgument("--interactive and --detach: nobody would be there to type")
    if options.tty and options.interactive and not os.isatty(0):
        raise InvalidArgument("--tty and --interactive: standard input is no terminal; leave --tty away")
    timing = Timing()
    wanted = _wanted(options)
    client = session.client
    timing.step("connect")
    prepared = _prepare(options, session, client, wanted, timing)
    try:
        status = _detached(options, session, prepared, timing) if options.detach else None
        if status is None:
            status = _attached(options, session, prepared, timing)
    except Error as error:
        session.run(_remove(session, prepared))
        if options.timing:
            _show(timing)
        return own_failure(error)
    except BaseException:
        session.run(_remove(session, prepared))
        raise
    if options.timing:
        _show(timing)
    return status


def _prepare(
    options: argparse.Namespace, session: Session, client: Client, wanted: RunOptions, timing: Timing
) -> Prepared:
    """Make the container's record, after its image has been pulled if it must be."""
    if options.pull == "always" and not options.rootfs and not _pull(options, session, timing):
        raise InvalidArgument(f'--pull always: "{options.image}" is no name of an image in a registry')
    try:
        return session.run(create_container(client, options.image, wanted, timing))
    except ImageNotFound:
        if options.pull != "missing" or not _pull(options, session, timing):
            raise
    return session.run(create_container(client, options.image, wanted, timing))


def _pull(options: argparse.Namespace, session: Session, timing: Timing) -> bool:
    from wherry.cli.image_pull import pull_to_run

    pulled = pull_to_run(options.image, options.snapshotter, session)
    timing.step("pull")
    return pulled


def _detached(options: argparse.Namespace, session: Session, prepared: Prepared, timing: Timing) -> int:
    task = session.run(Task.create(session.client, prepared, "", "", "", options.tty))
    timing.step("create")
    session.run(task.start())
    timing.step("start")
    print(prepared.id)
    return 0


def _attached(options: argparse.Namespace, session: Session, prepared: Prepared, timing: Timing) -> int:
    from wherry.client.attached import Attached

    with Attached(
        session.channel, session.client, prepared.id, "", stdin=options.interactive, terminal=options.tty
    ) as attached:
        fifos = attached.fifos
        task = session.run(Task.create(session.client, prepared, fifos.stdin, fifos.stdout, fifos.stderr, options.tty))
        attached.created()
        timing.step("create")
        status = session.run(start_attached(task, "", attached.started, timing))
        attached.drain()
        session.run(task.delete())
        timing.step("delete")
    if options.rm:
        session.run(remove_container(session.client, prepared.id, prepared.snapshotter))
        timing.step("remove")
    return status


async def _remove(session: Session, prepared: Prepared) -> None:
    """Undo everything: whatever runs is killed, task, snapshot and record go."""
    await Task(session.client, prepared.id).end()
    await remove_container(session.client, prepared.id, prepared.snapshotter)


def own_failure(error: Error) -> int:
    """Tell an error on standard error and return the exit status for it: 127, 126, or 125."""
    print(f"wherry: {error}", file=sys.stderr)
    text = error.message.lower()
    if "oci runtime" in text:
        if any(words in text for words in _NOT_FOUND):
            return 127
        if any(words in text for words in _NOT_EXECUTABLE):
            return 126
    return 125


def _wanted(options: argparse.Namespace) -> RunOptions:
    wanted = RunOptions(options.args)
    wanted.id = options.name or ""
    wanted.entrypoint = options.entrypoint.split() if options.entrypoint is not None else None
    wanted.env = environment(options.env, options.env_file)
    wanted.mounts = options.mount
    wanted.labels = labels(options.label)
    wanted.read_only = options.read_only
    wanted.privileged = options.privileged
    wanted.terminal = options.tty
    wanted.host_network = options.net == "host"
    wanted.user = options.user
    wanted.cwd = options.cwd
    wanted.hostname = options.hostname
    wanted.cap_add = options.cap_add
    wanted.cap_drop = options.cap_drop
    wanted.memory = size_in_bytes(options.memory) if options.memory else 0
    wanted.cpus = _positive("--cpus", options.cpus)
    wanted.pids_limit = int(_positive("--pids-limit", options.pids_limit))
    wanted.volatile = options.rm
    wanted.runtime = options.runtime
    wanted.runc_binary = options.runc_binary
    wanted.snapshotter = options.snapshotter
    wanted.rootfs = options.image if options.rootfs else ""
    return wanted


def _positive(flag: str, value: float) -> float:
    if value < 0:
        raise InvalidArgument(f"{flag} {value:g} must not be negative")
    return value


def size_in_bytes(text: str) -> int:
    """Return a size written as 1000, 64k, 512m, 2g or 1t, in powers of 1024. InvalidArgument for others."""
    number = text.rstrip("bBkKmMgGtTiI")
    unit = text[len(number) :].lower().replace("ib", "").removesuffix("b") or ""
    try:
        return int(float(number) * _UNITS[unit])
    except (ValueError, KeyError):
        raise InvalidArgument(f"size {text!r}: it is a number, or one with k, m, g or t behind it") from None


def environment(variables: list[str], files: list[str]) -> list[str]:
    """Return the variables of files, then those given; a name alone takes our own value."""
    found: list[str] = []
    for path in files:
        with open(path) as file:
            for line in file:
                text = line.strip("\r\n").lstrip()
                if text and not text.startswith("#"):
                    found.append(text)
    found += variables
    result = []
    for variable in found:
        if "=" in variable:
            result.append(variable)
        elif variable in os.environ:
            result.append(f"{variable}={os.environ[variable]}")
        else:
            result.append(variable)
    return result


def labels(pairs: list[str]) -> dict[str, str]:
    """Return labels written as KEY=VALUE. InvalidArgument for a key that is empty."""
    found = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if not key:
            raise InvalidArgument(f"label {pair!r} must be KEY=VALUE")
        found[key] = value
    return found


def _show(timing: Timing) -> None:
    total = 0.0
    for name, milliseconds in timing:
        total += milliseconds
        print(f"  {name:<10} {milliseconds:8.1f} ms", file=sys.stderr)
    print(f"  {'total':<10} {total:8.1f} ms", file=sys.stderr)
