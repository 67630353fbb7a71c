"""Credentials where `docker login` and `podman login` keep them: config.json, auth.json, credential helpers.

Formats: Docker's config.json ("auths", "credsStore", "credHelpers"), containers-auth.json(5), and the protocol of
docker-credential-helpers: a program `docker-credential-NAME` with get, store or erase as its argument.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode

from wherry.errors import FailedPrecondition, InvalidArgument, Unavailable
from wherry.registry.options import Credentials, CredentialsKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

#: What Docker Hub's credentials are stored under, and the names of it that people and registries' clients use.
HUB = "https://index.docker.io/v1/"
_HUB_NAMES = frozenset(
    ("docker.io", "index.docker.io", "registry-1.docker.io", "www.docker.io", "registry.hub.docker.com")
)

#: The user name by which credential helpers mark an identity token.
_TOKEN_USER = "<token>"  # noqa: S105

_BEARER = "Bearer "

#: Seconds that a credential helper may take. It may ask its user for a passphrase.
_HELPER_TIMEOUT = 300.0

#: What helpers say of what they do not have (docker-credential-helpers, credentials/error.go).
_HELPER_NOT_FOUND = "credentials not found in native keychain"


def find(host: str, repository: str = "", environment: Mapping[str, str] = os.environ) -> Credentials | None:
    """Return the credentials for a registry's host (and port), or None if there are none.

    `repository` chooses among those that podman keeps for parts of a registry. InvalidArgument for a damaged file,
    FailedPrecondition for a credential helper that is not installed, Unavailable for one that fails.
    """
    for path in files(environment):
        found = DockerConfig(path).find(host, repository)
        if found is not None:
            return found
    return None


def files(environment: Mapping[str, str]) -> list[str]:
    """Return the files that may hold credentials, the one to write first.

    $DOCKER_CONFIG/config.json or $REGISTRY_AUTH_FILE, if either is set, alone; else Docker's, then podman's.
    """
    if environment.get("DOCKER_CONFIG"):
        return [os.path.join(environment["DOCKER_CONFIG"], "config.json")]
    if environment.get("REGISTRY_AUTH_FILE"):
        return [environment["REGISTRY_AUTH_FILE"]]
    home = environment.get("HOME") or os.path.expanduser("~")
    found = [os.path.join(home, ".docker", "config.json")]
    if environment.get("XDG_RUNTIME_DIR"):
        found.append(os.path.join(environment["XDG_RUNTIME_DIR"], "containers", "auth.json"))
    config = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    return [*found, os.path.join(config, "containers", "auth.json")]


def key_of(host: str) -> str:
    """Return what a registry's credentials are stored under: its host and port, or Docker Hub's address."""
    name = _host(host)
    return HUB if name in _HUB_NAMES else name


def _host(key: str) -> str:
    """Return the host of a key, which may be an address: https://HOST/v1/."""
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


