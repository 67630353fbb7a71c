"""What a call carries besides its message: namespace, lease, the rest of its metadata."""

from __future__ import annotations

from wherry import identifiers
from wherry.errors import FailedPrecondition, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAMESPACE_GRPC = "containerd-namespace"
NAMESPACE_TTRPC = "containerd-namespace-ttrpc"
LEASE = "containerd-lease"

#: wherry's own, on Diff.Apply: the layer may be one that is being fetched yet.
FOLLOW = "wherry-follow"


class CallContext:
    """The circumstances of one call. `metadata` keeps the first value of each key, as containerd's readers do."""

    __slots__ = ("metadata", "timeout")

    def __init__(self, metadata: Iterable[tuple[str, str]] = (), timeout: float | None = None) -> None:
        self.metadata: dict[str, str] = {}
        for key, value in metadata:
            self.metadata.setdefault(key, value)
        #: Seconds that the caller will wait, or None.
        self.timeout = timeout

    @property
    def namespace(self) -> str:
        """The caller's namespace. FailedPrecondition without one, InvalidArgument for a malformed one."""
        namespace = self.namespace_or_empty
        if not namespace:
            raise FailedPrecondition("namespace is required")
        try:
            identifiers.validate(namespace)
        except InvalidArgument as error:
            raise InvalidArgument(f"namespace validation: {error.message}") from None
        return namespace

    @property
    def namespace_or_empty(self) -> str:
        """The caller's namespace as it was sent, or ""."""
        return self.metadata.get(NAMESPACE_GRPC) or self.metadata.get(NAMESPACE_TTRPC) or ""

    @property
    def lease(self) -> str:
        """The id of the lease that the call is made under, or ""."""
        return self.metadata.get(LEASE, "")

    @property
    def may_follow(self) -> bool:
        """Whether content that is being written may be read before it is complete."""
        return FOLLOW in self.metadata


def metadata_for(namespace: str = "", lease: str = "") -> list[tuple[str, str]]:
    """Return the metadata a client sends: the namespace under both its keys, so that either transport carries it."""
    metadata = []
    if namespace:
        metadata += [(NAMESPACE_GRPC, namespace), (NAMESPACE_TTRPC, namespace)]
    if lease:
        metadata.append((LEASE, lease))
    return metadata
