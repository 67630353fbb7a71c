"""The process that applies one layer, makes one, or copies one tree, and ends: a target of the zygote, or a program.

The daemon hands over a socket, on which it gets one JSON object back, and the descriptors of the layer. What is mounted
here is mounted in a mount namespace of this process, so whatever becomes of it, no mount stays behind.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from wherry.errors import Error, FailedPrecondition, ResourceExhausted, Unknown
from wherry.images.apply import Applier, Overlay
from wherry.images.archive import Writer
from wherry.images.compression import CompressedLayer
from wherry.images.diff import Differ, layers, top_layer
from wherry.images.layer import DecompressedLayer, File, GrowingFile
from wherry.images.pending import NAME, Pending, Record
from wherry.images.rebase import settle
from wherry.images.tar import Reader, Stream
from wherry.linux import mount, tree
from wherry.linux.libc import check, libc
from wherry.linux.mount import Mount
from wherry.oci import digest as digests

_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def main(arguments: dict[str, Any], fds: list[int]) -> None:
    """Do what `arguments["action"]` says; the answer, or the error, goes to the first descriptor.

    apply: a layer read from the second descriptor, to `mounts`. Answers digest and size of the uncompressed archive.
    With `follow` the layer is being written yet, and the third descriptor tells how far (`wherry.images.layer`).
    diff: the layer that leads from the mounts `left` to `right`, written to the second descriptor. Answers digest and
    size of what was written, and the digest uncompressed. copy: the directory `source` into the empty `target`.
    settle: what `record` says is pending for the directory `upper`, over `lowers`; the record is removed.
    """
    try:
        # Trees may be deep, and every level of one that is walked is open.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        sys.setrecursionlimit(100_000)
        answer = _ACTIONS[arguments["action"]](arguments, fds[1:])
    except Error as error:
        answer = {"code": error.code, "error": error.message}
    except OSError as error:
        failure = describe(error)
        answer = {"code": failure.code, "error": failure.message}
    except MemoryError:
        answer = {"code": ResourceExhausted.code, "error": "out of memory: resource exhausted"}
    except BaseException as error:
        answer = {"code": Unknown.code, "error": f"{type(error).__name__}: {error}"}
    rest = json.dumps(answer).encode()
    while rest:
        rest = rest[os.write(fds[0], rest) :]


def describe(error: OSError) -> Error:
    """Return the kind and the words for an error of the kernel's."""
    text = (error.strerror or str(error)).lower()
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    if names:
        text = f"{' -> '.join(names)}: {text}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(text)
    if error.errno == errno.EROFS:
        return FailedPrecondition(text)
    return Unknown(text)


