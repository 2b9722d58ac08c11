"""`rsp help`: the page that `--help` shows, by the name of the command."""

from __future__ import annotations

from typing import Annotated

import typer


def _complete(incomplete: str) -> list[str]:
    """Names of commands, for the completion of a shell."""
    from rsprompter_cli.cli.app import COMMANDS

    return [name for name in COMMANDS if name.startswith(incomplete)]


def help_command(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND...",
            help="A command, or a group and one of its commands.",
            show_default=False,
            autocompletion=_complete,
        ),
    ] = None,
) -> None:
    """Show the help of rsp or of one of its commands.

    Examples:
        rsp help predict
        rsp help checkpoint import
    """
    root = context.find_root()
    root.command.main([*(names or ()), "--help"], prog_name="rsp", standalone_mode=False)
