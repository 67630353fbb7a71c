"""A token server for Debian's docker-registry: distribution/docs/spec/auth/token.md and oauth.md, signed by openssl."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.harness.certificates import Authority, Certificate

_SERVICE = "registry of the tests"
_ISSUER = "tests"


@dataclass
class TokenServer:
    """A running token server."""

    url: str
    authority: Authority
    signer: Certificate
    #: Names and passwords; the identity token of a user is "identity of NAME".
    users: Mapping[str, str]
    #: Repositories that everybody may pull from.
    public: frozenset[str]
    #: What it was asked for: the user ("" for nobody), the way (GET or POST) and the scopes.
    asked: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)

    @property
    def auth(self) -> dict[str, object]:
        """The section of docker-registry's configuration."""
        return {
            "token": {
                "realm": f"{self.url}/token",
                "service": _SERVICE,
                "issuer": _ISSUER,
                "rootcertbundle": str(self.authority.certificate),
            }
        }

    def token(self, user: str, scopes: tuple[str, ...]) -> str:
        """Make a token: all for users, to pull what is public for everybody."""
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            allowed = [each for each in actions.split(",") if user or (name in self.public and each == "pull")]
            access.append({"type": kind, "name": name, "actions": allowed})
        pem = self.signer.certificate.read_text()
        der = "".join(line for line in pem.splitlines() if not line.startswith("-"))
        claims = {
            "iss": _ISSUER,
            "sub": user,
            "aud": _SERVICE,
            "jti": secrets.token_hex(8),
            "access": access,
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
        }
        signed = f"{_encoded(json.dumps({'typ': 'JWT', 'alg': 'RS256', 'x5c': [der]}))}.{_encoded(json.dumps(claims))}"
        command = ["openssl", "dgst", "-sha256", "-sign", str(self.signer.key)]
        signature = subprocess.run(command, input=signed.encode(), check=True, capture_output=True).stdout
        return f"{signed}.{_encoded(signature)}"

    def answer(self, method: str, query: Mapping[str, list[str]], authorization: str) -> dict[str, object] | None:
        """Return the answer to a request, None if whoever asks is not who he says."""
        scopes = tuple(query.get("scope", [])) if method == "GET" else tuple(" ".join(query.get("scope", [])).split())
        user, right = "", True
        if method == "POST" and query["grant_type"] == ["refresh_token"]:
            user = query["refresh_token"][0].removeprefix("identity of ")
            right = user in self.users
        elif method == "POST":
            user = query["username"][0]
            right = self.users.get(user) == query["password"][0]
        elif authorization:
            user, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            right = self.users.get(user) == password
        self.asked.append((user, method, scopes))
        if not right:
            return None
        name = "token" if method == "GET" else "access_token"
        return {name: self.token(user, scopes), "expires_in": 300}


def _encoded(data: str | bytes) -> str:
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).decode().rstrip("=")


@contextlib.contextmanager
def token_server(
    directory: Path, users: Mapping[str, str], public: frozenset[str] = frozenset()
) -> Iterator[TokenServer]:
    """Run a token server on a free port, and end it."""
    authority = Authority(directory / "tokens")
    signer = authority.sign("signer", algorithm="rsa")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(urllib.parse.urlsplit(self.path).query)

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

        def _answer(self, query: str) -> None:
            fields = urllib.parse.parse_qs(query)
            found = server.answer(self.command, fields, self.headers.get("Authorization", ""))
            body = json.dumps(found or {"details": "wrong"}).encode()
            self.send_response(200 if found else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = TokenServer(f"http://127.0.0.1:{http.server_port}", authority, signer, users, public)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
