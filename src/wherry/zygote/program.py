"""A target that becomes another program: for those that want descriptors under fixed numbers, from 3 up."""

from __future__ import annotations

import os
from typing import Any


def main(arguments: dict[str, Any], fds: list[int]) -> None:
    """Change to the directory `cwd` and execute `argv` with the environment `env` and the descriptors open."""
    for fd in fds:
        os.set_inheritable(fd, True)
    os.chdir(arguments["cwd"])
    os.execvpe(arguments["argv"][0], arguments["argv"], arguments["env"])
