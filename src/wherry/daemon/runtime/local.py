"""NoShim: the shim's core in the daemon's own process, called without a wire.

Its containers end with the daemon; what a daemon that was killed left of them, the next one cleans up. The OCI runtime
is a program here as well: the daemon has threads, and never forks.
"""

from __future__ import annotations

import asyncio

from wherry.api import typeurl
from wherry.daemon.exchange import Exchange
from wherry.linux.process import become_subreaper
from wherry.rpc.local_channel import LocalChannel
from wherry.shim.core import Core
from wherry.shim.events import V1_TOPICS
from wherry.shim.reaper import SharingReaper
from wherry.shim.service_v1 import ShimService
from wherry.shim.service_v2 import TaskServiceV3
from wherry.shim.tasks import Tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message


class _Sink:
    """Events on the shortest way to the exchange; of runtime v1 those that a shim publishes."""

    def __init__(self, exchange: Exchange, namespace: str, *, v1: bool) -> None:
        self._exchange = exchange
        self._namespace = namespace
        self._v1 = v1

    def publish(self, topic: str, event: Message) -> None:
        if not self._v1 or topic in V1_TOPICS:
            self._exchange.publish_any(self._namespace, topic, typeurl.pack(event))


class LocalShims:
    """Makes cores of shims that share this process."""

    def __init__(self, exchange: Exchange, group: asyncio.TaskGroup) -> None:
        """Become the parent of containers: this process is a subreaper from now on."""
        become_subreaper()
        self._exchange = exchange
        self._reaper = SharingReaper()
        self._tasks = Tasks(group)

    def channel(self, namespace: str, *, v1: bool) -> LocalChannel:
        """Return the way to a new core for one container of a namespace."""
        core = Core(namespace, _Sink(self._exchange, namespace, v1=v1), self._reaper, self._tasks)
        return LocalChannel([TaskServiceV3(core), ShimService(core, "", False)])

    def close(self) -> None:
        """Stop collecting children; there must be no container any more."""
        self._reaper.close()
