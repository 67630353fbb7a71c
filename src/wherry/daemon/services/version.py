"""containerd.services.version.v1.Version."""

from __future__ import annotations

import wherry
from wherry.api.services.version.v1 import version_pb2 as api
from wherry.api.wellknown_pb2 import Empty
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service

#: containerd's version whose features are here. Clients switch on it: from 2.0.0 on nerdctl pulls and pushes through
#: Transfer, which is not there yet; below 1.6 it warns. Our own number stands where semantic versions keep a build.
CONTAINERD_VERSION = f"1.7.0+wherry.{wherry.__version__}"


class VersionService(Service):
    """The version; no call needs a namespace."""

    descriptor = api.DESCRIPTOR.services_by_name["Version"]

    async def version(self, request: Empty, context: CallContext) -> api.VersionResponse:
        return api.VersionResponse(version=CONTAINERD_VERSION, revision=f"wherry {wherry.__version__}")
