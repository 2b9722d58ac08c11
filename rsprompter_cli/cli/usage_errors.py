"""Command lines that Typer cannot read, as errors that name the nearest option and the way to the help page."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from rsprompter_cli.errors import UsageError


def explain(error: Any) -> UsageError:
    """What Typer raised (a `typer.exceptions.TyperException`) as an error with a hint."""
    context = getattr(error, "ctx", None)
    if context is None:
        return UsageError(error.format_message(), "rsp --help lists all commands")
    page = f"see {context.command_path} --help"
    # Typer's kinds of error have no public names; they are told apart by what they carry.
    if hasattr(error, "possibilities"):
        return _unknown_option(error, context, page)
    if hasattr(error, "param_type") and error.param is not None:
        return _missing(error.param, context, page)
    message = _plain(error.format_message().rstrip(".").replace(": Value error, ", ": "))
    option = _find_option(getattr(error, "option_name", ""), context)
    if option is not None and not option.is_flag:
        page = f"usage: {option.opts[0]} {option.metavar}; {page}"
    if message.startswith("Got unexpected extra"):
        page = f"usage: {context.command_path} {' '.join(context.command.collect_usage_pieces(context))}; {page}"
    return UsageError(f"{_command(context)}{message[:1].lower()}{message[1:]}", page)


def _command(context: Any) -> str:
    """The command before a message, without the `rsp` that every error line begins with: `predict: `."""
    words = context.command_path.split()[1:]
    return f"{' '.join(words)}: " if words else ""


_RANGE_WORDS = (
    ("Input should be less than or equal to", "must be at most"),
    ("Input should be greater than or equal to", "must be at least"),
    ("Input should be less than", "must be below"),
    ("Input should be greater than", "must be above"),
    ("Input should be a valid number, unable to parse string as a number", "is not a number, as in 0.5"),
    ("Input should be a valid integer, unable to parse string as an integer", "is not a whole number"),
)
"""How pydantic, which Typer asks, and how we say it."""


def _plain(message: str) -> str:
    for theirs, ours in _RANGE_WORDS:
        message = message.replace(f": {theirs}", f": {ours}")
    return message


def _unknown_option(error: Any, context: Any, page: str) -> UsageError:
    """An option that the command does not have: the nearest one, or that it belongs before the command."""
    path, root, name = context.command_path, context.find_root(), error.option_name
    if context is not root and name in _option_names(root):
        option = "--log-file FILE" if name == "--log-file" else name
        line = " ".join([root.command_path, option, path.removeprefix(f"{root.command_path} ")])
        return UsageError(
            f"{_command(context)}there is no option {name}", f"it goes before the command: {line} ...; {page}"
        )
    names = _option_names(context)
    if not name.startswith("--"):
        # Of -score only the -s was read; the root's object has the line as it was typed.
        typed = [word for word in root.obj or () if word.startswith(name) and word not in names]
        name = typed[0] if typed else name
    near = _nearest_option(name, names) if len(name) > 2 else ""
    hint = f"did you mean {near}? " if near else ""
    return UsageError(f"{_command(context)}there is no option {name}", f"{hint}{page}")


def _nearest_option(name: str, names: list[str]) -> str:
    """The long option most like `name`, compared without dashes, or the only one that begins with it; may be empty."""
    words = {each.removeprefix("--"): each for each in names if each.startswith("--")}
    word = name.lstrip("-").partition("=")[0]
    near = get_close_matches(word, words, n=1) or [each for each in words if each.startswith(word)]
    return words[near[0]] if len(near) == 1 else ""


def _find_option(name: str, context: Any) -> Any:
    """The option of a command that has this spelling, or None."""
    return next((item for item in context.command.get_params(context) if name in item.opts), None)


def _option_names(context: Any) -> list[str]:
    """All spellings of the options of a command."""
    options = [item for item in context.command.get_params(context) if item.param_type_name == "option"]
    return [name for item in options if not item.hidden for name in (*item.opts, *item.secondary_opts)]


def _missing(item: Any, context: Any, page: str) -> UsageError:
    """An argument or option that has to be given and was not: what it is, with an example."""
    from rsprompter_cli.cli.help import argument_name, read_description

    is_argument = item.param_type_name == "argument"
    name = argument_name(item) if is_argument else f"{item.opts[0]} {item.metavar or ''}".strip()
    examples = read_description(context.command.help).examples
    example = f"for example: {examples[0]}; " if examples else ""
    return UsageError(f"{_command(context)}{name} is missing: {(item.help or '').rstrip('.')}", f"{example}{page}")
