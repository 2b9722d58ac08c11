"""Commands and groups with the help pages of `rsp`; groups answer `--help` before they load what commands need.

Changed behaviour goes through the class that Typer takes as `cls`, its documented way in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from rsprompter_cli.errors import UsageError

if TYPE_CHECKING:
    from rsprompter_cli.cli.help import Row


class _Paged:
    """What commands and groups have in common: the pages of cli/help.py, which is imported when one is asked for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        from rsprompter_cli.cli.help import help_page

        formatter.write(help_page(self, ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line after the name of the program."""
        from rsprompter_cli.cli.help import usage_pieces

        return usage_pieces(self, ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the command; an error knows the command, whose help page it names."""
        try:
            return super().parse_args(ctx, args)  # type: ignore[misc]  # that of the class it is mixed into
        except typer.exceptions.TyperException as error:
            if getattr(error, "ctx", None) is None:
                error.ctx = ctx  # type: ignore[attr-defined]
            raise


class Command(_Paged, TyperCommand):
    """A command with a help page in panels."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives, and what the list of commands says about it."""

    target: str  # "module:name" below rsprompter_cli.cli; the name is a function or, for a group, a Typer
    summary: str
    panel: str  # the panel of the list of commands it stands in

    def load(self, name: str) -> Any:
        """Import the module and build the command called `name`."""
        module, _, attribute = self.target.partition(":")
        found = getattr(import_module(f"rsprompter_cli.cli.{module}"), attribute)
        holder = typer.Typer(add_completion=False, rich_markup_mode=None)
        if isinstance(found, typer.Typer):
            for info in found.registered_commands:
                info.cls = Command
            holder.add_typer(found, name=name, cls=Group)
            return typer.main.get_group(holder).commands[name]
        holder.command(name, cls=Command)(found)
        return typer.main.get_command(holder)


class _Commands(Mapping[str, Any]):
    """The commands by name, each imported when it is first looked at."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._entries[name].load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Group(_Paged, TyperGroup):
    """A group that shows its help on stderr when no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the group's own options, or leave at once where help is all that is wanted."""
        if not ctx.resilient_parsing:
            if not args and self.no_args_is_help:
                typer.echo(ctx.get_help(), err=True)
                raise typer.Exit(2)
            if args and args[0] in self.commands and not set(ctx.help_option_names).isdisjoint(args):
                # No option of the group is given. To read even their defaults Typer loads pydantic, which
                # takes as long as all the rest. So the command reads its line first: it shows its help
                # and exits, or the help flag was another option's value, and all goes on as ever.
                name, command, rest = self.resolve_command(ctx, list(args))
                assert command is not None
                command.make_context(name, rest, parent=ctx)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that is named.

        Raises:
            UsageError: there is none of this name.
        """
        name = args[0]
        if name in self.commands or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        path = ctx.command_path
        near = " or ".join(f"{path} {other}" for other in self.nearest(name))
        hint = f"did you mean {near}? " if near else ""
        raise UsageError(f"{path}: there is no command {name!r}", f"{hint}{path} --help lists all commands")

    def nearest(self, name: str) -> list[str]:
        """The commands whose names are most like `name`, the nearest first."""
        return get_close_matches(name, self.commands, n=2)

    def command_panels(self) -> dict[str, list[Row]]:
        """Each command with the first sentence of its help, in panels."""
        from rsprompter_cli.cli.help import Row

        rows = [Row(name, text=command.get_short_help_str(limit=1000)) for name, command in self.commands.items()]
        return {"Commands": rows}


class LazyGroup(Group):
    """A group that lists its commands from a table and imports only the one that is called."""

    entries: ClassVar[Mapping[str, Entry]]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands(self.entries)  # type: ignore[assignment]  # read only, never added to

    def nearest(self, name: str) -> list[str]:
        """The commands most like `name`; those inside the groups too, where that is the name of one."""
        inside = [f"{entry} {name}" for entry in self.entries if name in getattr(self.commands[entry], "commands", {})]
        return inside or super().nearest(name)

    def command_panels(self) -> dict[str, list[Row]]:
        """Each command with what the table says of it, in the panels it names."""
        from rsprompter_cli.cli.help import Row

        panels: dict[str, list[Row]] = {}
        for name, entry in self.entries.items():
            panels.setdefault(entry.panel, []).append(Row(name, text=entry.summary))
        return panels
