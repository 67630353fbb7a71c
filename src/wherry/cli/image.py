"""wherry image."""

from __future__ import annotations

from wherry.cli import image_convert, image_export, image_import, image_mount, image_names, image_prune
from wherry.cli import image_pull as pull
from wherry.cli import image_push as push
from wherry.cli.main import nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from types import ModuleType
    from typing import Any

    from wherry.cli.main import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the commands and their flags."""
    parser.description = "Images: pull, push, import and export them, see what they are made of, make others of them."
    actions = nested(parser)
    image_names.add_ls(actions)
    _add_command(actions, "pull", pull, "pull an image from a registry")
    _add_command(actions, "push", push, "push an image to a registry")
    image_import.add_import(actions)
    image_export.add_export(actions)
    image_names.add_tag(actions)
    image_names.add_inspect(actions)
    image_names.add_rm(actions)
    image_prune.add_prune(actions)
    image_convert.add_convert(actions)
    image_mount.add_mount(actions)
    image_mount.add_unmount(actions)


def _add_command(actions: Any, name: str, command: ModuleType, help: str) -> None:
    """Add what is a command of its own as well."""
    parser = actions.add_parser(name, help=help)
    command.add_arguments(parser)
    parser.set_defaults(handler=command.run)


def run(options: argparse.Namespace, session: Session) -> int:
    """Run one of the commands."""
    status: int = options.handler(options, session)
    return status
