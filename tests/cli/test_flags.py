"""The quick parser says what argparse says, or leaves it to argparse."""

from __future__ import annotations

import argparse
import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.cli.flags import FlagParser, Unusual
from wherry.cli.main import COMMANDS

WORDS = st.sampled_from(
    "--rm -d -t -i --name --name=x x y -e A=b --env=C --net host --net=no --cpus 1.5 --cpus=z --memory 1m -- - "
    "--pids-limit 3 --label=a=b sh -c --help -u 0:0 --nothing".split()
)


def by_argparse(module: str, arguments: list[str]) -> dict[str, object] | None:
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    importlib.import_module(module).add_arguments(parser)
    try:
        return vars(parser.parse_args(arguments))
    except (SystemExit, argparse.ArgumentError):
        return None


@pytest.mark.parametrize("command", ["run", "exec"])
@given(arguments=st.lists(WORDS, max_size=8))
def test_agrees_with_argparse(command: str, arguments: list[str]) -> None:
    module = COMMANDS[command][0]
    quick = FlagParser()
    importlib.import_module(module).add_arguments(quick)
    try:
        parsed = vars(quick.parse(arguments))
    except Unusual:
        return
    assert parsed == by_argparse(module, arguments)


def test_a_plain_command_line_needs_no_argparse() -> None:
    quick = FlagParser()
    importlib.import_module("wherry.cli.run").add_arguments(quick)
    options = quick.parse("--rm -e A=b --env C=d --cpus 1.5 IMAGE sh -c --rm".split())
    assert options.__dict__["rm"] is True
    assert options.__dict__["env"] == ["A=b", "C=d"]
    assert options.__dict__["cpus"] == 1.5
    assert options.__dict__["args"] == ["sh", "-c", "--rm"]
