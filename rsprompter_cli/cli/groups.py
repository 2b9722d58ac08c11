"""Commands and groups with the help pages of `rsp`; groups answer `--help` before they load what commands need.

Changed behaviour goes through the class that Typer takes as `cls`, its documented way in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

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

    @property
    def is_group(self) -> bool:
        """Whether it holds commands itself; it is asked before the module is imported."""
        return self.target.endswith(":app")

    def load(self, name: str) -> Any:
        """Import the module and build the command called `name`."""
        module, _, attribute = self.target.partition(":")
        found = getattr(import_module(f"rsprompter_cli.cli.{module}"), attribute)
        return _group(found, name) if isinstance(found, typer.Typer) else _command(found, name)


@dataclass(frozen=True, slots=True)
class _Member:
    """A command of a group, whose function is imported but whose options are not yet looked at: that takes longer."""

    function: Callable[..., Any]
    panel: str = "Commands"

    @property
    def summary(self) -> str:
        return (self.function.__doc__ or "").partition("\n\n")[0].strip()

    def load(self, name: str) -> Any:
        return _command(self.function, name)


def _command(function: Callable[..., Any], name: str) -> Any:
    """The command that a function is."""
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command(name, cls=Command)(function)
    return typer.main.get_command(holder)


def _group(commands: typer.Typer, name: str) -> Any:
    """A group of the commands that are registered with a Typer."""
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.add_typer(typer.Typer(help=commands.info.help, no_args_is_help=True), name=name, cls=LazyGroup)
    group: Any = typer.main.get_group(holder).commands[name]
    members = {
        info.name: _Member(info.callback) for info in commands.registered_commands if info.name and info.callback
    }
    group.hold(members)
    return group


class _Commands(Mapping[str, Any]):
    """The commands by name, each built when it is first looked at."""

    def __init__(self, entries: Mapping[str, Entry | _Member]) -> None:
        self._entries = entries
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._entries[name].load(name)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # without building it

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class LazyGroup(_Paged, TyperGroup):
    """A group that builds only the command that is called, and shows its help on stderr when none is named."""

    entries: Mapping[str, Entry | _Member] = MappingProxyType({})

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.hold(self.entries)

    def hold(self, entries: Mapping[str, Entry | _Member]) -> None:
        """Have these commands."""
        self.entries = entries
        self.commands = _Commands(entries)  # type: ignore[assignment]  # read only, never added to

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
        where = "" if ctx.parent is None else f"{path.partition(' ')[2]}: "  # without the rsp that begins the line
        raise UsageError(f"{where}there is no command {name!r}", f"{hint}{path} --help lists all commands")

    def nearest(self, name: str) -> list[str]:
        """The commands most like `name`; before them those of this name inside other groups."""
        groups = [group for group, entry in self.entries.items() if isinstance(entry, Entry) and entry.is_group]
        inside = [f"{group} {name}" for group in groups if name in getattr(self.commands[group], "commands", ())]
        return [*inside, *get_close_matches(name, self.commands, n=2)][:3]

    def command_panels(self) -> dict[str, list[Row]]:
        """Each command with what the table says of it, in the panels it names."""
        from rsprompter_cli.cli.help import Row

        panels: dict[str, list[Row]] = {}
        for name, entry in self.entries.items():
            panels.setdefault(entry.panel, []).append(Row(name, text=entry.summary))
        return panels
