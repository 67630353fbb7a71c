"""What both ends of a gRPC connection agree on."""

from __future__ import annotations

import os
from urllib.parse import quote

#: Bytes of one message: both of containerd's ends raise gRPC's own limit of 4 MiB to this.
MAX_MESSAGE = 16 << 20

OPTIONS = [("grpc.max_send_message_length", MAX_MESSAGE), ("grpc.max_receive_message_length", MAX_MESSAGE)]


def target(path: str) -> str:
    """Return what gRPC calls a unix socket: its names are URIs."""
    return f"unix:{quote(os.path.abspath(path))}"
