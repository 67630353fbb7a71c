"""Bad input, on the wire (Debian's ctr) and on the command line: one clear error, nothing half-made."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.harness import archives, leaks
from tests.harness.archives import BUSYBOX
from tests.harness.command import Result, run
from tests.harness.daemon import COMMANDS, Daemon, Wherryd
from wherry.api.services.containers.v1 import containers_pb2
from wherry.errors import FailedPrecondition
from wherry.rpc.channel import Stub
from wherry.rpc.grpc_channel import GrpcChannel
from wherry.rpc.ttrpc_channel import TtrpcChannel


def holdings(daemon: Daemon, namespace: str) -> dict[str, list[str]]:
    """Return all that a namespace holds, once what nothing refers to is collected."""
    daemon.ctr("leases", "create", "--id", "collect", namespace=namespace).check()
    daemon.ctr("leases", "rm", "--sync", "collect", namespace=namespace).check()
    found = {noun: daemon.listed(noun, namespace) for noun in ("containers", "tasks", "images", "leases", "content")}
    for snapshotter in ("overlayfs", "native"):
        listing = daemon.ctr("snapshots", "--snapshotter", snapshotter, "ls", namespace=namespace).check()
        found[snapshotter] = listing.text.splitlines()[1:]
    found["ingests"] = daemon.ctr("content", "active", namespace=namespace).check().text.splitlines()[1:]
    found["bundles"] = [
        str(path)
        for top in (daemon.state, daemon.root)
        for runtime in top.glob("io.containerd.runtime.*")
        for path in leaks.entries(runtime / namespace)
    ]
    found["mounts"] = [line for line in leaks.mounts() if f"{daemon.directory}/" in line]
    found["processes"] = list(leaks.processes(namespace))
    return found


@contextmanager
def nothing_more(daemon: Daemon, namespace: str) -> Iterator[None]:
    """See that what the block does leaves the namespace as it was."""
    before = holdings(daemon, namespace)
    yield
    after: dict[str, list[str]] = {}

    def difference() -> list[str]:
        after.update(holdings(daemon, namespace))
        return [f"{what}: {after[what]}, before {before[what]}" for what in before if after[what] != before[what]]

    assert leaks.remaining(difference) == []


def one_line(result: Result, code: int, *words: str) -> None:
    """See that a command failed with this status, and said why in one line."""
    lines = result.error_text.splitlines()
    assert (result.code, len(lines), result.text) == (code, 1, ""), (result.code, result.text, lines)
    assert lines[0].startswith("wherry: ")
    assert all(word in lines[0] for word in words), lines[0]


@pytest.fixture
def namespace(wherryd: Wherryd, busybox_archive: Path) -> str:
    """A namespace with the busybox image."""
    name = wherryd.namespace()
    wherryd.ctr("images", "import", busybox_archive, namespace=name).check()
    return name


async def test_no_namespace(wherryd: Wherryd) -> None:
    service = containers_pb2.DESCRIPTOR.services_by_name["Containers"]
    for channel in (GrpcChannel(wherryd.address), await TtrpcChannel.connect(f"{wherryd.address}.ttrpc")):
        with pytest.raises(FailedPrecondition, match=r"^namespace is required: failed precondition$"):
            await Stub(channel, service).list(containers_pb2.ListContainersRequest())
        await channel.close()


@pytest.mark.parametrize("name", ["a--b", "-", "with blank", "x" * 77, "a/b", "..", "ü"])
def test_bad_identifiers(wherryd: Wherryd, namespace: str, name: str) -> None:
    with nothing_more(wherryd, namespace):
        one_line(wherryd.wherry("image", "ls", namespace=name), 1, "invalid argument")
        # The same status as for every command that could not be started (as Docker has it).
        one_line(
            wherryd.wherry("run", "--rm", "--name", name, BUSYBOX, "true", namespace=namespace), 125, "invalid argument"
        )
        one_line(wherryd.wherry("run", "-d", "--name", name, BUSYBOX, "true", namespace=namespace), 125, "invalid")
        for command in (["images", "ls"], ["run", "--rm", BUSYBOX, wherryd.id(), "true"]):
            failed = wherryd.ctr(*command, namespace=name)
            assert failed.code == 1 and "invalid argument" in failed.error_text
        failed = wherryd.ctr("run", "--rm", BUSYBOX, name, "true", namespace=namespace)
        assert failed.code == 1 and "invalid argument" in failed.error_text


def test_unknown_image(wherryd: Wherryd, namespace: str) -> None:
    with nothing_more(wherryd, namespace):
        words = ["run", "--rm", "--pull", "never", "absent:1", "true"]
        one_line(wherryd.wherry(*words, namespace=namespace), 125, "absent:1", "not found")
        # A name that no name server knows, and no registry's.
        one_line(
            wherryd.wherry("run", "--rm", "absent.invalid/a", "true", namespace=namespace), 125, "absent.invalid/a"
        )
        one_line(wherryd.wherry("image", "export", "-o", "/dev/null", "absent:1", namespace=namespace), 1, "not found")
        failed = wherryd.ctr("run", "--rm", "absent:1", wherryd.id(), "true", namespace=namespace)
        assert (failed.code, failed.error_text) == (1, 'ctr: image "absent:1": not found\n')


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        ("io.containerd.absent.v2", "containerd-shim-absent-v2"),
        ("/absent/shim", "/absent/shim"),
        ("nonsense", "nonsense"),
        ("io.containerd.runc.v9", "containerd-shim-runc-v9"),
        ("../../bin/sh", "../../bin/sh"),
        ("/bin/false", "failed to start shim: start failed"),
        ("/bin/echo", "shim start: not understood"),
    ],
)
def test_unknown_runtime(wherryd: Wherryd, namespace: str, runtime: str, words: str) -> None:
    flags = ("run", "--rm", "--runtime", runtime)
    with nothing_more(wherryd, namespace):
        one_line(wherryd.wherry(*flags, BUSYBOX, "true", namespace=namespace), 125, words)
        failed = wherryd.ctr(*flags, BUSYBOX, wherryd.id(), "true", namespace=namespace)
        assert failed.code == 1 and words in failed.error_text


def test_unknown_runc(wherryd: Wherryd, namespace: str) -> None:
    flags = ("run", "--rm", "--runc-binary", "/absent/runc")
    with nothing_more(wherryd, namespace):
        one_line(wherryd.wherry(*flags, BUSYBOX, "true", namespace=namespace), 127, "/absent/runc")
        failed = wherryd.ctr(*flags, BUSYBOX, wherryd.id(), "true", namespace=namespace)
        assert failed.code == 1 and "/absent/runc" in failed.error_text


def bad_archives() -> dict[str, tuple[bytes, str]]:
    """Return archives that must not become images, and a word of the reason."""
    good = archives.busybox()
    layer, config = archives.digest(good.layers[0].data), archives.digest(good.config)
    other = archives.layer([archives.member("etc/other", b"not what the config says")])
    foreign = archives.config(good.layers, {}, architecture="s390x")
    broken = archives.Layer(b"no gzip", archives.digest(b"no gzip"))
    return {
        "empty": (b"", ""),
        "no archive": (b"this is no archive\n" * 100, ""),
        "cut off": (good.oci()[:200_000], ""),
        "missing layer": (good.oci(without=layer), layer),
        "missing config": (good.oci(without=config), config),
        "missing manifest": (good.oci(without=archives.digest(good.manifest)), archives.digest(good.manifest)),
        "layer's digest": (good.oci(replaced={layer: good.layers[0].data[:-8] + b"\0" * 8}), layer),
        "layer's size": (good.oci(replaced={layer: good.layers[0].data + b"\0"}), layer),
        "config's digest": (good.oci(replaced={config: good.config.replace(b"amd64", b"AMD64")}), config),
        "diff id": (archives.Archive([other, good.layers[1]], good.config).oci(), other.diff_id),
        "corrupt layer": (archives.Archive([broken], archives.config([broken], {})).oci(), ""),
        "another platform": (archives.Archive(good.layers, foreign, architecture="s390x").oci(), ""),
    }


@pytest.mark.parametrize("name", list(bad_archives()))
def test_bad_archives(wherryd: Wherryd, tmp_path: Path, name: str) -> None:
    """ctr does much of an import itself, and may leave an image that it could not unpack: as against containerd."""
    data, word = bad_archives()[name]
    archive = tmp_path / "bad.tar"
    archive.write_bytes(data)
    namespace = wherryd.namespace()
    wherryd.ctr("content", "ingest", "something", namespace=namespace, input=b"there before").check()
    wherryd.ctr(
        "content", "label", archives.digest(b"there before"), "containerd.io/gc.root=1", namespace=namespace
    ).check()
    with nothing_more(wherryd, namespace):
        one_line(wherryd.wherry("image", "import", archive, namespace=namespace), 1, word)
    failed = wherryd.ctr("images", "import", archive, namespace=namespace)
    if name != "empty":  # which ctr takes for an archive of no images
        assert failed.code == 1
    wherryd.ctr("images", "rm", "--sync", BUSYBOX, namespace=namespace)
    assert holdings(wherryd, namespace)["overlayfs"] == []
    assert holdings(wherryd, namespace)["leases"] == []


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["/absent"], 127, "no such file or directory"),
        (["absent-program"], 127, "executable file not found in $PATH"),
        (["/etc/passwd"], 126, "permission denied"),
        (["/etc"], 126, "permission denied"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_commands(wherryd: Wherryd, namespace: str, command: list[str], code: int, words: str) -> None:
    box = wherryd.id()
    with nothing_more(wherryd, namespace):
        one_line(wherryd.wherry("run", "--rm", BUSYBOX, *command, namespace=namespace), code, command[0], words)
        one_line(wherryd.wherry("run", "-d", BUSYBOX, *command, namespace=namespace), code, command[0], words)
        failed = wherryd.ctr("run", "--rm", BUSYBOX, wherryd.id(), *command, namespace=namespace)
        assert failed.code == 1 and words in failed.error_text
    wherryd.wherry("run", "-d", "--name", box, BUSYBOX, "sleep", "1000", namespace=namespace).check()
    with nothing_more(wherryd, namespace):
        one_line(wherryd.wherry("exec", box, *command, namespace=namespace), code, command[0], words)
        failed = wherryd.ctr("tasks", "exec", "--exec-id", "e", box, *command, namespace=namespace)
        assert failed.code == 1 and words in failed.error_text
        assert wherryd.ctr("tasks", "ps", box, namespace=namespace).text.count("\n") == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--user", "nobody-of-that-name"), "nobody-of-that-name"),
        (("--user", "root:no-such-group"), "no-such-group"),
        (("--cwd", "/etc/passwd"), "not a directory"),
        (("--cwd", "relative"), "absolute path"),
        (("--mount", "type=bind,src=/absent,dst=/x,options=rbind"), "/absent"),
        (("--mount", "nonsense"), "nonsense"),
        (("--env-file", "/absent"), "/absent"),
        (("--cap-add", "CAP_NONSENSE"), "CAP_NONSENSE"),
        (("--memory", "much"), "much"),
        (("--snapshotter", "absent"), "absent"),
        (("--net", "bridge"), "bridge"),
        (("--nonsense",), "--nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_flags(wherryd: Wherryd, namespace: str, flags: tuple[str, ...], words: str) -> None:
    with nothing_more(wherryd, namespace):
        failed = wherryd.wherry("run", "--rm", *flags, BUSYBOX, "true", namespace=namespace)
        assert failed.code in (2, 125, 126, 127) and failed.text == ""
        assert words in failed.error_text and "Traceback" not in failed.error_text


def test_bad_cwd_and_user_on_the_wire(wherryd: Wherryd, namespace: str, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(archives.busybox("example.org/user:1", User="nobody-of-that-name").oci())
    wherryd.ctr("images", "import", archive, namespace=namespace).check()
    with nothing_more(wherryd, namespace):
        failed = wherryd.ctr("run", "--rm", "example.org/user:1", wherryd.id(), "true", namespace=namespace)
        assert failed.code == 1 and failed.error_text.count("\n") == 1
        one_line(wherryd.wherry("run", "--rm", "example.org/user:1", "true", namespace=namespace), 125, "nobody-of")
        failed = wherryd.ctr("run", "--rm", "--cwd", "/etc/passwd", BUSYBOX, wherryd.id(), "true", namespace=namespace)
        assert failed.code == 1 and "not a directory" in failed.error_text


def test_image_of_another_platform(wherryd: Wherryd, tmp_path: Path) -> None:
    archive, namespace = tmp_path / "image.tar", wherryd.namespace()
    archive.write_bytes(bad_archives()["another platform"][0])
    wherryd.ctr("images", "import", "--all-platforms", "--no-unpack", archive, namespace=namespace).check()
    with nothing_more(wherryd, namespace):
        # ctr runs such an image, on containerd as well: it does not look at the platform that the config says.
        one_line(wherryd.wherry("run", "--rm", BUSYBOX, "true", namespace=namespace), 125, "linux/amd64")


def test_a_second_daemon_on_the_same_root(wherryd: Wherryd, tmp_path: Path) -> None:
    second = run(
        [
            *(COMMANDS / "wherryd", "--root", wherryd.root, "--state", tmp_path / "state"),
            *("--address", tmp_path / "s", "--config", wherryd.directory / "config.toml"),
        ]
    )
    assert second.code == 1 and f"{wherryd.pid}" in second.error_text and "Traceback" not in second.error_text
    assert wherryd.answers()
    assert not (tmp_path / "s").exists()


def test_a_socket_path_that_is_too_long(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 107)
    failed = run([COMMANDS / "wherryd", "--root", tmp_path / "root", "--state", tmp_path / "state", "--address", long])
    assert failed.code != 0 and "107" in failed.error_text and "Traceback" not in failed.error_text
    assert not (tmp_path / "root").exists() and not long.exists()
    one_line(run([COMMANDS / "wherry", "--address", long, "image", "ls"]), 1, "107")


@pytest.mark.parametrize("full", ["content", "snapshot"])
def test_a_full_disk_during_import(small_disk: Path, start_daemon: StartDaemon, tmp_path: Path, full: str) -> None:
    daemon = Wherryd()
    daemon.root = small_disk
    start_daemon(daemon)
    namespace = daemon.namespace()
    # Random bytes do not fit as they come; zeros only once they are unpacked.
    data = random.Random(1).randbytes(9_000_000) if full == "content" else bytes(9_000_000)
    layers = [archives.layer([archives.member("data", data)])]
    archive = tmp_path / "big.tar"
    archive.write_bytes(archives.Archive(layers, archives.config(layers, {}), "example.org/big:1").oci())
    with nothing_more(daemon, namespace):
        one_line(daemon.wherry("image", "import", archive, namespace=namespace), 1, "no space left on device")
    failed = daemon.ctr("images", "import", archive, namespace=namespace)
    assert failed.code == 1 and "no space left on device" in failed.error_text.lower()
    daemon.ctr("images", "rm", "example.org/big:1", namespace=namespace)
    for line in daemon.ctr("content", "active", namespace=namespace).check().text.splitlines()[1:]:
        # ctr leaves its ingest to be resumed, as it does on containerd; wherry takes its own back.
        assert line.startswith("tar-blobs/")
    small = tmp_path / "small.tar"
    small.write_bytes(archives.busybox().oci())
    if full == "snapshot":
        daemon.wherry("image", "import", small, namespace=namespace).check()
        ran = daemon.wherry("run", "--rm", BUSYBOX, "cat", "/etc/motd", namespace=namespace).check()
        assert ran.text == "second layer\n"
