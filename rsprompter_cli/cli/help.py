"""Help pages: what a command does, examples that can be copied, and its options in panels by purpose.

Typer draws panels too, but imports Markdown and syntax highlighting for them, which takes longer than everything else
that `--help` does. These pages use the few parts of rich that they need.
"""

from __future__ import annotations

import os
import shutil
import sys
from enum import Enum
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple

from rsprompter_cli.cli.options import PANELS

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

MAX_WIDTH = 100
"""Columns of the widest page; longer lines are hard to read."""

_EXAMPLES = "Examples:"

_UNBROKEN = 26
"""Notes up to this length stay on one line."""
_SPACE = "\ue000"
"""Stands for a space at which no line is broken; a private character, because rich breaks at non-breaking spaces."""


class Row(NamedTuple):
    """An argument, option or command, and what the page says about it."""

    names: str  # "-o, --out"
    value: str = ""  # the word for its value: "FILE"
    text: str = ""
    notes: tuple[str, ...] = ()  # "default: 0.5", "required"

    @property
    def title(self) -> str:
        """Names and value as one writes them."""
        return f"{self.names} {self.value}".rstrip()

    @property
    def description(self) -> str:
        """Text and notes as one line."""
        return " ".join([self.text, *(f"[{note}]" for note in self.notes)]).strip()


class Description(NamedTuple):
    """A docstring in its parts."""

    paragraphs: list[str]
    examples: list[str]


def read_description(text: str | None) -> Description:
    """Split a docstring into paragraphs, joined to one line each, and the lines of its section `Examples:`."""
    description = Description([], [])
    for block in (text or "").strip().split("\n\n"):
        lines = [line.strip() for line in block.strip().splitlines()]
        if lines and lines[0] == _EXAMPLES:
            description.examples.extend(lines[1:])
        elif lines:
            description.paragraphs.append(" ".join(lines))
    return description


def argument_name(argument: Any) -> str:
    """The word for an argument: its metavar, or its name in capitals, with dots where it repeats."""
    repeats = argument.nargs != 1 and "..." not in (argument.metavar or "")
    return (argument.metavar or argument.name.upper()) + ("..." if repeats else "")


def usage_pieces(command: Any, context: Any) -> list[str]:
    """What follows the name of the program in the line `Usage:`."""
    arguments = [item for item in command.get_params(context) if item.param_type_name == "argument"]
    names = [argument_name(item) if item.required else f"[{argument_name(item)}]" for item in arguments]
    return ["[OPTIONS]", *names, *(["COMMAND [ARGS]..."] if hasattr(command, "commands") else [])]


def argument_rows(command: Any, context: Any) -> list[Row]:
    """A row for each argument of a command."""
    return [
        Row(argument_name(item), text=item.help or "", notes=_notes(item, context))
        for item in command.get_params(context)
        if item.param_type_name == "argument" and not item.hidden
    ]


def option_panels(command: Any, context: Any) -> dict[str, list[Row]]:
    """The options of a command by panel, in the order of `PANELS`."""
    options = [item for item in command.get_params(context) if item.param_type_name == "option" and not item.hidden]
    without = [item for item in options if not item.rich_help_panel]
    rest = "Options" if len(without) > 1 else "Help"  # --help itself has no panel
    panels: dict[str, list[Row]] = {}
    for item in options:
        panels.setdefault(item.rich_help_panel or rest, []).append(_option_row(item, context))
    order = {name: place for place, name in enumerate(PANELS)}
    last = len(PANELS)
    return dict(sorted(panels.items(), key=lambda panel: order.get(panel[0], last + (panel[0] == rest))))


def _option_row(option: Any, context: Any) -> Row:
    names = ", ".join(sorted(option.opts, key=lambda name: (name.startswith("--"), name)))
    if option.secondary_opts:
        names += "/" + "/".join(option.secondary_opts)
    takes_value = not option.is_flag and not option.count
    value = (option.metavar or option.display_type(context)) if takes_value else ""
    notes = _notes(option, context)
    return Row(names, value, option.help or "", (*notes, "required") if option.required else notes)


def _notes(item: Any, context: Any) -> tuple[str, ...]:
    default = default_text(item, context)
    return (f"default: {default}",) if default else ()


def default_text(item: Any, context: Any) -> str:
    """The default of an argument or option as it is shown; empty where there is nothing to show."""
    if isinstance(item.show_default, str):
        return item.show_default
    if not item.show_default or getattr(item, "count", False):
        return ""
    value = item.get_default(context, call=False)
    if getattr(item, "is_flag", False):
        return (item.opts if value else item.secondary_opts)[0].lstrip("-") if item.secondary_opts else ""
    if value is None or value == () or value == []:
        return ""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def help_page(command: Any, context: Any) -> str:
    """The help page of a command or group, with colours where stdout is a terminal that has them."""
    from rich.console import Console
    from rich.text import Text

    page = StringIO()
    console = Console(file=page, width=page_width(), force_terminal=True if sys.stdout.isatty() else None)
    description = read_description(command.help)
    usage = Text.assemble(("Usage: ", "bold"), f"{context.command_path} {' '.join(usage_pieces(command, context))}")
    console.print(usage, soft_wrap=False)
    for paragraph in description.paragraphs:
        console.print()
        console.print(Text(paragraph))
    if description.examples:
        console.print()
        console.print(Text("Examples", style="bold"))
        for example in description.examples:
            console.print(Text(f"  {example}", style="cyan"), soft_wrap=True)
    console.print()
    panels: dict[str, list[Row]] = {}
    if arguments := argument_rows(command, context):
        panels["Arguments"] = arguments
    if hasattr(command, "command_panels"):
        panels |= command.command_panels()
    options = option_panels(command, context)
    # The names of a command's arguments and options form one column, those of a group's commands another.
    columns = [panels, options] if hasattr(command, "command_panels") else [panels | options]
    for column in columns:
        _print_panels(console, column)
    lines = page.getvalue().replace(_SPACE, " ").splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def page_width() -> int:
    """Columns of a page: those of the terminal, 80 without one, 100 at most."""
    return min(shutil.get_terminal_size((80, 24)).columns, MAX_WIDTH)


def _print_panels(console: Console, panels: dict[str, list[Row]]) -> None:
    """Draw the panels, whose first columns have one width."""
    from rich import box
    from rich.panel import Panel
    from rich.text import Text

    longest = max((len(row.title) for rows in panels.values() for row in rows), default=0)
    # A legacy code page has no rounded corners, and a line that it cannot write is an error.
    frame = box.ROUNDED if _draws_boxes() else box.ASCII
    for title, rows in panels.items():
        console.print(
            Panel(
                _table(rows, min(longest, console.width // 2)),
                title=Text(title, style="bold not dim"),
                title_align="left",
                box=frame,
                border_style="dim",
            )
        )


def _draws_boxes() -> bool:
    """Whether stdout takes the characters of a box and the terminal shows more than plain text."""
    return "utf" in (sys.stdout.encoding or "").lower() and os.environ.get("TERM") != "dumb"


def _table(rows: list[Row], width: int) -> RenderableType:
    """Names on the left, texts on the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(width=width, overflow="fold")
    table.add_column(ratio=1, overflow="fold")
    for row in rows:
        names = Text.assemble((row.names, "bold cyan"), (f" {row.value}" if row.value else "", "yellow"))
        text = Text(row.text)
        for note in row.notes:
            text.append(" " if text.plain else "")
            shown = f"[{note}]"
            if len(shown) <= _UNBROKEN:
                shown = shown.replace(" ", _SPACE)
            text.append(shown, style="red" if note == "required" else "dim")
        table.add_row(names, text)
    return table
