"""Which manifests refer to another as their subject: distribution specification 1.1, "Listing Referrers", and the index
under a tag that clients keep in registries without that."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from wherry.errors import FailedPrecondition, NotFound, ResourceExhausted
from wherry.oci import digest as digests
from wherry.oci import json_text, manifest
from wherry.oci.descriptor import Descriptor
from wherry.registry.hosts import Host
from wherry.registry.pages import pages

if TYPE_CHECKING:
    from wherry.registry.repository import Repository
    from wherry.registry.transport import Transport

_MAX_REFERRERS = 100_000


def tag(digest: str) -> str:
    """Return the tag of the index of who refers to a digest ("Referrers Tag Schema")."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


async def listed(
    repository: Repository, transport: Transport, host: Host, digest: str, artifact_type: str
) -> list[Descriptor]:
    """Return a host's referrers of a digest, of one type or of all."""
    about = f"{repository.host}/{repository.name}@{digest}: referrers"
    request = repository.request(host, "GET", "referrers", digest, about=about)
    request.query = {"artifactType": artifact_type} if artifact_type else {}
    request.headers["Accept"] = manifest.OCI_INDEX
    request.accepted = frozenset((200, 404))
    found: list[Descriptor] = []
    async with aclosing(pages(transport, request)) as documents:
        async for page in documents:
            if page.status == 404:
                found = await _tagged(repository, host, digest)
                break
            found += _index(page.body, f"{about}: {host.address}")
            if len(found) > _MAX_REFERRERS:
                raise ResourceExhausted(f"{about}: {host.address}: more than {_MAX_REFERRERS}")
    # Registries may pass over the filter.
    return [each for each in found if artifact_type in ("", each.artifact_type)]


async def add(
    repository: Repository, transport: Transport, host: Host, descriptor: Descriptor, document: bytes
) -> None:
    """Write a manifest that has a subject into the index of those that refer to it, for a registry that has no such."""
    value = manifest.parse_json(document, f"manifest {descriptor.digest}")
    if value.get("subject") is None:
        return
    subject = Descriptor.from_json(value["subject"], f"subject of manifest {descriptor.digest}")
    referrer = Descriptor(
        descriptor.media_type, descriptor.digest, len(document), _annotations(value), artifact_type=_type(value)
    )
    async with repository.referrers_lock:
        others = await _tagged(repository, host, subject.digest)
        if any(each.digest == referrer.digest for each in others):
            return
        index = {
            "schemaVersion": 2,
            "mediaType": manifest.OCI_INDEX,
            "manifests": [each.to_json() for each in (*others, referrer)],
        }
        data = json_text.dumps(index, ascii=False, colon=":", comma=",").encode()
        target = Descriptor(manifest.OCI_INDEX, digests.of(data), len(data))
        await repository.push_manifest(target, data, tag(subject.digest))


async def _tagged(repository: Repository, host: Host, digest: str) -> list[Descriptor]:
    try:
        descriptor, document = await repository.get_manifest(host, tag(digest))
    except NotFound:
        return []
    where = f"{repository.host}/{repository.name}:{tag(digest)}"
    if descriptor.media_type != manifest.OCI_INDEX:
        raise FailedPrecondition(f"{where}: not an index of referrers")
    return _index(document, where)


def _index(document: bytes, where: str) -> list[Descriptor]:
    parsed = manifest.parse(Descriptor(manifest.OCI_INDEX, digests.EMPTY, len(document)), document, where)
    assert isinstance(parsed, manifest.Index)
    return parsed.manifests


def _annotations(value: dict[str, Any]) -> dict[str, str]:
    found = value.get("annotations")
    if not isinstance(found, dict):
        return {}
    return {key: text for key, text in found.items() if isinstance(text, str)}


def _type(value: dict[str, Any]) -> str:
    config = value.get("config")
    implied = config.get("mediaType", "") if isinstance(config, dict) else ""
    found = value.get("artifactType") or implied
    return found if isinstance(found, str) else ""
