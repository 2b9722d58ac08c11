"""Groups of commands that answer `--help` before they load what the commands need.

Changed behaviour goes through the class that Typer takes as `cls`, its documented way in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives, and what the list of commands says about it."""

    target: str  # "module:name" below rsprompter_cli.cli; the name is a function or, for a group, a Typer
    summary: str

    def load(self, name: str) -> Any:
        """Import the module and build the command called `name`."""
        module, _, attribute = self.target.partition(":")
        found = getattr(import_module(f"rsprompter_cli.cli.{module}"), attribute)
        holder = typer.Typer(add_completion=False, rich_markup_mode=None)
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=name, cls=Group)
            return typer.main.get_group(holder).commands[name]
        holder.command(name)(found)
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


class Group(TyperGroup):
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

    def summaries(self) -> list[tuple[str, str]]:
        """Each command with the first sentence of its help, however long."""
        return [(name, command.get_short_help_str(limit=1000)) for name, command in self.commands.items()]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table of commands: long summaries are wrapped, not cut as Typer's own table does."""
        with formatter.section("Commands"):
            formatter.write_dl(self.summaries())


class LazyGroup(Group):
    """A group that lists its commands from a table and imports only the one that is called."""

    entries: ClassVar[Mapping[str, Entry]]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands(self.entries)  # type: ignore[assignment]  # read only, never added to

    def summaries(self) -> list[tuple[str, str]]:
        """Each command with what the table says of it."""
        return [(name, entry.summary) for name, entry in self.entries.items()]