def _apply(arguments: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    target = _target(_mounts(arguments["mounts"]), arguments["mount_point"])
    directory = os.open(target.root, _DIRECTORY)
    _enter(target.root)
    source = GrowingFile(fds[0], fds[1]) if arguments.get("follow") else File(fds[0])
    layer = DecompressedLayer(source, compressed=arguments["compressed"])
    try:
        stream = Stream(layer)
        Applier(Reader(stream), target.overlay).apply()
        # The digest is that of all the bytes, also of those after the archive's end.
        stream.drain()
    finally:
        layer.close()
    if target.lowers is not None:
        settle(target.pending, target.lowers, user_xattrs=target.user_xattrs)
    if arguments["sync"]:
        check(libc.syncfs(directory))
    if target.record is not None and target.pending:
        target.record.write(target.pending.encode(user_xattrs=target.user_xattrs, sync=arguments["sync"]))
    return {"digest": layer.digest, "size": layer.size}


def _settle(arguments: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
    record = Record(arguments["record"])
    document = record.read()
    if document is None:
        return {}
    pending = Pending.decode(document)
    lowers = [os.open(lower, _PATH) for lower in arguments["lowers"]]
    directory = os.open(arguments["upper"], _DIRECTORY)
    _enter(arguments["upper"])
    settle(pending, lowers, user_xattrs=document["user_xattrs"])
    if document["sync"]:
        check(libc.syncfs(directory))
    record.remove()
    return {}


def _enter(root: str) -> None:
    """Make a layer's directory our root. From here on nothing is imported: it would be the layer's."""
    digests.hasher()  # which imports what it needs the first time
    sys.meta_path.clear()
    os.chroot(root)
    os.chdir("/")


class _Target:
    """The directory that a layer is applied to, and what to know of it."""

    def __init__(self, root: str) -> None:
        self.root = root
        #: How removals are written down, if the directory is an overlay's upper one.
        self.overlay: Overlay | None = None
        self.user_xattrs = False
        self.pending = Pending()
        #: Descriptors of the layers below, top first; None as long as nobody knows them.
        self.lowers: list[int] | None = None
        #: Where what is pending until then is kept.
        self.record: Record | None = None

    @classmethod
    def upper(cls, root: str, pending: Pending, *, user_xattrs: bool) -> _Target:
        target = cls(root)
        target.user_xattrs = user_xattrs
        target.pending = pending
        target.overlay = Overlay(pending, user_xattrs=user_xattrs)
        return target


def _target(mounts: list[Mount], mount_point: str) -> _Target:
    """Return the directory that shows what is mounted, or an overlay's upper one."""
    for each in mounts:
        if "ro" in each.options:
            raise FailedPrecondition(f"cannot apply a layer to a read-only mount of {each.source}")
    alone = _upper_alone(mounts)
    if alone is not None:
        record = Record(os.path.join(os.path.dirname(alone), NAME))
        document = record.read()
        pending = Pending.decode(document) if document else Pending()
        target = _Target.upper(alone, pending, user_xattrs=_keeps_user_xattrs(mounts[0]))
        target.record = record
        return target
    directories = layers(mounts)
    if directories is not None and mounts[0].type != "overlay":
        return _Target(directories[0])
    if directories is not None:
        if not any(option.startswith("upperdir=") for option in mounts[0].options):
            raise FailedPrecondition("cannot apply a layer to an overlay without an upper directory")
        # Privileged attributes need the initial user namespace; without them the kernel must do the overlay's part.
        if "userxattr" in mounts[0].options or _in_initial_user_namespace():
            target = _Target.upper(directories[0], Pending(), user_xattrs="userxattr" in mounts[0].options)
            target.lowers = [os.open(lower, _PATH) for lower in directories[1:]]
            return target
    if not mounts:
        raise FailedPrecondition("no mounts to apply a layer to")
    mount.enter_private_namespace()
    mount.mount_all(mounts, mount_point)
    return _Target(mount_point)


def _upper_alone(mounts: list[Mount]) -> str | None:
    """Return the upper directory of an overlay whose lower ones are not known yet; None if it is none such.

    That is how clients ask for layers to be unpacked side by side: the mounts are those of snapshots without parent.
    """
    if len(mounts) != 1 or mounts[0].type != "overlay" or mounts[0].target.strip("/"):
        return None
    options = dict(option.partition("=")[::2] for option in mounts[0].options)
    if not options.keys() <= {"upperdir", "workdir", "index", "userxattr", "rw"}:
        return None
    return options.get("upperdir")


def _keeps_user_xattrs(overlay: Mount) -> bool:
    return "userxattr" in overlay.options or not _in_initial_user_namespace()


def _in_initial_user_namespace() -> bool:
    with open("/proc/self/uid_map") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def _diff(arguments: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    left, right = _mounts(arguments["left"]), _mounts(arguments["right"])
    output = CompressedLayer(fds[0], arguments["compression"])
    with ExitStack() as stack:
        top = top_layer(left, right)
        top_fd = _opened(top, stack) if top is not None else None
        mount.enter_private_namespace()
        old = _opened(_shown(left, arguments["mount_points"][0]), stack)
        new = _opened(_shown(right, arguments["mount_points"][1]), stack)
        Differ(Writer(output.write, latest=arguments["latest"])).write(old, new, top_fd)
        output.finish()
    return {"digest": output.digest, "size": output.size, "uncompressed": output.uncompressed}


def _shown(mounts: list[Mount], mount_point: str) -> str:
    """Return a directory that shows what mounts would, and mount them read-only if that is what it takes."""
    directories = layers(mounts)
    if directories is not None and len(directories) == 1:
        return directories[0]
    if mounts:
        mount.mount_all(mount.read_only(mounts), mount_point)
    return mount_point


def _opened(path: str, stack: ExitStack) -> int:
    fd = os.open(path, _DIRECTORY)
    stack.callback(os.close, fd)
    return fd


def _copy(arguments: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    tree.copy(arguments["source"], arguments["target"])
    return {}


def _mounts(described: list[dict[str, Any]]) -> list[Mount]:
    return [Mount(each["type"], each["source"], each["options"], each["target"]) for each in described]


_ACTIONS: dict[str, Callable[[dict[str, Any], list[int]], dict[str, Any]]] = {
    "apply": _apply,
    "diff": _diff,
    "copy": _copy,
    "settle": _settle,
}

if __name__ == "__main__":
    main(json.loads(sys.argv[1]), json.loads(sys.argv[2]))
