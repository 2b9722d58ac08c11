"""Write the pages that follow from the code: docs/cli.md and docs/exit-codes.md.

python docs/generate.py    # after a change of a command, an option or an error
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from rsprompter_cli import errors
from rsprompter_cli.cli.app import app
from rsprompter_cli.cli.help import argument_rows, option_panels, read_description, usage_pieces

DOCS = Path(__file__).resolve().parent
NOTE = "<!-- Written by docs/generate.py; change the code, not this page. -->\n"


def cli_page() -> str:
    """Every command with its arguments and options, as Markdown."""
    root = typer.main.get_command(app)
    lines = [NOTE, "# Commands\n", *_command_lines(root, "rsp", 2)]
    return "\n".join(lines).rstrip() + "\n"


def _command_lines(command: Any, path: str, depth: int, parent: Any = None) -> list[str]:
    context = command.make_context(path, [], parent=parent, resilient_parsing=True)
    description = read_description(command.help)
    usage = " ".join([path, *usage_pieces(command, context)])
    lines = [f"{'#' * depth} `{path}`\n", *(f"{paragraph}\n" for paragraph in description.paragraphs)]
    shown = [usage, *(["", *description.examples] if description.examples else [])]
    lines += ["```console", *(f"$ {line}" if line else "" for line in shown), "```\n"]
    panels = {"Arguments": argument_rows(command, context), **option_panels(command, context)}
    for title, rows in panels.items():
        if rows:
            lines += [f"{title}:\n", *(f"- `{row.title}`: {row.description}" for row in rows), ""]
    for name in sorted(getattr(command, "commands", {})):
        lines += _command_lines(command.commands[name], f"{path} {name}", min(depth + 1, 4), context)
    return lines


def exit_codes() -> list[tuple[int, str, str]]:
    """(code, error class, meaning) of every way a command can end, in order of the code."""
    known = [errors.RspError, *errors.RspError.__subclasses__()]
    rows = [(kind.exit_code, kind.__name__, str(kind.__doc__).split("\n")[0]) for kind in known]
    interrupted = (errors.INTERRUPTED_EXIT_CODE, "", "Ctrl-C, or a question answered with no.")
    ended = [(128 + number, "", f"{name}; what the command began is tidied up as after Ctrl-C.") for name, number in
             (("SIGTERM", 15), ("SIGHUP", 1))]  # fmt: skip
    return sorted([(0, "", "Done."), *rows, interrupted, *ended])


def exit_codes_page() -> str:
    """The table of exit codes, as Markdown."""
    rows = [f"| {code} | {f'`{name}`' if name else ''} | {meaning} |" for code, name, meaning in exit_codes()]
    head = [
        NOTE,
        "# Exit codes\n",
        "An error is one line on stderr that names the file, option or id, and the way out.",
    ]
    about = [
        "`RSP_DEBUG=1` adds the traceback. A code above 128 that is not listed is a signal, as shells count.\n",
        "| code | error | meaning |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *about, *rows]) + "\n"


PAGES = {"cli.md": cli_page, "exit-codes.md": exit_codes_page}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8", newline="\n")
        print(f"wrote {DOCS / name}")
