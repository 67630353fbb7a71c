"""What a worker is told about a layer that is being written while it is applied."""

from __future__ import annotations

#: One message: up to which offset the file can be read, little-endian.
OFFSET_SIZE = 8
#: What follows the last offset when the file is complete; no file is as long.
COMPLETE = (1 << 64) - 1
