"""Debian's docker-registry on a free port of this machine: ``with registry(tmp_path) as r: r.host``."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.harness.certificates import Authority, Certificate
from tests.harness.names import unique

_PROGRAM = "docker-registry"
_LISTENS = re.compile(r"listening on 127\.0\.0\.1:([0-9]+)")


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    host: str
    scheme: str
    directory: Path
    log: Path
    #: Of its certificate, where it speaks TLS.
    authority: Authority | None = None
    #: Who may ask it, where it wants a certificate.
    client: Certificate | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def blobs(self) -> Path:
        """Where it keeps blobs: sha256/ab/abcd…/data."""
        return self.directory / "storage/docker/registry/v2/blobs"

    def blob(self, digest: str) -> Path:
        """Return the file of a blob, to look at or to damage."""
        algorithm, _, encoded = digest.partition(":")
        return self.blobs / algorithm / encoded[:2] / encoded / "data"

    def requests(self) -> list[str]:
        """Return what it was asked for, as "GET /v2/ 200"."""
        return [
            f"{match[1]} {match[2]} {match[3]}"
            for match in re.finditer(r'"(\w+) (\S+) HTTP/1\.\d" (\d+)', self.log.read_text())
        ]


@dataclass(frozen=True)
class Tls:
    """Encryption: with `client` it wants a certificate of whoever asks."""

    client: bool = False
    #: What its certificate is for.
    addresses: tuple[str, ...] = field(default=("DNS:localhost", "IP:127.0.0.1"))


@contextlib.contextmanager
def registry(
    directory: Path,
    *,
    tls: Tls | None = None,
    auth: Mapping[str, object] | None = None,
    users: Mapping[str, str] | None = None,
    proxied: str = "",
) -> Iterator[Registry]:
    """Run a registry that keeps what it is given in a directory of its own, and end it.

    `auth` is the configuration's section of that name; `users` are names and passwords for basic authentication;
    `proxied` is the address of a registry of which it is the cache.
    """
    if shutil.which(_PROGRAM) is None:
        pytest.skip(f"needs {_PROGRAM}")
    place = directory / unique("registry")
    place.mkdir(parents=True)
    http: dict[str, object] = {"addr": "127.0.0.1:0", "secret": "of the tests"}
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(place / "storage")}, "delete": {"enabled": True}},
        "http": http,
    }
    authority, client = None, None
    if tls is not None:
        authority = Authority(place / "tls")
        server = authority.sign("registry", *tls.addresses)
        http["tls"] = {"certificate": str(server.certificate), "key": str(server.key)}
        if tls.client:
            client = authority.sign("client")
            http["tls"] |= {"clientcas": [str(authority.certificate)]}  # type: ignore[operator]
    if users:
        lines = [f"{user}:{_bcrypt(password)}" for user, password in users.items()]
        (place / "users").write_text("\n".join(lines) + "\n")
        auth = {"htpasswd": {"realm": "tests", "path": str(place / "users")}}
    if auth:
        config["auth"] = auth
    if proxied:
        config["proxy"] = {"remoteurl": proxied}
    path, log = place / "config.json", place / "log"
    path.write_text(json.dumps(config))  # JSON is YAML
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        process = subprocess.Popen([_PROGRAM, "serve", path], stdout=output, stderr=output)
        stack.callback(process.wait, 10)
        stack.callback(process.kill)
        port = _port(process, log)
        yield Registry(f"127.0.0.1:{port}", "https" if tls else "http", place, log, authority, client)


def _port(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if match := _LISTENS.search(log.read_text()):
            return match[1]
        time.sleep(0.02)
    raise AssertionError(f"docker-registry did not start:\n{log.read_text()}")


def _bcrypt(password: str) -> str:
    # By Debian's libcrypt: Python's own door to it is being closed.
    script = "print crypt($ARGV[0], q{$2b$05$abcdefghijklmnopqrstuu})"
    return subprocess.run(["perl", "-e", script, password], check=True, capture_output=True, text=True).stdout


def manifest(registry: Registry, name: str, reference: str, accept: str) -> bytes:
    """Return a manifest as a program without any of our code sees it, from a registry that lets everybody in."""
    request = urllib.request.Request(f"{registry.url}/v2/{name}/manifests/{reference}", headers={"Accept": accept})
    with urllib.request.urlopen(request) as answer:
        return bytes(answer.read())
