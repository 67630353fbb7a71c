"""HTTP_PROXY, HTTPS_PROXY and NO_PROXY, by the rules of Go's programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.registry.conftest import Connect
from tests.registry.hostile import MANIFEST, Hostile, answer, digest, error
from wherry.errors import InvalidArgument, Unavailable
from wherry.registry.proxies import proxy

BOTH = {"HTTP_PROXY": "http://proxy:1", "HTTPS_PROXY": "http://proxy:2"}
DOCUMENT = json.dumps({"schemaVersion": 2}).encode()


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("http://x.example/", {}, ""),
        ("http://x.example/", BOTH, "http://proxy:1"),
        ("https://x.example/", BOTH, "http://proxy:2"),
        ("https://x.example/", {"HTTP_PROXY": "http://proxy:1"}, ""),
        ("https://x.example/", {"https_proxy": "proxy:3"}, "http://proxy:3"),
        ("https://x.example/", {"HTTPS_PROXY": "a:1", "https_proxy": "b:1"}, "http://a:1"),
        ("http://x.example/", {"HTTP_PROXY": "a:1", "REQUEST_METHOD": "GET"}, ""),
        ("http://localhost:5000/", BOTH, ""),
        ("http://127.3.2.1/", BOTH, ""),
        ("http://[::1]:5000/", BOTH, ""),
    ],
)
def test_the_environment(url: str, environment: dict[str, str], expected: str) -> None:
    assert proxy(url, environment) == expected


@pytest.mark.parametrize(
    ("url", "exceptions", "direct"),
    [
        ("https://x.example/", "*", True),
        ("https://x.example/", "x.example", True),
        ("https://x.example/", "EXAMPLE", True),
        ("https://x.example/", ".example", True),
        ("https://x.example/", "*.example", True),
        ("https://example/", ".example", False),
        ("https://xexample/", "example", False),
        ("https://x.example/", "y.example, x.example", True),
        ("https://x.example/", "x.example:443", True),
        ("https://x.example:444/", "x.example:443", False),
        ("https://10.1.2.3/", "10.0.0.0/8", True),
        ("https://11.1.2.3/", "10.0.0.0/8", False),
        ("https://10.1.2.3/", "10.1.2.3", True),
        ("https://10.1.2.3/", "2.3", False),
        ("https://[fd00::1]/", "fd00::/8", True),
        ("https://[fd00::1]/", "fd00::1", True),
        ("https://x.example/", "10.0.0.0/8,junk/x,,", False),
    ],
)
def test_exceptions(url: str, exceptions: str, direct: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        assert (proxy(url, {**BOTH, name: exceptions}) == "") is direct


async def test_a_registry_behind_a_proxy(hostile: Hostile, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@{hostile.host}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    lines: list[str] = []
    client = await connect(default_scheme="http", on_debug=lines.append)
    headers = {"Docker-Content-Digest": digest(DOCUMENT)}
    hostile.on("HEAD", "/v2/a/manifests/1", answer(200, DOCUMENT, headers, type=MANIFEST))
    assert (await client.repository("registry.invalid/a:1").resolve()).digest == digest(DOCUMENT)
    assert hostile.asked[0].target == "http://registry.invalid/v2/a/manifests/1"
    assert hostile.asked[0].headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"
    assert not any("secret" in line for line in lines)
    monkeypatch.setenv("NO_PROXY", "invalid")
    with pytest.raises(Unavailable, match="no address found"):
        await client.repository("registry.invalid/a:1").resolve()


async def test_a_proxy_that_refuses(hostile: Hostile, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{hostile.host}")
    client = await connect()
    hostile.on("CONNECT", "registry.invalid:443", error(403, "DENIED"))
    with pytest.raises(Unavailable, match="the proxy answered"):
        await client.repository("registry.invalid/a:1").resolve()
    assert hostile.asked[0].headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"
    monkeypatch.setenv("HTTPS_PROXY", "socks5://x:1")
    with pytest.raises(InvalidArgument, match="proxy socks5://x:1"):
        await client.repository("registry.invalid/a:1").resolve()


async def test_a_proxy_of_one_host(hostile: Hostile, connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "registry.invalid").mkdir()
    (tmp_path / "registry.invalid/hosts.toml").write_text(
        f'server = "http://registry.invalid:80"\nproxy = "{hostile.url}"'
    )
    client = await connect(hosts_dirs=[str(tmp_path)])
    headers = {"Docker-Content-Digest": digest(DOCUMENT)}
    hostile.on("HEAD", "/v2/a/manifests/1", answer(200, DOCUMENT, headers, type=MANIFEST))
    await client.repository("registry.invalid/a:1").resolve()
    assert hostile.asked[0].target.startswith("http://registry.invalid")
