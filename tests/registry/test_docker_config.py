"""Docker's and podman's files of credentials."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from wherry.errors import Error, FailedPrecondition, InvalidArgument, Unavailable
from wherry.registry.docker_config import HUB, DockerConfig, files, find, key_of
from wherry.registry.options import Credentials, CredentialsKind


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def written(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io", HUB, "docker.io/library/x:1"])
def test_docker_hub_has_many_names(host: str, tmp_path: Path) -> None:
    assert key_of(host) == HUB
    for stored in (HUB, "docker.io", "index.docker.io", "https://index.docker.io/v1"):
        config = DockerConfig(str(written(tmp_path / "c", {"auths": {stored: auth("me:x")}})))
        assert config.find(host) == Credentials("me", "x")


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (auth("me:a:b"), Credentials("me", "a:b")),
        (auth("me:secret\0\0"), Credentials("me", "secret")),
        ({"username": "me", "password": "x"}, Credentials("me", "x")),
        ({**auth("me:"), "identitytoken": "t"}, Credentials("me", "t", CredentialsKind.REFRESH)),
        ({"registrytoken": "t"}, Credentials("", "Bearer t", CredentialsKind.HEADER)),
        ({}, None),
        ({"auth": ""}, None),
    ],
)
@pytest.mark.parametrize("key", ["r.test:5000", "https://r.test:5000", "http://r.test:5000/v2/"])
def test_entries(entry: dict[str, str], found: Credentials | None, key: str, tmp_path: Path) -> None:
    config = DockerConfig(str(written(tmp_path / "c", {"auths": {"other.test": auth("no:no"), key: entry}})))
    assert config.find("r.test:5000") == found
    assert config.find("r.test") is None


def test_podman_keeps_credentials_of_parts_of_a_registry(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    written(path, {"auths": {"r.test": auth("all:1"), "r.test/team": auth("team:2"), "r.test/team/a": auth("a:3")}})
    config = DockerConfig(str(path))
    found = [config.find("r.test", repository) for repository in ("", "x", "team", "team/b", "team/a", "team/a/b")]
    assert [each and each.username for each in found] == ["all", "all", "team", "team", "a", "a"]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ({"auths": []}, "auths is not an object"),
        ({"auths": {"r.test": 1}}, "auths of r.test: not an object"),
        ({"auths": {"r.test": {"auth": "!"}}}, "auth is not USER:PASSWORD in base64"),
        ({"auths": {"r.test": {"auth": "eA=="}}}, "auth is not USER:PASSWORD in base64"),
        ({"auths": {"r.test": {"auth": 3}}}, "auth is not USER:PASSWORD in base64"),
    ],
)
def test_damaged_files(document: Any, said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "c", document)
    with pytest.raises(InvalidArgument, match=said) as raised:
        DockerConfig(str(path)).find("r.test")
    assert str(path) in str(raised.value)


def test_no_file_and_an_empty_one(tmp_path: Path) -> None:
    assert DockerConfig(str(tmp_path / "absent")).find("r.test") is None
    assert DockerConfig(str(written(tmp_path / "c", " \n"))).find("r.test") is None


def test_where_files_are(tmp_path: Path) -> None:
    home = str(tmp_path)
    assert files({"DOCKER_CONFIG": "/d", "REGISTRY_AUTH_FILE": "/a", "HOME": home}) == ["/d/config.json"]
    assert files({"REGISTRY_AUTH_FILE": "/a", "HOME": home}) == ["/a"]
    assert files({"HOME": home, "XDG_RUNTIME_DIR": "/run/u"}) == [
        f"{home}/.docker/config.json",
        "/run/u/containers/auth.json",
        f"{home}/.config/containers/auth.json",
    ]
    written(tmp_path / ".docker/config.json", {"auths": {"a.test": auth("docker:1")}})
    written(tmp_path / ".config/containers/auth.json", {"auths": {"b.test": auth("podman:2")}})
    assert find("a.test", environment={"HOME": home}) == Credentials("docker", "1")
    assert find("b.test", environment={"HOME": home}) == Credentials("podman", "2")
    assert find("c.test", environment={"HOME": home}) is None


def test_a_file_is_kept_as_it_was_but_for_the_entry(tmp_path: Path) -> None:
    target = written(tmp_path / "target.json", {"detachKeys": "ctrl-e", "auths": {"a.test": auth("a:1")}, "x": [1]})
    link = tmp_path / "config.json"
    link.symlink_to(target)
    config = DockerConfig(str(link))
    assert config.store("b.test", Credentials("b", "ü:2")) == str(link)
    assert config.store("c.test", Credentials("c", "token", CredentialsKind.REFRESH)) == str(link)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    document = json.loads(target.read_text())
    assert list(document) == ["detachKeys", "auths", "x"]
    again = DockerConfig(str(link))
    assert [again.find(f"{name}.test") for name in "abc"] == [
        Credentials("a", "1"),
        Credentials("b", "ü:2"),
        Credentials("c", "token", CredentialsKind.REFRESH),
    ]
    assert again.erase("https://a.test")
    assert not again.erase("a.test")
    assert DockerConfig(str(link)).find("a.test") is None
    assert sorted(os.listdir(tmp_path)) == ["config.json", "target.json"]


def helper(directory: Path, name: str, script: str) -> None:
    path = directory / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    helper(tmp_path, "one", """read key; echo '{"ServerURL":"x","Username":"'$key'","Secret":"s"}'""")
    helper(tmp_path, "token", """echo '{"Username":"<token>","Secret":"t"}'""")
    helper(tmp_path, "none", "echo credentials not found in native keychain; exit 1")
    helper(tmp_path, "broken", "echo the keychain is locked; exit 1")
    helper(tmp_path, "mad", "echo hello")
    hosts = {
        "token.test": "token",
        "none.test": "none",
        "broken.test": "broken",
        "mad.test": "mad",
        "gone.test": "gone",
    }
    auths = {"none.test": auth("file:1")}
    config = DockerConfig(str(written(tmp_path / "c", {"credsStore": "one", "credHelpers": hosts, "auths": auths})))
    assert config.find("r.test:5000") == Credentials("r.test:5000", "s")
    assert config.find("docker.io") == Credentials(HUB, "s")
    assert config.find("token.test") == Credentials("", "t", CredentialsKind.REFRESH)
    assert config.find("none.test") == Credentials("file", "1")
    failures: list[tuple[str, type[Error], str]] = [
        ("broken.test", Unavailable, "docker-credential-broken get: the keychain is locked"),
        ("mad.test", Unavailable, "not the JSON of credentials"),
        (
            "gone.test",
            FailedPrecondition,
            "docker-credential-gone, which Docker's configuration names, is not installed",
        ),
    ]
    for host, kind, said in failures:
        with pytest.raises(kind, match=said):
            config.find(host)


def test_a_secret_is_not_shown() -> None:
    assert "hidden" not in repr(Credentials("me", "hidden"))
