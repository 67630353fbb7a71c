from __future__ import annotations

import os

import pytest

from wherry.errors import InvalidArgument
from wherry.oci.platform import Platform


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/i686", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("s390x", "linux/s390x"),
    ],
)
def test_names_are_gos(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux/amd 64", "linux/$x"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(InvalidArgument, match="platform "):
        Platform.parse(text)


def test_this_machines_platform() -> None:
    host = Platform.host()
    assert host.os == "linux"
    assert Platform.of(None) == Platform.of("") == Platform.parse("linux") == host
    assert Platform.of("linux/s390x") == Platform("linux", "s390x") != host
    assert Platform("linux", os.uname().machine) == host


@pytest.mark.parametrize(
    ("text", "suits"),
    [
        ("linux/amd64", ["linux/amd64", "linux/386"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
        ("linux/arm64", ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm/v6", ["linux/arm/v6", "linux/arm/v5"]),
        ("linux/s390x", ["linux/s390x"]),
    ],
)
def test_what_runs_on_a_platform(text: str, suits: list[str]) -> None:
    assert [str(each) for each in Platform.parse(text).suits()] == suits


def test_documents_name_platforms() -> None:
    assert Platform.from_json({"os": "linux", "architecture": "arm", "variant": "v6"}) == Platform("linux", "arm", "v6")
    assert Platform.from_json({"os": "linux", "architecture": ""}) is None
    assert Platform.from_json({"os": 1, "architecture": "amd64"}) is None
    assert Platform.from_json({}) is None
