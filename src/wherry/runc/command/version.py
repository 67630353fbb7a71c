"""`--version`, in the lines that dockerd, podman and containerd take apart."""

from __future__ import annotations

import sys

import wherry

SPECIFICATION = "1.2.0"


def version() -> str:
    """Return what stands behind `wherry-runc version`: dockerd splits at that word, and at the colons below it."""
    lines = [wherry.__version__, f"commit: {wherry.__version__}", f"spec: {SPECIFICATION}"]
    lines.append(f"python: {'.'.join(str(number) for number in sys.version_info[:3])}")
    library = libseccomp_version()
    if library:
        lines.append(f"libseccomp: {library}")
    return "\n".join(lines)


def libseccomp_version() -> str:
    """Return the version of the machine's libseccomp, "" without one."""
    from wherry.errors import FailedPrecondition
    from wherry.runc.libseccomp import Library

    try:
        return ".".join(str(number) for number in Library().version)
    except FailedPrecondition:
        return ""
