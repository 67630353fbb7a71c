"""wherry login and logout, and pulls and pushes by who is logged in."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.command import Result, run
from tests.harness.daemon import COMMANDS, Wherryd
from tests.harness.registry import Registry, Tls, registry
from tests.harness.terminal import Terminal

WHERRY = str(COMMANDS / "wherry")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that wants a password, over HTTP."""
    with registry(tmp_path_factory.mktemp("guarded"), users={"me": "se:cret"}) as running:
        yield running


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    return tmp_path / "docker"


def wherry(docker: Path, *words: str, input: bytes = b"", path: str = "") -> Result:
    env = {"DOCKER_CONFIG": str(docker)}
    if path:
        env["PATH"] = f"{path}:{os.environ['PATH']}"
    return run([WHERRY, *words], input=input, env=env)


def test_login_and_logout(docker: Path, guarded: Registry) -> None:
    result = wherry(docker, "login", guarded.host, "-u", "me", "--password-stdin", input=b"se:cret\n").check()
    assert result.text == "Login Succeeded\n"
    assert "is kept unencrypted in" in result.error_text
    config = docker / "config.json"
    assert config.stat().st_mode & 0o777 == 0o600
    assert json.loads(config.read_text()) == {
        "auths": {guarded.host: {"auth": base64.b64encode(b"me:se:cret").decode()}}
    }
    # Others take it from there.
    logged_in = run(["skopeo", "login", "--get-login", "--authfile", config, guarded.host]).check()
    assert logged_in.text == "me\n"
    assert wherry(docker, "logout", guarded.host).check().text == f"Removed the login to {guarded.host}\n"
    assert json.loads(config.read_text()) == {"auths": {}}
    again = wherry(docker, "logout", guarded.host)
    assert (again.code, again.error_text) == (1, f"wherry: login to {guarded.host}: not found\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-u", "me", "-p", "wrong"], "does not take the user name and password"),
        (["-u", "me"], "give --password-stdin"),
        (["-p", "x"], "give --username"),
        (["-u", "me", "-p", "x", "--password-stdin"], "either may be given, not both"),
        (["-u", "me", "--password-stdin"], "no password was given"),
    ],
)
def test_what_is_no_login(words: list[str], said: str, docker: Path, guarded: Registry) -> None:
    result = wherry(docker, "login", guarded.host, *words)
    assert result.code == 1
    assert said in result.error_text
    assert not docker.exists()


def test_a_password_is_kept_unseen_with_skip_check(docker: Path) -> None:
    wherry(docker, "login", "https://registry.invalid/", "-u", "a", "-p", "b", "--skip-check").check()
    assert list(json.loads((docker / "config.json").read_text())["auths"]) == ["registry.invalid"]
    wherry(docker, "login", "-u", "a", "-p", "b", "--skip-check").check()
    assert "https://index.docker.io/v1/" in json.loads((docker / "config.json").read_text())["auths"]
    assert "a host, or HOST:PORT, is expected" in wherry(docker, "login", "a/b", "-u", "a", "-p", "b").error_text


def test_a_registry_that_cannot_be_asked(docker: Path) -> None:
    result = wherry(docker, "login", "127.0.0.1:1", "-u", "a", "-p", "b")
    assert result.code == 1
    assert result.error_text.splitlines()[-1].startswith("wherry: login to 127.0.0.1:1: ")
    assert "cannot be reached" in result.error_text


def test_a_registry_with_an_authority_of_its_own(docker: Path, tmp_path: Path) -> None:
    with registry(tmp_path, tls=Tls(), users={"me": "x"}) as running:
        words = ["login", running.host, "-u", "me", "-p", "x"]
        assert running.authority is not None
        hosts = tmp_path / "hosts" / running.host
        hosts.mkdir(parents=True)
        words += ["--hosts-dir", str(tmp_path / "hosts")]
        (hosts / "hosts.toml").write_text(f'server = "{running.url}"\nskip_verify = false\n')
        assert "certificate" in wherry(docker, *words).error_text
        (hosts / "hosts.toml").write_text(f'server = "{running.url}"\nca = "{running.authority.certificate}"\n')
        wherry(docker, *words).check()


def test_a_login_at_a_terminal(docker: Path, guarded: Registry) -> None:
    with Terminal([WHERRY, "login", guarded.host], env={"DOCKER_CONFIG": str(docker)}) as terminal:
        terminal.read_until("Username: ")
        terminal.enter("me\n")
        terminal.read_until("Password: ")
        terminal.enter("se:cret\n")
        terminal.read_until("Login Succeeded")
        assert terminal.wait() == 0
    assert "se:cret" not in terminal.text
    with Terminal([WHERRY, "login", guarded.host], env={"DOCKER_CONFIG": str(docker)}) as terminal:
        terminal.read_until("Username (me): ")


HELPER = """#!/bin/sh
# A credential helper that keeps its secrets in files.
directory=$(dirname "$0")
case $1 in
store) cat > "$directory/stored" ;;
get) read key; [ -e "$directory/stored" ] && grep -q "$key" "$directory/stored" && exec cat "$directory/stored"
     echo "credentials not found in native keychain"; exit 1 ;;
erase) rm "$directory/stored" ;;
esac
"""


def test_a_credential_helper(docker: Path, guarded: Registry, tmp_path: Path) -> None:
    helper = tmp_path / "docker-credential-files"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    docker.mkdir()
    config = docker / "config.json"
    config.write_text('{"credsStore": "files", "detachKeys": "ctrl-e"}')
    result = wherry(docker, "login", guarded.host, "-u", "me", "-p", "se:cret", path=str(tmp_path)).check()
    assert "unencrypted" not in result.error_text
    assert json.loads((tmp_path / "stored").read_text())["Secret"] == "se:cret"
    assert json.loads(config.read_text()) == {
        "credsStore": "files",
        "detachKeys": "ctrl-e",
        "auths": {guarded.host: {}},
    }
    wherry(docker, "logout", guarded.host, path=str(tmp_path)).check()
    assert not (tmp_path / "stored").exists()
    missing = wherry(docker, "logout", guarded.host)
    assert "credential helper docker-credential-files" in missing.error_text
    assert "is not installed" in missing.error_text


def test_who_is_logged_in_pushes_and_pulls(
    docker: Path, guarded: Registry, wherryd: Wherryd, busybox_archive: Path
) -> None:
    namespace = wherryd.namespace()

    def command(*words: str | Path) -> Result:
        return wherryd.wherry(*words, namespace=namespace, env={"DOCKER_CONFIG": str(docker)})

    command("image", "import", busybox_archive).check()
    reference = f"{guarded.host}/mine/busybox:1"
    refused = command("push", "busybox", reference)
    assert refused.code == 1
    assert f"push to {reference}" in refused.error_text
    assert "login" in refused.error_text
    given = command("push", "busybox", reference, "--user", "me:se:cret").check()
    assert given.text.splitlines()[-1] == reference
    wherry(docker, "login", guarded.host, "-u", "me", "-p", "se:cret").check()
    assert command("pull", "-q", reference).check().text == f"{reference}\n"
    assert "USER:PASSWORD" in command("pull", "--user", "me", reference).error_text
