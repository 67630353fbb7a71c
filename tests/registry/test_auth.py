"""Who a client says it is, and to whom: the secrets here must be seen by those they belong to and nobody else."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.harness.certificates import Authority
from tests.registry.conftest import Connect
from tests.registry.hostile import (
    MANIFEST,
    Asked,
    Behaviour,
    Connection,
    Hostile,
    answer,
    blob,
    collected,
    digest,
    document,
    endless,
    error,
    redirect,
)
from wherry.errors import Error, FailedPrecondition, PermissionDenied, ResourceExhausted, Unauthenticated
from wherry.oci.descriptor import Descriptor
from wherry.registry.auth import Challenge, challenges, merged_scopes
from wherry.registry.client import AskCredentials, Credentials, CredentialsKind

DOCUMENT = b'{"schemaVersion": 2}'
TAG = "/v2/a/manifests/1"
DATA = b"layer" * 1000
LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar", digest(DATA), len(DATA))
BLOB = f"/v2/a/blobs/{LAYER.digest}"
PASSWORD = "correct-horse"
BASIC = "Basic " + base64.b64encode(f"ahab:{PASSWORD}".encode()).decode()
TOKEN = "token-of-ahab"


def known(asked: list[Sequence[Any]] | None = None, credentials: Credentials | None = None) -> AskCredentials:
    """Give the same credentials whoever asks, and note who did."""
    given = credentials or Credentials("ahab", PASSWORD)

    async def ask(host: str, reference: str, challenges: Sequence[str]) -> Credentials:
        if asked is not None:
            asked.append((host, reference, list(challenges)))
        return given

    return ask


def guarded(challenge: str, accepted: Callable[[str], bool], inner: Behaviour) -> Behaviour:
    """Answer only those whose Authorization header is right."""

    async def behave(asked: Asked, connection: Connection) -> None:
        if accepted(asked.headers.get("authorization", "")):
            await inner(asked, connection)
        else:
            await error(401, "UNAUTHORIZED", "who are you", {"WWW-Authenticate": challenge})(asked, connection)

    return behave


def tokens(value: str = TOKEN, **fields: object) -> Behaviour:
    return answer(200, json.dumps({"token": value, **fields}).encode())


def bearer(server: Hostile, realm: str, *, token: str = TOKEN) -> None:
    """Put a repository behind tokens of a realm."""
    challenge = f'Bearer realm="{realm}",service="{server.host}",scope="repository:a:pull"'
    for method in ("HEAD", "GET"):
        server.on(method, TAG, guarded(challenge, lambda header: header == f"Bearer {token}", document(DOCUMENT)))
    server.on("GET", BLOB, guarded(challenge, lambda header: header == f"Bearer {token}", blob(DATA)))


# Challenges and scopes


def test_challenges_are_read() -> None:
    read = challenges(
        [
            'Bearer realm="https://a/b?c=d",service="x \\"y\\"",scope="r:a:pull,push", Basic realm=z',
            "Negotiate",
            "junk,,",
        ]
    )
    assert read == [
        Challenge("bearer", (("realm", "https://a/b?c=d"), ("service", 'x "y"'), ("scope", "r:a:pull,push"))),
        Challenge("basic", (("realm", "z"),)),
        Challenge("negotiate"),
        Challenge("junk"),
    ]
    assert read[0]["scope"] == "r:a:pull,push"
    assert read[0]["error"] == ""


@pytest.mark.parametrize("text", ["", ",", '"', "=", 'Bearer realm="', "Bearer " + "a=" * 30_000, "a " * 30_000])
def test_challenges_that_are_none_do_no_harm(text: str) -> None:
    challenges([text])


def test_scopes_are_united() -> None:
    assert merged_scopes("repository:a:pull", "repository:b:pull repository:a:push,pull", "") == [
        "repository:a:pull,push",
        "repository:b:pull",
    ]


# Basic


async def test_basic(hostile: Hostile, connect: Connect) -> None:
    asked: list[Sequence[Any]] = []
    lines: list[str] = []
    client = await connect(credentials=known(asked), on_debug=lines.append)
    hostile.on("HEAD", TAG, guarded('Basic realm="x"', lambda header: header == BASIC, document(DOCUMENT)))
    repository = client.repository(f"{hostile.host}/a:1")
    await repository.resolve()
    await repository.resolve()
    # Asked once, and shown at once from then on.
    assert asked == [(hostile.host, f"{hostile.host}/a:1", ['Basic realm="x"'])]
    assert hostile.count("HEAD") == 3
    assert not any(PASSWORD in line or BASIC in line for line in lines)


async def test_without_credentials_login_is_named(hostile: Hostile, connect: Connect) -> None:
    for options in ({}, {"credentials": known(credentials=Credentials())}):
        client = await connect(**options)
        hostile.on("HEAD", TAG, guarded('Basic realm="x"', lambda header: False, document(DOCUMENT)))
        with pytest.raises(Unauthenticated, match=f"`wherry login {hostile.host}`"):
            await client.repository(f"{hostile.host}/a:1").resolve()


@pytest.mark.parametrize("challenge", ['Basic realm="x"', "Digest realm=x", "", "junk"])
async def test_401_for_ever(hostile: Hostile, connect: Connect, challenge: str) -> None:
    client = await connect(credentials=known())
    hostile.on("HEAD", TAG, guarded(challenge, lambda header: False, document(DOCUMENT)))
    with pytest.raises(Unauthenticated, match=hostile.host):
        await client.repository(f"{hostile.host}/a:1").resolve()
    assert hostile.count("HEAD") <= 2


async def test_401_for_ever_whatever_token(hostile: Hostile, connect: Connect) -> None:
    client = await connect(credentials=known())
    bearer(hostile, f"{hostile.url}/token", token="another")
    hostile.on("GET", "/token", tokens())
    repository = client.repository(f"{hostile.host}/a:1")
    for _ in range(2):
        with pytest.raises(Unauthenticated, match='the credentials as "ahab" were refused'):
            await repository.resolve()
    assert hostile.count("HEAD") <= 4
    assert hostile.count("GET", "/token") <= 3


# Bearer


@pytest.mark.parametrize("field", ["token", "access_token"])
async def test_a_token_is_fetched_with_the_password(
    hostile: Hostile, other: Hostile, connect: Connect, field: str
) -> None:
    lines: list[str] = []
    client = await connect(credentials=known(), on_debug=lines.append)
    bearer(hostile, f"{other.url}/token?x=y")
    body = json.dumps({field: TOKEN, "expires_in": 300}).encode()
    other.on("GET", "/token", guarded("Basic realm=x", lambda header: header == BASIC, answer(200, body)))
    repository = client.repository(f"{hostile.host}/a:1")
    await repository.resolve()
    assert await collected(repository.fetch(LAYER)) == DATA
    assert other.asked[0].query == {
        "x": "y",
        "account": "ahab",
        "service": hostile.host,
        "scope": "repository:a:pull",
    }
    assert len(other.asked) == 1
    assert not hostile.saw(BASIC)
    assert not any(PASSWORD in line or BASIC in line or TOKEN in line for line in lines)


async def test_an_anonymous_token(hostile: Hostile, other: Hostile, connect: Connect) -> None:
    client = await connect()
    bearer(hostile, f"{other.url}/token")
    other.on("GET", "/token", tokens())
    await client.repository(f"{hostile.host}/a:1").resolve()
    assert "authorization" not in other.asked[0].headers


async def test_one_token_is_fetched_for_many(hostile: Hostile, other: Hostile, connect: Connect) -> None:
    client = await connect(credentials=known())
    bearer(hostile, f"{other.url}/token")

    async def slowly(asked: Asked, connection: Connection) -> None:
        await asyncio.sleep(0.1)
        await tokens()(asked, connection)

    other.on("GET", "/token", slowly)
    await asyncio.gather(*(client.repository(f"{hostile.host}/a:1").resolve() for _ in range(20)))
    assert len(other.asked) == 1


async def test_a_token_that_is_no_more_taken_is_fetched_again(
    hostile: Hostile, other: Hostile, connect: Connect
) -> None:
    client = await connect(credentials=known())
    bearer(hostile, f"{other.url}/token")
    other.on("GET", "/token", tokens())
    repository = client.repository(f"{hostile.host}/a:1")
    await repository.resolve()
    bearer(hostile, f"{other.url}/token", token="second")
    other.on("GET", "/token", tokens("second"))
    await repository.resolve()
    assert len(other.asked) == 2


async def test_an_identity_token_is_posted(hostile: Hostile, other: Hostile, connect: Connect) -> None:
    credentials = Credentials("", "identity", CredentialsKind.REFRESH)
    client = await connect(credentials=known(credentials=credentials))
    bearer(hostile, f"{other.url}/token")
    other.on("POST", "/token", tokens())
    await client.repository(f"{hostile.host}/a:1").resolve()
    body = other.asked[0].body.decode()
    assert "grant_type=refresh_token" in body
    assert "refresh_token=identity" in body
    assert "scope=repository%3Aa%3Apull" in body


async def test_a_server_that_knows_only_oauth(hostile: Hostile, other: Hostile, connect: Connect) -> None:
    client = await connect(credentials=known())
    bearer(hostile, f"{other.url}/token")
    other.on("GET", "/token", answer(405))
    other.on("POST", "/token", tokens())
    await client.repository(f"{hostile.host}/a:1").resolve()
    assert f"grant_type=password&username=ahab&password={PASSWORD}" in other.asked[1].body.decode()


async def test_a_ready_made_header(hostile: Hostile, other: Hostile, connect: Connect) -> None:
    credentials = Credentials("", "Custom abc", CredentialsKind.HEADER)
    client = await connect(credentials=known(credentials=credentials))
    challenge = f'Bearer realm="{other.url}/token"'
    hostile.on("HEAD", TAG, guarded(challenge, lambda header: header == "Custom abc", document(DOCUMENT)))
    await client.repository(f"{hostile.host}/a:1").resolve()
    assert other.asked == []
    client = await connect(credentials=known(credentials=Credentials("", "a\r\nb", CredentialsKind.HEADER)))
    with pytest.raises(FailedPrecondition, match="no HTTP header"):
        await client.repository(f"{hostile.host}/a:1").resolve()


async def test_a_wrong_password(hostile: Hostile, other: Hostile, connect: Connect) -> None:
    client = await connect(credentials=known())
    bearer(hostile, f"{other.url}/token")
    other.on("GET", "/token", error(401, "UNAUTHORIZED"))
    with pytest.raises(Unauthenticated, match='the credentials as "ahab" were refused') as caught:
        await client.repository(f"{hostile.host}/a:1").resolve()
    assert PASSWORD not in caught.value.message
    assert len(other.asked) == 1


async def test_a_token_that_does_not_suffice(hostile: Hostile, other: Hostile, connect: Connect) -> None:
    client = await connect(credentials=known())
    challenge = f'Bearer realm="{other.url}/token",error="insufficient_scope"'
    hostile.on("HEAD", TAG, guarded(challenge, lambda header: False, document(DOCUMENT)))
    other.on("GET", "/token", tokens())
    with pytest.raises(PermissionDenied, match='not allowed as "ahab"'):
        await client.repository(f"{hostile.host}/a:1").resolve()


@pytest.mark.parametrize(
    "behaviour",
    [
        answer(200, b"<html>", type="text/html"),
        answer(200, b"{}"),
        answer(200, b"[]"),
        answer(200, b'{"token": 5}'),
        answer(200, b'{"token": "a\\r\\nX-Evil: 1"}'),
        answer(200, b'{"token": ""}'),
        answer(200, '{"token": "\u00fc"}'.encode()),
        answer(204),
        redirect("/token"),
    ],
    ids=["html", "empty", "list", "number", "lines", "nothing", "umlaut", "204", "round"],
)
async def test_a_token_that_is_none(hostile: Hostile, other: Hostile, connect: Connect, behaviour: Behaviour) -> None:
    client = await connect(credentials=known())
    bearer(hostile, f"{other.url}/token")
    other.on("GET", "/token", behaviour)
    with pytest.raises(Error, match=f"token of {other.host}"):
        await client.repository(f"{hostile.host}/a:1").resolve()


async def test_an_endless_token(hostile: Hostile, other: Hostile, connect: Connect) -> None:
    client = await connect()
    bearer(hostile, f"{other.url}/token")
    other.on("GET", "/token", endless())
    with pytest.raises(ResourceExhausted, match="more than 1048576 bytes"):
        await client.repository(f"{hostile.host}/a:1").resolve()


@pytest.mark.parametrize("realm", ["", "token", "/token", "ftp://x/", "file:///etc/passwd", "http://", "http://[::1/"])
async def test_a_realm_that_is_none(hostile: Hostile, connect: Connect, realm: str) -> None:
    client = await connect(credentials=known())
    bearer(hostile, realm)
    with pytest.raises(FailedPrecondition, match="no HTTP address"):
        await client.repository(f"{hostile.host}/a:1").resolve()


# Elsewhere


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_redirections_to_others_carry_no_credentials(
    hostile: Hostile, other: Hostile, connect: Connect, scheme: str
) -> None:
    client = await connect(credentials=known(), headers={"X-Secret": "white-whale"})
    if scheme == "basic":
        hostile.on("GET", BLOB, guarded("Basic realm=x", lambda header: header == BASIC, redirect(f"{other.url}/b")))
    else:
        challenge = f'Bearer realm="{hostile.url}/token"'
        hostile.on("GET", "/token", tokens())
        right = f"Bearer {TOKEN}"
        hostile.on("GET", BLOB, guarded(challenge, lambda header: header == right, redirect(f"{other.url}/b")))
    # Nor does it get them by asking.
    other.on("GET", "/b", guarded("Basic realm=x", lambda header: False, blob(DATA)), blob(DATA))
    with pytest.raises(Unauthenticated, match=other.host):
        await collected(client.repository(f"{hostile.host}/a").fetch(LAYER))
    assert await collected(client.repository(f"{hostile.host}/a").fetch(LAYER)) == DATA
    assert hostile.saw("white-whale")
    for secret in (BASIC, TOKEN, "white-whale"):
        assert not other.saw(secret)


async def test_redirections_within_the_host_keep_them(hostile: Hostile, connect: Connect) -> None:
    client = await connect(credentials=known())
    hostile.on("GET", BLOB, guarded("Basic realm=x", lambda header: header == BASIC, redirect("/b")))
    hostile.on("GET", "/b", guarded("Basic realm=x", lambda header: header == BASIC, blob(DATA)))
    assert await collected(client.repository(f"{hostile.host}/a").fetch(LAYER)) == DATA


async def test_foreign_layers_see_no_credentials(hostile: Hostile, other: Hostile, connect: Connect) -> None:
    """CVE-2020-15157."""
    asked: list[Sequence[Any]] = []
    client = await connect(credentials=known(asked), headers={"X-Secret": "white-whale"})
    hostile.on("GET", BLOB, guarded("Basic realm=x", lambda header: header == BASIC, error(404, "BLOB_UNKNOWN")))
    challenge = f'Bearer realm="{other.url}/token",service="registry",scope="repository:a:pull"'
    other.on("GET", "/layer", guarded(challenge, lambda header: False, blob(DATA)))
    other.on("GET", "/token", tokens())
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar"
    descriptor = Descriptor(foreign, LAYER.digest, LAYER.size, urls=[f"{other.url}/layer"])
    with pytest.raises(Error):
        await collected(client.repository(f"{hostile.host}/a").fetch(descriptor))
    assert [each.path for each in other.asked] == ["/layer"]
    assert not other.saw("white-whale")
    assert [host for host, *_ in asked] == [hostile.host]


async def test_a_token_server_cannot_pass_a_password_on(hostile: Hostile, other: Hostile, connect: Connect) -> None:
    client = await connect(credentials=known())
    bearer(hostile, f"{hostile.url}/token")
    hostile.on("GET", "/token", redirect(f"{other.url}/token"))
    with pytest.raises(FailedPrecondition, match="which credentials do not follow"):
        await client.repository(f"{hostile.host}/a:1").resolve()
    assert other.asked == []


async def test_nothing_secret_goes_from_https_to_http(
    encrypted: Hostile, other: Hostile, connect: Connect, authority: Authority
) -> None:
    client = await connect(credentials=known(), ca=[str(authority.certificate)])
    bearer(encrypted, f"{other.url}/token")
    with pytest.raises(FailedPrecondition, match="credentials are not sent to it"):
        await client.repository(f"{encrypted.host}/a:1").resolve()
    client = await connect(credentials=known(), ca=[str(authority.certificate)])
    # What no digest vouches for is not asked of a server that cannot say who it is, either.
    encrypted.on("HEAD", TAG, redirect(f"{other.url}/m"))
    with pytest.raises(FailedPrecondition, match="which is not encrypted"):
        await client.repository(f"{encrypted.host}/a:1").resolve()
    assert other.asked == []
    encrypted.on("GET", BLOB, redirect(f"{other.url}/b"))
    other.on("GET", "/b", blob(DATA))
    assert await collected(client.repository(f"{encrypted.host}/a").fetch(LAYER)) == DATA


async def test_each_host_gets_its_own(hostile: Hostile, other: Hostile, connect: Connect) -> None:
    secrets = {hostile.host: "first", other.host: "second"}

    async def ask(host: str, reference: str, challenges: Sequence[str]) -> Credentials:
        return Credentials("x", secrets[host])

    client = await connect(credentials=ask)
    for server in (hostile, other):
        right = "Basic " + base64.b64encode(f"x:{secrets[server.host]}".encode()).decode()

        def accepted(header: str, right: str = right) -> bool:
            return header == right

        server.on("HEAD", TAG, guarded("Basic realm=x", accepted, answer(200, DOCUMENT, type=MANIFEST)))
        server.on("GET", TAG, guarded("Basic realm=x", accepted, error(404, "MANIFEST_UNKNOWN")))
    for server in (hostile, other):
        with pytest.raises(Error, match="MANIFEST_UNKNOWN"):
            await client.repository(f"{server.host}/a:1").resolve()
