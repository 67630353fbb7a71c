"""The parser of flags: Go's rules, and every flag that runc has."""

from __future__ import annotations

import re

import pytest

from tests.harness.command import run
from wherry.runc.command.command import Command
from wherry.runc.command.flags import (
    DURATION,
    NUMBER,
    NUMBERS,
    SWITCH,
    TEXTS,
    Flag,
    UsageError,
    parse,
    parse_duration,
)
from wherry.runc.command.main import COMMANDS
from wherry.runc.command.settings import FLAGS as GLOBAL

_FLAGS = (
    Flag("file", ""),
    Flag("all", "", SWITCH, short="a"),
    Flag("count", "", NUMBER),
    Flag("env", "", TEXTS, short="e"),
    Flag("gid", "", NUMBERS, short="g"),
    Flag("interval", "", DURATION, default="5s"),
)


def test_forms() -> None:
    for words in (["--file", "x"], ["-file", "x"], ["--file=x"], ["-file=x"]):
        values, rest = parse(_FLAGS, [*words, "id"])
        assert (values.text("file"), rest) == ("x", ["id"])


def test_values() -> None:
    words = ["-a", "--count=0x10", "-e", "A=1", "-e=B=2", "-g", "-1", "--interval", "1m1.5s", "--file", "", "-"]
    values, rest = parse(_FLAGS, words)
    assert values.switch("all")
    assert values.number("count") == 16
    assert values.texts("env") == ["A=1", "B=2"]
    assert values.numbers("gid") == [-1]
    assert values.seconds("interval") == 61.5
    assert values.has("file")
    assert rest == ["-"]


def test_defaults() -> None:
    values, rest = parse(_FLAGS, [])
    assert (values.text("file"), values.switch("all"), values.number("count"), rest) == ("", False, 0, [])
    assert (values.texts("env"), values.seconds("interval"), values.has("all")) == ([], 5.0, False)


def test_where_flags_end() -> None:
    assert parse(_FLAGS, ["id", "-a"])[1] == ["id", "-a"]
    assert parse(_FLAGS, ["--", "-a"])[1] == ["-a"]
    values, rest = parse(_FLAGS, ["id", "-a", "-9", "--file", "x", "--", "-a"], anywhere=True)
    assert (rest, values.switch("all"), values.text("file")) == (["id", "-9", "--", "-a"], True, "x")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--none"], "flag provided but not defined: -none"),
        (["--file"], "flag needs an argument: -file"),
        (["---file"], "bad flag syntax: ---file"),
        (["--=x"], "bad flag syntax: --=x"),
        (["-a=x"], 'invalid boolean value "x" for -a: parse error'),
        (["--count", "x"], 'invalid value "x" for flag -count: parse error'),
        (["-g", "x"], 'invalid value "x" for flag -g: strconv.ParseInt: parsing "x": invalid syntax'),
        (["--interval", "5"], 'invalid value "5" for flag -interval: parse error'),
    ],
)
def test_problems(words: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(problem)}$"):
        parse(_FLAGS, words)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("300ms", 0.3), ("-1.5h", -5400), ("1h2m3s", 3723), ("2us", 2e-6), ("2µs", 2e-6)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_all_flags_of_runc(name: str) -> None:
    """What runc's help lists is there, of the same kind."""
    listed = re.findall(r"^   --([a-z0-9-]+)( value)?(?:, -(\w))?", run(["runc", *name.split(), "--help"]).text, re.M)
    flags = {flag.name: flag for flag in (GLOBAL if not name else _command(name).flags)}
    for flag, value, short in listed:
        if flag in ("help", "version"):
            continue
        assert flag in flags
        assert (flags[flag].kind != SWITCH, flags[flag].short) == (bool(value), short)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_explained(name: str) -> None:
    command = _command(name)
    assert command.summary
    assert command.description
    assert all(flag.purpose for flag in command.flags)


def _command(name: str) -> Command:
    command: Command = __import__(f"wherry.runc.command.{name}", fromlist=["COMMAND"]).COMMAND
    return command
