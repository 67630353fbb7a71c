"""Namespaces: each a world of images, containers and everything else of its own."""

from __future__ import annotations

from wherry.api.services.namespaces.v1 import namespaces_pb2
from wherry.api.wellknown_pb2 import FieldMask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from wherry.api.services.namespaces.v1.namespaces_pb2 import Namespace as Namespace
    from wherry.client.client import Client


class Namespaces:
    """A daemon's namespaces."""

    def __init__(self, client: Client) -> None:
        self._stub = client.namespaces
        # containerd 1.6 files the events of namespaces under the caller's.
        self._metadata = client.metadata

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Create a namespace. AlreadyExists if there is one of that name, InvalidArgument for a name that cannot be."""
        namespace = namespaces_pb2.Namespace(name=name, labels=labels)
        await self._stub.create(namespaces_pb2.CreateNamespaceRequest(namespace=namespace), metadata=self._metadata)

    async def label(self, name: str, labels: Mapping[str, str]) -> None:
        """Set these labels of a namespace, and take away those whose value is empty; the others stay."""
        await self._stub.update(
            namespaces_pb2.UpdateNamespaceRequest(
                namespace=namespaces_pb2.Namespace(name=name, labels=labels),
                update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
            ),
            metadata=self._metadata,
        )

    async def delete(self, name: str) -> None:
        """Delete an empty namespace. NotFound if there is none, FailedPrecondition, telling what is left, if it is not
        empty."""
        await self._stub.delete(namespaces_pb2.DeleteNamespaceRequest(name=name), metadata=self._metadata)

    async def list(self) -> list[Namespace]:
        """Return all namespaces."""
        response = await self._stub.list(namespaces_pb2.ListNamespacesRequest(), metadata=self._metadata)
        return list(response.namespaces)
