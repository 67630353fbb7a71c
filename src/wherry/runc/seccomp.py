"""A seccomp profile made into a BPF program. OCI runtime specification, config-linux.md, "Seccomp"; seccomp(2).

All of it happens in the runtime, before there is a process: the process itself only loads what came of it. Where the
specification leaves a choice, it is runc's.
"""

from __future__ import annotations

import marshal

from wherry import __version__
from wherry.errors import InvalidArgument
from wherry.linux.seccomp import (
    INSTRUCTION_SIZE,
    MAX_INSTRUCTIONS,
    SECCOMP_FILTER_FLAG_LOG,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    SECCOMP_FILTER_FLAG_TSYNC,
    SECCOMP_FILTER_FLAG_TSYNC_ESRCH,
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
)
from wherry.runc import seccomp_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from wherry.runc.libseccomp import Library

#: By the specification's names.
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": SECCOMP_FILTER_FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}

#: What each compiled profile of this process became, by digest. Cleared when it is full: nobody has that many.
_compiled: dict[bytes, tuple[bytes, int, bool]] = {}
_MOST_COMPILED = 32

_library: Library | None = None

#: The fields that say where a listener goes, and nothing of the filter; the metadata are often one container's.
_NOT_COMPILED = ("listenerPath", "listenerMetadata")


class Filter:
    """What a process loads, with wherry.linux.seccomp.load_filter, and where its listener goes."""

    __slots__ = ("flags", "listener_metadata", "listener_path", "notify", "program")

    def __init__(self, program: bytes, flags: int, notify: bool, listener_path: str, listener_metadata: str) -> None:
        #: An array of struct sock_filter.
        self.program = program
        #: SECCOMP_FILTER_FLAG_…
        self.flags = flags
        #: Whether loading it makes a listener, seccomp_unotify(2), which is to be sent to `listener_path`.
        self.notify = notify
        self.listener_path = listener_path
        self.listener_metadata = listener_metadata


def compile_filter(seccomp: Mapping[str, Any], *, cache_directory: str = "") -> Filter | None:
    """Return the filter of a `linux.seccomp`, None if it is one that says nothing.

    What was compiled once is kept in memory, and if a directory is named, there: one that this user owns, with mode
    700, or that can be made. InvalidArgument for what is no profile, names the field; FailedPrecondition if there is no
    libseccomp.
    """
    if not seccomp.get("defaultAction") and not seccomp.get("syscalls"):
        return None
    path, metadata = (_text(seccomp, name) for name in _NOT_COMPILED)
    profile = _digest({key: value for key, value in seccomp.items() if key not in _NOT_COMPILED})
    compiled = _compiled.get(profile)
    if compiled is None:
        if cache_directory:
            compiled = seccomp_cache.read(cache_directory, profile)
        if compiled is None:
            compiled = _compile(seccomp)
            if cache_directory:
                seccomp_cache.write(cache_directory, profile, *compiled, _loaded().path())
        if len(_compiled) >= _MOST_COMPILED:
            _compiled.clear()
        _compiled[profile] = compiled
    program, flags, notify = compiled
    if notify and not path:
        raise InvalidArgument("listenerPath is not set")
    return Filter(program, flags, notify, path, metadata)


def _digest(profile: dict[str, Any]) -> bytes:
    try:
        # Twice as fast as JSON, and of no ambiguity either; version 2 says nothing but the values. Another version of
        # this package may make something else of them.
        return seccomp_cache.digest(__version__.encode() + b"\0" + marshal.dumps(profile, 2))
    except ValueError as error:
        raise InvalidArgument(f"linux.seccomp: {error}") from None


def _loaded() -> Library:
    global _library
    if _library is None:
        from wherry.runc.libseccomp import Library

        _library = Library()
    return _library


def _compile(seccomp: Mapping[str, Any]) -> tuple[bytes, int, bool]:
    from wherry.runc import seccomp_profile
    from wherry.runc.seccomp_enosys import prologue

    library = _loaded()
    profile = seccomp_profile.parse(seccomp)
    flags = 0
    for name in profile.flags:
        if name not in FLAGS:
            raise InvalidArgument(f"seccomp flag {name!r} is not one that this runtime knows: {', '.join(FLAGS)}")
        flags |= FLAGS[name]
    if profile.notifies:
        flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER
        if flags & SECCOMP_FILTER_FLAG_TSYNC:
            # The kernel wants its error otherwise: a descriptor and a thread's id could not be told apart.
            flags |= SECCOMP_FILTER_FLAG_TSYNC_ESRCH
    elif flags & SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV:
        raise InvalidArgument("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY")
    program = prologue(library, profile) + seccomp_profile.build(library, profile)
    if len(program) > MAX_INSTRUCTIONS * INSTRUCTION_SIZE:
        count = len(program) // INSTRUCTION_SIZE
        raise InvalidArgument(
            f"seccomp profile is too long: {count} instructions, and the kernel takes {MAX_INSTRUCTIONS}"
        )
    return program, flags, profile.notifies


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidArgument(f"linux.seccomp.{name}: {value!r} is of the wrong type")
    return value or ""