class DockerConfig:
    """One file. It is read when this is made; one that does not exist is empty."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._document: dict[str, Any] = {}
        try:
            with open(path, "rb") as file:
                content = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return
        if not content.strip():
            return
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"{path}: not JSON: {error}") from None
        if not isinstance(document, dict):
            raise InvalidArgument(f"{path}: not a JSON object")
        self._document = document

    def find(self, host: str, repository: str = "") -> Credentials | None:
        """Return a host's credentials, of a helper or of the file itself. Raises as the module's `find`."""
        helper = self.helper(host)
        if helper:
            found = _get(helper, key_of(host))
            if found is not None:
                return found
        for key in self._keys(host, repository):
            found = self._stored(key)
            if found is not None:
                return found
        return None

    def helper(self, host: str) -> str:
        """Return the credential helper that the file names for a host, as the end of its program's name; "" if none."""
        helpers = self._section("credHelpers")
        for key in (key_of(host), _host(host), *(sorted(_HUB_NAMES) if key_of(host) == HUB else ())):
            if helpers.get(key):
                return str(helpers[key])
        return str(self._document.get("credsStore") or "")

    def store(self, host: str, credentials: Credentials) -> str:
        """Keep credentials; returns the program or the file that does. OSError if the file cannot be written."""
        key = key_of(host)
        helper = self.helper(host)
        auths = self._document.setdefault("auths", {})
        if helper:
            _store(helper, key, credentials)
            auths[key] = {}  # for those who list where one is logged in
        else:
            is_password = credentials.kind is CredentialsKind.CREDENTIALS
            pair = f"{credentials.username}:{credentials.secret if is_password else ''}"
            auths[key] = {"auth": b64encode(pair.encode()).decode()}
            if credentials.kind is CredentialsKind.REFRESH:
                auths[key]["identitytoken"] = credentials.secret
            elif credentials.kind is CredentialsKind.HEADER:
                auths[key]["registrytoken"] = credentials.secret.removeprefix(_BEARER)
        self._write()
        return f"docker-credential-{helper}" if helper else self.path

    def erase(self, host: str) -> bool:
        """Forget a host's credentials; tells whether there were any."""
        key = key_of(host)
        helper = self.helper(host)
        found = False
        if helper and _get(helper, key) is not None:
            _call(helper, "erase", key)
            found = True
        auths = self._section("auths")
        for each in [each for each in auths if each == key or ("/" not in each and key_of(each) == key)]:
            del auths[each]
            found = True
        if found:
            self._write()
        return found

    def _section(self, name: str) -> dict[str, Any]:
        section = self._document.get(name)
        if section is None:
            return {}
        if not isinstance(section, dict):
            raise InvalidArgument(f"{self.path}: {name} is not an object")
        return section

    def _keys(self, host: str, repository: str) -> Iterator[str]:
        """Yield the keys that credentials for a host may stand under, the most special first."""
        auths = self._section("auths")
        key = key_of(host)
        parts = repository.split("/") if repository else []
        names = [_host(host), *(sorted(_HUB_NAMES) if key == HUB else ())]
        for length in range(len(parts), 0, -1):
            yield from ("/".join((name, *parts[:length])) for name in names)
        yield key
        yield from (each for each in auths if key_of(each) == key and ("://" in each or "/" not in each))

    def _stored(self, key: str) -> Credentials | None:
        entry = self._section("auths").get(key)
        if not entry:
            return None
        where = f"{self.path}: auths of {key}"
        if not isinstance(entry, dict):
            raise InvalidArgument(f"{where}: not an object")
        username, password = _pair(entry.get("auth"), where)
        username = username or str(entry.get("username") or "")
        if entry.get("identitytoken"):
            return Credentials(username, str(entry["identitytoken"]), CredentialsKind.REFRESH)
        if entry.get("registrytoken"):
            return Credentials(username, _BEARER + str(entry["registrytoken"]), CredentialsKind.HEADER)
        password = password or str(entry.get("password") or "")
        return Credentials(username, password) if username or password else None

    def _write(self) -> None:
        """Write the file, all or nothing, for its owner alone; through a link, if it is one."""
        path = os.path.realpath(self.path)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        partial = f"{path}.partial-{os.getpid()}"
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "w") as file:
                json.dump(self._document, file, indent="\t", ensure_ascii=False)
                file.flush()
                os.fsync(fd)
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise


def _pair(encoded: Any, where: str) -> tuple[str, str]:
    if not encoded:
        return "", ""
    try:
        username, colon, password = b64decode(encoded, validate=True).decode().partition(":")
    except (ValueError, TypeError):
        colon = ""
    if not colon:
        raise InvalidArgument(f"{where}: auth is not USER:PASSWORD in base64")
    return username, password.rstrip("\0")


def _get(helper: str, key: str) -> Credentials | None:
    answer = _call(helper, "get", key)
    if answer is None:
        return None
    try:
        found = json.loads(answer)
        username, secret = str(found.get("Username") or ""), str(found.get("Secret") or "")
    except (ValueError, AttributeError):
        raise Unavailable(
            f"docker-credential-{helper} get {key}: what it says is not the JSON of credentials"
        ) from None
    if not secret:
        return None
    return (
        Credentials("", secret, CredentialsKind.REFRESH) if username == _TOKEN_USER else Credentials(username, secret)
    )


def _store(helper: str, key: str, credentials: Credentials) -> None:
    username = _TOKEN_USER if credentials.kind is CredentialsKind.REFRESH else credentials.username
    document = {"ServerURL": key, "Username": username, "Secret": credentials.secret}
    _call(helper, "store", json.dumps(document))


def _call(helper: str, action: str, text: str) -> str | None:
    """Return what a helper says; None if it has no such credentials."""
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        ended = subprocess.run(
            [program, action], check=False, input=text.encode(), capture_output=True, timeout=_HELPER_TIMEOUT
        )
    except FileNotFoundError:
        raise FailedPrecondition(
            f"credential helper {program}, which Docker's configuration names, is not installed"
        ) from None
    except OSError as error:
        raise FailedPrecondition(f"credential helper {program}: {(error.strerror or str(error)).lower()}") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"credential helper {program} {action}: no answer for {_HELPER_TIMEOUT:.0f} s") from None
    output = ended.stdout.decode(errors="replace").strip()
    if ended.returncode:
        if _HELPER_NOT_FOUND in output:
            return None
        said = output or ended.stderr.decode(errors="replace").strip() or f"exit status {ended.returncode}"
        raise Unavailable(f"credential helper {program} {action}: {said}")
    return output
