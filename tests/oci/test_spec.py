"""Specifications, held against those that ctr makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import Containerd
from wherry.errors import InvalidArgument
from wherry.oci import spec as oci_spec


def by_ctr(daemon: Containerd, rootfs: Path, *flags: str) -> tuple[str, str, dict[str, Any]]:
    namespace, id = daemon.namespace(), daemon.id()
    daemon.ctr("containers", "create", *flags, "--rootfs", rootfs, id, "sh", namespace=namespace).check()
    info = json.loads(daemon.ctr("containers", "info", id, namespace=namespace).check().text)
    daemon.ctr("containers", "rm", id, namespace=namespace).check()
    return namespace, id, info["Spec"]


CASES: list[tuple[list[str], Callable[[dict[str, Any]], None]]] = [
    ([], lambda spec: None),
    (["--env", "A=b", "--env", "PATH=/x"], lambda spec: oci_spec.add_environment(spec, ["A=b", "PATH=/x"])),
    (
        ["--mount", "type=bind,src=/tmp,dst=/host,options=rbind:ro"],
        lambda spec: oci_spec.add_mount(spec, "type=bind,src=/tmp,dst=/host,options=rbind:ro"),
    ),
    (["--read-only"], lambda spec: spec["root"].update(readonly=True)),
    (["--privileged"], oci_spec.set_privileged),
    (["--memory-limit", "100000000"], lambda spec: oci_spec.limit_memory(spec, 100_000_000)),
    (["--tty"], oci_spec.set_terminal),
    (["--cwd", "/bin"], lambda spec: spec["process"].update(cwd="/bin")),
    (
        ["--cap-add", "CAP_SYS_ADMIN", "--cap-drop", "CAP_KILL"],
        lambda spec: oci_spec.change_capabilities(spec, ["SYS_ADMIN"], ["cap_kill"]),
    ),
]


@pytest.mark.parametrize(("flags", "change"), CASES, ids=[" ".join(flags) or "plain" for flags, _ in CASES])
def test_equals_what_ctr_makes(
    containerd: Containerd, tmp_path: Path, flags: list[str], change: Callable[[dict[str, Any]], None]
) -> None:
    namespace, id, theirs = by_ctr(containerd, tmp_path, *flags)
    ours = oci_spec.default_spec(namespace, id)
    ours["root"]["path"] = str(tmp_path)
    ours["process"]["args"] = ["sh"]
    change(ours)
    if not ours["process"].get("env"):
        ours["process"].pop("env", None)
    assert normal(ours) == normal(theirs)


def normal(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a specification with sets in order; devices come and go on a busy machine."""
    for names in spec["process"]["capabilities"].values():
        names.sort()
    devices = spec["linux"].pop("devices", None)
    spec["linux"]["has null"] = any(device["path"] == "/dev/null" for device in devices or ())
    return spec


@pytest.mark.parametrize("text", ["nonsense", "type=bind,dst=/x", "type=bind,src=a,dst=/x", "src=/a"])
def test_a_bad_mount_is_an_invalid_argument_that_names_it(text: str) -> None:
    with pytest.raises(InvalidArgument, match="mount"):
        oci_spec.add_mount(oci_spec.default_spec("n", "i"), text)


def test_command_and_environment_come_from_the_image() -> None:
    config = {"Entrypoint": ["/entry"], "Cmd": ["default"], "Env": ["A=1", "B=2"], "WorkingDir": "/w"}

    def command(args: list[str], entrypoint: list[str] | None) -> list[str]:
        spec = oci_spec.default_spec("n", "i")
        oci_spec.set_image_config(spec, config, args, entrypoint)
        assert spec["process"]["env"] == ["A=1", "B=2"]
        assert spec["process"]["cwd"] == "/w"
        found: list[str] = spec["process"]["args"]
        return found

    assert command([], None) == ["/entry", "default"]
    assert command(["x"], None) == ["/entry", "x"]
    assert command(["x"], ["other"]) == ["other", "x"]
    assert command([], ["other"]) == ["other"]
    with pytest.raises(InvalidArgument, match="no arguments"):
        oci_spec.set_image_config(oci_spec.default_spec("n", "i"), {}, [], None)
