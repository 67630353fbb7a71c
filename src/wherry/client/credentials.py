"""What is said to registries: the credentials of Docker's configuration, or those that a user gives."""

from __future__ import annotations

from wherry.errors import Error, InvalidArgument
from wherry.registry.docker_config import DockerConfig, files, find, key_of
from wherry.registry.options import Credentials as Credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from wherry.client.transfer import CredentialProvider


def from_configuration(environment: Mapping[str, str]) -> CredentialProvider:
    """Return what looks into Docker's and podman's files and asks their credential helpers."""

    def provide(host: str, reference: str) -> Credentials | None:
        return find(host, _repository(reference), environment)

    return provide


def given(text: str, reference: str) -> CredentialProvider:
    """Return what gives USER:PASSWORD to the registry of a reference, and nothing to others. InvalidArgument."""
    username, colon, password = text.partition(":")
    if not username or not colon:
        raise InvalidArgument("--user: USER:PASSWORD is expected")
    own = key_of(reference)

    def provide(host: str, _reference: str) -> Credentials | None:
        return Credentials(username, password) if key_of(host) == own else None

    return provide


def log_out(host: str, environment: Mapping[str, str]) -> list[str]:
    """Forget a registry's credentials wherever they are; returns the files that had them."""
    return [path for path in files(environment) if DockerConfig(path).erase(host or "docker.io")]


def log_in(host: str, credentials: Credentials, environment: Mapping[str, str]) -> tuple[str, bool]:
    """Keep credentials; returns where, and whether they stand there for everybody to read who can read the file."""
    config = DockerConfig(files(environment)[0])
    encrypted = bool(config.helper(host or "docker.io"))
    return config.store(host or "docker.io", credentials), not encrypted


def stored_user(host: str, environment: Mapping[str, str]) -> str:
    """Return the user who is logged in to a registry, "" if nobody is or it cannot be told."""
    try:
        found = find(host or "docker.io", environment=environment)
    except Error:
        return ""
    return found.username if found is not None else ""


def _repository(reference: str) -> str:
    """Return the repository of a full reference, without the registry, tag and digest."""
    path = reference.partition("/")[2].partition("@")[0]
    directory, slash, last = path.rpartition("/")
    return directory + slash + last.partition(":")[0]
