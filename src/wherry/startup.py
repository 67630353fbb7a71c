"""What wherry's own programs do before their first import. Not for programs that use wherry as a library."""

from __future__ import annotations

import gc
import marshal
import os
import posix
import sys

# What importlib.util and importlib.machinery export, which take time to import themselves.
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

#: New objects before there is a search for garbage: more than a command makes.
_GARBAGE = 100_000

_PACKAGE = __name__.rpartition(".")[0] + "."

#: A compiled file: the magic number, no flags (so source's time and size follow), both of 4 bytes, the code.
_HEAD = MAGIC_NUMBER + bytes(4)
_CODE = 16
#: No module here comes near it.
_MAX_SIZE = 1 << 16


def forgo_tls() -> None:
    """Keep OpenSSL out of this process, for good: asyncio imports it wherever it is, which takes 15 ms and 2 MB.

    Without effect once it has been imported. Afterwards `import ssl` is an ImportError.
    """
    if "ssl" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # as the import system documents it


def forgo_fork_handlers() -> None:
    """Have nothing that is imported from now on called around forks: for a process that has one thread, always.

    logging, threading and random register with os.register_at_fork(), for locks that other threads may hold, for other
    threads, for numbers that differ. Of these one that has no other threads needs the last, and calls random.seed()
    itself where it matters. In a child of a process as large as a shim they take a millisecond and 170 page faults.
    """
    os.register_at_fork = _register_nothing


def _register_nothing(*, before: object = None, after_in_child: object = None, after_in_parent: object = None) -> None:
    return


def hurry() -> None:
    """Do without what only programs that stay have something of.

    Garbage is not looked for while a command imports and does its work; and wherry's modules are found where they are:
    what the import system asks before it has a hundred of them takes it some 3 ms.
    """
    gc.set_threshold(_GARBAGE)
    if not sys.flags.optimize and sys.pycache_prefix is None:
        sys.meta_path.insert(0, _CompiledFinder)


class _CompiledFinder:
    """Finds modules of this package whose compiled files are up to date; all others are the import system's."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the specification of a module, None for one that is left to others."""
        if path is None or not name.startswith(_PACKAGE):
            return None
        directory, stem = path[0], name.rpartition(".")[2]
        is_package = False
        try:
            try:
                source = posix.stat(f"{directory}/{stem}.py")
            except FileNotFoundError:
                directory, stem, is_package = f"{directory}/{stem}", "__init__", True
                source = posix.stat(f"{directory}/{stem}.py")
            cached = f"{directory}/__pycache__/{stem}.{sys.implementation.cache_tag}.pyc"
            fd = posix.open(cached, posix.O_RDONLY | posix.O_CLOEXEC)
            try:
                data = posix.read(fd, _MAX_SIZE)
            finally:
                posix.close(fd)
        except OSError:
            return None
        time, size = int(source.st_mtime) & 0xFFFFFFFF, source.st_size & 0xFFFFFFFF
        if len(data) == _MAX_SIZE or data[:_CODE] != _HEAD + time.to_bytes(4, "little") + size.to_bytes(4, "little"):
            return None
        loader = _CompiledLoader(name, f"{directory}/{stem}.py")
        loader.code = marshal.loads(memoryview(data)[_CODE:])  # noqa: S302  # as all imports do
        spec = ModuleSpec(name, loader, origin=loader.path, is_package=is_package)
        spec.has_location = True
        spec.cached = cached
        if is_package:
            spec.submodule_search_locations = [directory]
        return spec


class _CompiledLoader(SourceFileLoader):
    """Loads a module whose code has been read already."""

    code: CodeType | None = None

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the module's code, once; afterwards read it again."""
        code, self.code = self.code, None
        return code or super().get_code(fullname)
