"""Differences between Debian's containerd and wherryd that are known and not mended yet, each with what differs.

They are run and reported (xfail); what begins to agree is taken off this list.
"""

from __future__ import annotations

KNOWN: dict[str, str] = {}
