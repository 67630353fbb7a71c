"""Named steps of wherryd and its shims, at each of which a test can have the process kill itself.

Python imports this module at its start where PYTHONPATH says so; the code under test knows nothing of it. A step is
armed by a file "armed STEP" in the directory WHERRY_TEST_FAULTS; the process that reaches the step first takes the
file, as "hit STEP PID", and dies of SIGKILL.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

#: Of each module the functions that are steps: each before it begins, and when it is done.
STEPS = {
    "wherry.daemon.runtime.bundle": ("Bundle.create", "Bundle.record_shim", "Bundle.delete"),
    "wherry.daemon.runtime.shims": ("Starter.start",),
    "wherry.daemon.runtime.shim_manager": (
        "ShimManager._connect",
        "ShimManager._register",
        "ShimManager._shut_down",
        "ShimManager._forget",
    ),
    "wherry.daemon.runtime.task": ("V2Client.create", "V2Client.start", "V2Client.exec", "V2Client.delete"),
    "wherry.shim.container": ("Container.create", "Container.add_exec", "Container._settle"),
    "wherry.shim.init": ("Init._mount", "Init.start", "Init.delete", "Init._unmount"),
    "wherry.shim.exec": ("Exec.start", "Exec.delete"),
    "wherry.shim.process": ("Process.adopt",),
    "wherry.shim.runtime": ("RuncBinary.create", "RuncBinary.start", "RuncBinary.exec", "RuncBinary.delete"),
    "wherry.shim.builtin": (
        "BuiltinRuntime.create",
        "BuiltinRuntime.start",
        "BuiltinRuntime.exec",
        "BuiltinRuntime.delete",
    ),
    "wherry.shim.record": ("write_exit",),
    "wherry.runc.create": (
        "Creation._make_directory",
        "Creation._make_cgroup",
        "Creation._launch",
        "Creation.finish",
    ),
    "wherry.runc.exec": ("Execution._launch", "Execution.finish"),
    "wherry.store.snapshots.directories": ("Directories.place", "Directories.retire", "Directories._delete"),
    "wherry.store.snapshots.btrfs": ("Subvolumes.fill", "Subvolumes._delete", "Btrfs.commit"),
    "wherry.store.snapshots.erofs": (
        "Erofs._make_image",
        "_place_image",
        "Erofs.commit",
        "Erofs.committed",
        "Erofs._mount_image",
        "Erofs._unmount_images",
    ),
}


def names(prefix: str) -> list[str]:
    """Return the names of the steps of modules with a prefix."""
    return [
        f"{module}.{function} {moment}"
        for module, functions in STEPS.items()
        if module.startswith(prefix)
        for function in functions
        for moment in ("begins", "done")
    ]


def _reach(directory: str, step: str) -> None:
    try:
        os.rename(f"{directory}/armed {step}", f"{directory}/hit {step} {os.getpid()}")
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _with_steps(function: Callable[..., Any], directory: str, name: str) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*arguments: Any, **keywords: Any) -> Any:
            _reach(directory, f"{name} begins")
            result = await function(*arguments, **keywords)
            _reach(directory, f"{name} done")
            return result

        return awaited

    @functools.wraps(function)
    def called(*arguments: Any, **keywords: Any) -> Any:
        _reach(directory, f"{name} begins")
        result = function(*arguments, **keywords)
        _reach(directory, f"{name} done")
        return result

    return called


class _Loader(importlib.abc.Loader):
    """Loads a module as it is, and then puts the steps into it."""

    def __init__(self, loader: Any, directory: str) -> None:
        self._loader = loader
        self._directory = directory

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        for path in STEPS[module.__name__]:
            owner, _, name = path.rpartition(".")
            place = getattr(module, owner) if owner else module
            step = f"{module.__name__}.{path}"
            setattr(place, name, _with_steps(getattr(place, name), self._directory, step))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, directory: str) -> None:
        self._directory = directory

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in STEPS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader = _Loader(spec.loader, self._directory)
        return spec


if "WHERRY_TEST_FAULTS" in os.environ:
    sys.meta_path.insert(0, _Finder(os.environ["WHERRY_TEST_FAULTS"]))
