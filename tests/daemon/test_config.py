"""wherryd's configuration: where each value comes from, and what is said of one that cannot be."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from wherry.daemon.config import Config, GarbageCollection, default_text, load
from wherry.errors import InvalidArgument


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return str(path)


def test_the_defaults_are_containerds_with_another_name() -> None:
    config = load({}, {})
    assert config == Config()
    assert (config.root, config.state) == ("/var/lib/wherry", "/run/wherry")
    assert (config.address, config.ttrpc_address) == ("/run/wherry/wherry.sock", "/run/wherry/wherry.sock.ttrpc")


def test_a_flag_goes_before_the_environment_before_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'root = "/file"\nstate = "/file-state"\nlog_level = "error"\n')
    config = load({"config": file, "root": "/flag"}, {"WHERRY_ROOT": "/variable", "WHERRY_LOG_LEVEL": "debug"})
    assert (config.root, config.log_level, config.state) == ("/flag", "debug", "/file-state")
    assert load({}, {"WHERRY_CONFIG": file}).root == "/file"


def test_a_switch(tmp_path: Path) -> None:
    file = written(tmp_path, "no_shim = true")
    assert load({"config": file}, {}).no_shim is True
    assert load({"config": file}, {"WHERRY_NO_SHIM": "false"}).no_shim is False
    assert load({"no_shim": "true"}, {"WHERRY_NO_SHIM": "false"}).no_shim is True
    with pytest.raises(InvalidArgument, match="WHERRY_NO_SHIM: no_shim 'yes' must be one of true, false"):
        load({}, {"WHERRY_NO_SHIM": "yes"})


def test_the_environment_of_clients_is_not_the_daemons() -> None:
    assert load({}, {"CONTAINERD_ADDRESS": "/other.sock"}).address == Config().address


def test_the_socket_is_in_the_state_directory_unless_told(tmp_path: Path) -> None:
    assert load({"state": "/s"}, {}).address == "/s/wherry.sock"
    assert load({"config": written(tmp_path, 'state = "/s"')}, {}).address == "/s/wherry.sock"
    assert load({"state": "/s", "address": "unix:///a/b.sock"}, {}).address == "/a/b.sock"


def test_paths_have_one_form() -> None:
    assert load({"root": "/a//b/../c/"}, {}).root == "/a/c"


def test_runtimes(tmp_path: Path) -> None:
    file = written(tmp_path, '[runtimes."io.containerd.runc.v2"]\nshim = "/usr/bin/containerd-shim-runc-v2"\n')
    assert load({"config": file}, {}).runtimes == {"io.containerd.runc.v2": "/usr/bin/containerd-shim-runc-v2"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "rooot = '/x'",
            "{path}: unknown key rooot; there are root, state, address, log_level, log_format, no_shim, ksm, gc,"
            " transfer, runtimes",
        ),
        ("no_shim = 'true'", "{path}: no_shim must be a boolean, and is a string"),
        ("root = 3", "{path}: root must be a string, and is an integer"),
        ("root = true", "{path}: root must be a string, and is a boolean"),
        ("root = 'relative'", "{path}: root 'relative' must be an absolute path"),
        ("log_level = 'loud'", "{path}: log_level 'loud' must be one of debug, info, warn, error"),
        ("log_format = 'xml'", "{path}: log_format 'xml' must be one of text, json"),
        ("gc = 1", "{path}: gc must be a table, and is an integer"),
        (
            "[gc]\npause = 1",
            "{path}: [gc]: unknown key pause; there are pause_threshold, deletion_threshold, mutation_threshold,"
            " schedule_delay, startup_delay",
        ),
        ("[gc]\npause_threshold = 0.6", "{path}: [gc]: pause_threshold 0.6 must be from 0 to 0.5"),
        ("[gc]\npause_threshold = true", "{path}: [gc]: pause_threshold must be a float, and is a boolean"),
        ("[gc]\nmutation_threshold = -1", "{path}: [gc]: mutation_threshold -1 must not be negative"),
        ("[gc]\ndeletion_threshold = 1.5", "{path}: [gc]: deletion_threshold must be an integer, and is a float"),
        ("[gc]\nstartup_delay = 1", '{path}: [gc]: startup_delay must be a string like "100ms", and is an integer'),
        ("[gc]\nschedule_delay = '-1s'", "{path}: [gc]: schedule_delay -1s must not be negative"),
        (
            "[gc]\nschedule_delay = '1'",
            '{path}: [gc]: schedule_delay: invalid duration "1": numbers with units are wanted, as in 100ms or 1h30m',
        ),
        ("runtimes = 'x'", "{path}: runtimes must be a table, and is a string"),
        ("[runtimes]\nx = 'y'", '{path}: [runtimes."x"] must be a table, and is a string'),
        ("[runtimes.x]\nshimm = '/y'", '{path}: [runtimes."x"]: unknown key shimm; there is shim'),
        ("[runtimes.x]\nshim = 1", '{path}: [runtimes."x"]: shim must be a string, and is an integer'),
        ("[runtimes.x]", '{path}: [runtimes."x"]: shim must be a string, and is missing'),
        ("[runtimes.x]\nshim = 'y'", "{path}: [runtimes.\"x\"]: shim 'y' must be an absolute path"),
        ("root = '/same'\nstate = '/same'", "root and state are both /same: they must be different directories"),
        ("root = ", "configuration file {path}: Invalid value (at end of document)"),
    ],
)
def test_what_a_file_must_not_say(tmp_path: Path, text: str, reason: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidArgument) as caught:
        load({"config": path}, {})
    assert caught.value.message == reason.format(path=path) + ": invalid argument"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"configuration file {tmp_path}/none: no such file"):
        load({"config": f"{tmp_path}/none"}, {})
    with pytest.raises(InvalidArgument, match="is a directory"):
        load({"config": str(tmp_path)}, {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgument, match="binary"):
        load({"config": str(tmp_path / "binary")}, {})


def test_an_error_names_the_flag_or_variable() -> None:
    with pytest.raises(InvalidArgument, match="--log-level: log_level 'loud' must be one of"):
        load({"log_level": "loud"}, {})
    with pytest.raises(InvalidArgument, match="WHERRY_ROOT: root 'x' must be an absolute path"):
        load({}, {"WHERRY_ROOT": "x"})


@pytest.mark.parametrize(("length", "right"), [(101, True), (102, False)])
def test_a_socket_path_has_107_bytes_with_its_ttrpc_sibling(length: int, right: bool) -> None:
    address = "/" + "a" * (length - 1)
    if right:
        assert len(load({"address": address}, {}).ttrpc_address) == 107
    else:
        with pytest.raises(InvalidArgument, match=f"{address}.ttrpc has 108 bytes, and the kernel takes 107"):
            load({"address": address}, {})


def test_the_default_file_says_the_defaults(tmp_path: Path) -> None:
    text = default_text()
    keys = {"root", "state", "address", "log_level", "log_format", "no_shim", "ksm", "gc", "transfer"}
    assert set(tomllib.loads(text)) == keys
    assert tomllib.loads(text)["gc"] == GarbageCollection().to_toml()
    assert load({"config": written(tmp_path, text)}, {}) == Config()
    # Its example, uncommented, is right as well.
    example = text.replace("# [runtimes", "[runtimes").replace("# shim =", "shim =")
    assert load({"config": written(tmp_path, example)}, {}).runtimes


def test_garbage_collection(tmp_path: Path) -> None:
    file = written(tmp_path, "[gc]\npause_threshold = 0.5\nschedule_delay = '1m1.5s'\nstartup_delay = '0s'")
    gc = load({"config": file}, {}).gc
    assert (gc.pause_threshold, gc.schedule_delay, gc.startup_delay) == (0.5, 61_500_000_000, 0)
    assert (gc.deletion_threshold, gc.mutation_threshold) == (0, 100)


def test_what_is_dumped_loads_as_the_same(tmp_path: Path) -> None:
    import tomli_w

    gc = GarbageCollection(0.1, 2, 3, 1_500_000_000, 0)
    config = Config(root="/r", no_shim=True, gc=gc, runtimes={'odd "name"': "/x"})
    assert load({"config": written(tmp_path, tomli_w.dumps(config.to_toml()))}, {}) == config


def test_transfers(tmp_path: Path) -> None:
    text = "[transfer]\nmax_concurrent_downloads = 7\nhosts = '/a:/b'\nverifier_timeout = 2\nmax_verifiers = -1"
    transfer = load({"config": written(tmp_path, text)}, {}).transfer
    assert (transfer.max_concurrent_downloads, transfer.hosts) == (7, "/a:/b")
    assert (transfer.verifier_timeout, transfer.max_verifiers, transfer.max_concurrent_unpacks) == (2, -1, 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("downloads = 3", "unknown key downloads; there are max_concurrent_downloads, "),
        ("max_concurrent_downloads = 0", "max_concurrent_downloads must be 1 or more, and is 0"),
        ("max_concurrent_uploads = true", "max_concurrent_uploads must be a number"),
        ("hosts = 'certs.d'", "hosts 'certs.d' must be absolute paths"),
        ("verifiers = 3", "verifiers must be a string"),
    ],
)
def test_what_the_table_of_transfers_must_not_say(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        load({"config": written(tmp_path, f"[transfer]\n{text}")}, {})
    assert "[transfer]" in refused.value.message and reason in refused.value.message
