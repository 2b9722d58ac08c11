"""Reading and writing configurations: presets, files, single changes, and errors that name the key."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rsprompter_cli.config.run import Config
from rsprompter_cli.documents import parse_toml, read_toml
from rsprompter_cli.errors import InputError, UsageError, did_you_mean, shorten

PRESET_FOLDER = Path(__file__).parents[1] / "presets"
DEFAULT_PRESET = "rsprompter-anchor-whu"

_LONGEST_KEY = 60
"""Characters of a key in a message; our own have at most 50."""

_MOST_PARTS = 16
"""Of a dotted key; our own have at most 5."""

_WORDS = {
    "missing": "is missing",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list, such as [1, 2]",
    "list_type": "must be a list",
    "dict_type": "must be a table of keys",
    "model_type": "must be a table of keys",
    "model_attributes_type": "must be a table of keys",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "extra_forbidden": "is not a known key",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "multiple_of": "must be a multiple of {multiple_of}",
    "too_short": "must have {min_length} or more items, has {actual_length}",
    "too_long": "must have {max_length} items at most, has {actual_length}",
}
"""What pydantic's types of error are called here; any other keeps pydantic's own words."""


def list_presets() -> dict[str, Path]:
    """Names of the built-in presets and their files, sorted."""
    return {path.stem: path for path in sorted(PRESET_FOLDER.glob("*.toml"), key=lambda path: path.stem)}


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a preset name or a TOML file, with `a.b=value` overrides applied.

    Raises:
        UsageError: no such preset, an unknown key or a bad value; the message names the key's path.
        InputError: a file that is not TOML.
    """
    presets = list_presets()
    path = presets.get(str(source), Path(source))
    if str(source) not in presets and not os.path.isfile(path):
        raise UsageError(f"no preset or file named {shorten(str(source))!r}", did_you_mean(str(source), presets))
    tree = read_toml(path)
    for text in overrides:
        _apply_override(tree, text)
    return parse_config(tree, origin=str(source))


def parse_config(tree: Mapping[str, Any], origin: str) -> Config:
    """A validated tree; `origin` is the file or preset named in errors."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"{origin}: {_first_problem(error)}", _hint(error)) from error


def dump_config(config: Config) -> str:
    """The configuration as TOML that `load_config` reads back equal; a None is left out."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def valid_keys() -> list[str]:
    """Every settable key of every kind of model as a dotted path, sorted."""
    return sorted(set(_leaf_paths(Config, "")))


def _leaf_paths(model: type[BaseModel], prefix: str) -> list[str]:
    paths: list[str] = []
    for name, field in model.model_fields.items():
        tables = _tables(field.annotation)
        paths.extend(path for table in tables for path in _leaf_paths(table, f"{prefix}{name}."))
        if not tables:
            paths.append(f"{prefix}{name}")
    return paths


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """The tables an annotation is made of, unions and Annotated opened."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in _tables(part)]


def _apply_override(tree: dict[str, Any], text: str) -> None:
    key, sign, raw = text.partition("=")
    if not sign or not key.strip():
        raise UsageError(f"--set {shorten(text)!r}: write it as key=value, for instance train.lr=1e-4")
    path = key.strip().split(".")
    if len(path) > _MOST_PARTS:
        raise UsageError(f"--set {_short(key)}: unknown key, of {len(path):,} parts")
    node = tree
    for part in path[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            told = f"--set {_short(key)}: {_short(part)!r} is a value, not a table"
            raise UsageError(told, did_you_mean(key, valid_keys()))
        node = child
    if raw.strip().lower() == "none":
        node.pop(path[-1], None)
    else:
        node[path[-1]] = _toml_value(key.strip(), raw.strip())


def _toml_value(key: str, raw: str) -> Any:
    """A TOML value, or the text itself when it is none (so that strings need no quotes).

    What would be read on as further lines, items or a comment is not one value, but text too.
    """
    try:
        alone, in_list = (parse_toml(text, "") for text in (f"value = {raw}", f"value = [{raw}]"))
    except InputError as error:
        if isinstance(error.__cause__, tomllib.TOMLDecodeError):
            return raw
        raise UsageError(f"--set {_short(key)}: its value {error.message.removeprefix(': ')}") from error
    one = len(alone) == len(in_list) == 1 and len(in_list["value"]) == 1
    return alone["value"] if one else raw


def _locate(parts: Sequence[int | str]) -> tuple[str, type[BaseModel] | None]:
    """The dotted path as the user typed it, and the table its last key stands in.

    A union puts its tag ("tiny-vit") between the field and its key, which the user did not type.
    """
    words: list[str] = []
    table: type[BaseModel] | None = None
    choices: list[type[BaseModel]] = [Config]
    for part in parts:
        tagged = [choice for choice in choices if part == _tag(choice)]
        if tagged and len(choices) > 1:
            choices = tagged
            continue
        words.append(str(part))
        table = choices[0] if choices else None
        field = table.model_fields.get(str(part)) if table else None
        choices = _tables(field.annotation) if field else []
    return ".".join(words), table


def _tag(table: type[BaseModel]) -> Any:
    return table.model_fields["kind"].default if "kind" in table.model_fields else None


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where, _ = _locate(first["loc"])
    where = _short(where)
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}"
    if first["type"] == "union_tag_invalid":
        return f"{where}.kind: no kind named {_short(first['ctx']['tag'])!r}"
    if first["type"] == "union_tag_not_found":
        return f"{where}.kind: is missing"
    told = _words(first)
    return f"{where}: {told}" if where else told


def first_fault(error: ValidationError) -> str:
    """The first field of a JSON record that is wrong, and why."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = _short(".".join(str(part) for part in first["loc"]))
    return f"{where}: {_words(first)}" if where else _words(first)


def _words(fault: ErrorDetails) -> str:
    """Our words for an error of pydantic, its own where the table has none."""
    facts = fault.get("ctx", {})
    shown = {key: f"{value:g}" if isinstance(value, float) else value for key, value in facts.items()}
    return _WORDS.get(fault["type"], "").format(**shown) or fault["msg"].removeprefix("Value error, ")


def _short(key: str) -> str:
    return shorten(key, _LONGEST_KEY)


def _hint(error: ValidationError) -> str:
    first = error.errors()[0]
    where, table = _locate(first["loc"])
    if first["type"] == "union_tag_invalid":
        return did_you_mean(first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "").split(", "))
    if first["type"] != "extra_forbidden" or table is None:
        return ""
    parent, dot, name = where.rpartition(".")
    return did_you_mean(name, table.model_fields, parent=parent + dot)
