"""The settings that the original's configuration states, compared with a preset and with the tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from rsprompter_cli.config import KNOWN_SAM, ModelConfig
from rsprompter_cli.errors import CheckpointError, plural, shorten
from rsprompter_cli.io.model_files.original_config import OriginalConfig
from rsprompter_cli.io.model_files.python_literals import UNREAD
from rsprompter_cli.models.original.settings import (
    CLASS_COUNTS,
    ENTRIES,
    MODEL_TYPES,
    REQUIRED,
    SAM_NAMES,
    SILENT,
    Fixed,
    Row,
)
from rsprompter_cli.models.original.sizes import OriginalShapes

_MISSING: Any = object()
_LARGEST_COMPARED = 10**300
"""Larger whole numbers are no floats."""
_MOST_ENTRIES, _DEEPEST = 2_000, 30
"""How far a configuration is searched for entries that no table knows."""
_NO_OBJECT = 0.1
"""Weight of "no object" in the class loss of the query models, the last of `class_weight`."""


@dataclass(frozen=True, slots=True)
class Stated:
    """A setting as the configuration states it. path: of the entry; value: as our setting."""

    path: str
    value: Any


@dataclass(frozen=True, eq=False)
class StatedSettings:
    """The settings of a model in the original's configuration.

    values: by our key below `model`.
    unread: entries whose value or meaning is not known.
    differences: entries for which our models train with another value, and both values in words.
    missing: names of what our models have built in and the configuration does not state.
    keys: every key that no tensor need show, stated or not.
    """

    values: Mapping[str, Stated] = field(default_factory=dict)
    unread: Sequence[str] = ()
    differences: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()
    keys: Sequence[str] = ()


def read_settings(
    config: OriginalConfig, shapes: OriginalShapes, chosen: Collection[str], *, check_classes: bool = True
) -> StatedSettings:
    """The settings of the model whose tensors have these shapes.

    Args:
        config: of the training.
        shapes: of the file.
        chosen: keys below `model` that the user set: the configuration is not consulted for them.
        check_classes: compare the number of classes.

    Raises:
        CheckpointError: another kind of model, a value that our model cannot have, or entries that contradict
            each other or the tensors.
    """
    reader = _Reader(config, shapes, chosen)
    entries = [entry for entry in ENTRIES[shapes.kind] if _concerns(entry, shapes)]
    keys = list(dict.fromkeys(entry.key for entry in entries if isinstance(entry, Row)))
    if not config.tree:
        return StatedSettings(
            missing=[entry.name for entry in entries if isinstance(entry, Fixed) and entry.name], keys=keys
        )
    reader.check_kind()
    if check_classes:
        reader.check_class_count()
    for entry in entries:
        reader.read(entry)
    reader.read_class_weights()
    reader.check_adapters()
    known = {entry.path for entry in ENTRIES[shapes.kind]}
    unread = [*reader.unread, *_unknown(config.tree["model"], known)]
    return StatedSettings(reader.values, list(dict.fromkeys(unread)), reader.differences, reader.missing, keys)


def stated_sam(config: OriginalConfig) -> Stated | None:
    """The SAM that the original was trained from, by the name we know it under."""
    for path in SAM_NAMES:
        name = config.at(f"model.{path}")
        if isinstance(name, str):
            words = re.split(r"[^a-z]+", name.lower()[-200:])
            sizes = [word for word in words if word in KNOWN_SAM]
            return Stated(path, sizes[-1]) if sizes else None
    return None


def with_settings(
    model: ModelConfig, stated: Mapping[str, Stated], chosen: Collection[str], origin: str
) -> ModelConfig:
    """The preset's model with the settings of the configuration, but for those that the user set.

    Raises:
        CheckpointError: a value that our setting cannot have.
    """
    tree = model.model_dump(mode="json")
    taken = {key: entry for key, entry in stated.items() if not is_chosen(key, chosen)}
    for key, entry in taken.items():
        *path, last = key.split(".")
        table = tree
        for part in path:
            table = table[part]
        table[last] = entry.value
    try:
        return type(model).model_validate(tree)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"] if isinstance(part, str))
        entry = taken.get(key, Stated(key, _MISSING))
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise CheckpointError(
            f"{origin}: its configuration has model.{entry.path} = {_short(entry.value)}, which model.{key} cannot be: "
            f"{reason}",
            f"choose with --set model.{key}=VALUE",
        ) from error


def is_chosen(key: str, chosen: Collection[str]) -> bool:
    """Whether the user set a key, or a table that it stands in."""
    return any(key == name or key.startswith(f"{name}.") for name in chosen)


def same(first: Any, second: Any) -> bool:
    """Whether two values are equal, lists and tuples item by item and numbers but for rounding."""
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(same(one, other) for one, other in zip(first, second, strict=True))
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, int | float) and isinstance(second, int | float):
        if max(abs(first), abs(second)) > _LARGEST_COMPARED:
            return first == second
        return math.isclose(first, second, rel_tol=1e-4, abs_tol=1e-9)
    return bool(type(first) is type(second) and first == second)


class _Reader:
    """Reads one entry after the other."""

    def __init__(self, config: OriginalConfig, shapes: OriginalShapes, chosen: Collection[str]) -> None:
        self.values: dict[str, Stated] = {}
        self.unread: list[str] = []
        self.differences: dict[str, str] = {}
        self.missing: list[str] = []
        self._config = config
        self._shapes = shapes
        self._chosen = chosen

    def check_kind(self) -> None:
        """Compare the class of the model with what the tensors are."""
        name = self._at("type")
        kind = MODEL_TYPES.get(name.rpartition(".")[2]) if isinstance(name, str) else None
        if kind is not None and kind != self._shapes.kind:
            raise self._error(
                f"describes a {kind}, its tensors are those of a {self._shapes.kind}",
                "import the weights file that belongs to it",
            )
        if kind is None:
            self.unread.append("type")

    def check_class_count(self) -> None:
        for path in CLASS_COUNTS[self._shapes.kind]:
            count = self._at(path)
            if type(count) is int and count != self._shapes.num_classes:
                classes = plural(self._shapes.num_classes, "class", "classes")
                raise self._error(
                    f"has model.{path} = {count}, its tensors are those of {classes}",
                    "if the tensors are right, give the class names with --classes a,b,c",
                )

    def check_adapters(self) -> None:
        """Compare encoder and rank with the tensors."""
        found = self._shapes.adapter_rank
        encoder, rank = self.values.get("encoder"), self.values.get("lora.r")
        if encoder is not None and (encoder.value == "lora") != (found is not None):
            adapters = "no adapters (LoRA)" if found is None else f"adapters (LoRA) of rank {found}"
            stated = "adapters" if encoder.value == "lora" else "none"
            right = "frozen" if found is None else "lora"
            raise self._error(
                f"states {stated} in model.{encoder.path}, its tensors have {adapters}",
                f"if the tensors are right, pass --set model.encoder={right}",
            )
        if rank is not None and found is not None and rank.value != found:
            raise self._error(
                f"has model.{rank.path} = {rank.value}, its tensors have adapters (LoRA) of rank {found}",
                f"if the tensors are right, pass --set model.lora.r={found} --set model.lora.alpha=VALUE",
            )

    def read(self, entry: Row | Fixed) -> None:
        value = self._at(entry.path)
        if _has_unread(value):
            self.unread.append(entry.path)
        elif isinstance(entry, Fixed):
            self._check_fixed(entry, value)
        elif not is_chosen(entry.key, self._chosen):
            self._read_row(entry, value)

    def read_class_weights(self) -> None:
        weights = [1.0] * self._shapes.num_classes + [_NO_OBJECT]
        self.read(Fixed("panoptic_head.loss_cls.class_weight", weights, training=True))

    def _read_row(self, row: Row, value: Any) -> None:
        if value is _MISSING:
            parent = self._at(row.path.rpartition(".")[0]) if "." in row.path else self._config.tree["model"]
            if row.default is REQUIRED or not isinstance(parent, Mapping):
                return
            ours = row.default
        else:
            try:
                ours = row.read(value)
            except ValueError as error:
                raise self._error(
                    f"has model.{row.path} = {_short(value)}, which {error}",
                    f"choose with --set model.{row.key}=VALUE",
                ) from error
        known = self.values.get(row.key)
        if known is None and not row.training:
            self.values[row.key] = Stated(row.path, ours)
        elif known is not None and not same(known.value, ours):
            if row.training:
                self.differences[row.path] = f"{_short(ours)}, rsp trains with {_short(known.value)}"
                return
            raise self._error(
                f"sets model.{row.key} to {_short(known.value)} in model.{known.path} and to {_short(ours)} in "
                f"model.{row.path}",
                f"choose with --set model.{row.key}=VALUE",
            )

    def _check_fixed(self, entry: Fixed, value: Any) -> None:
        if value is _MISSING:
            if entry.name:
                self.missing.append(entry.name)
            return
        if same(value, entry.value):
            return
        if not entry.training:
            raise self._error(
                f"has model.{entry.path} = {_short(value)}, rsp's {self._shapes.kind} has {_short(entry.value)}",
                "rsp cannot build such a model",
            )
        self.differences[entry.path] = f"{_short(value)}, rsp trains with {_short(entry.value)}"

    def _at(self, path: str) -> Any:
        return self._config.at(f"model.{path}", _MISSING)

    def _error(self, problem: str, hint: str) -> CheckpointError:
        return CheckpointError(f"{self._shapes.origin}: its configuration {problem}", hint)


def _concerns(entry: Row | Fixed, shapes: OriginalShapes) -> bool:
    """Whether an entry applies to the model: not if it is about adapters or an aggregator that it lacks."""
    name = entry.key if isinstance(entry, Row) else entry.path
    if name.startswith(("lora.", "backbone.peft_config.")):
        return shapes.adapter_rank is not None
    return name != "neck.layers" or shapes.reads_layers


def _has_unread(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(item is UNREAD for item in value)
    return value is UNREAD


def _unknown(model: Mapping[Any, Any], known: Collection[str]) -> Iterator[str]:
    """Paths of entries that no table knows, in a table that may be large, deep or hold itself."""
    waiting: list[tuple[str, Any, int]] = [("", model, 0)]
    left = _MOST_ENTRIES
    while waiting and left:
        left -= 1
        # Level by level: what holds itself must not use up the count before its neighbours are seen.
        path, value, depth = waiting.pop(0)
        if (path in known and not isinstance(value, Mapping)) or path.rpartition(".")[2] in SILENT:
            continue
        if isinstance(value, Mapping) and value and depth < _DEEPEST:
            children = [
                (f"{path}.{_key(key)}".lstrip("."), child, depth + 1) for key, child in list(value.items())[:left]
            ]
            waiting += children
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value[:left]):
            waiting += [(f"{path}.{index}", item, depth + 1) for index, item in enumerate(value[:left])]
        elif value is not None and not (isinstance(value, Mapping) and not value):
            yield shorten(path)


def _key(key: Any) -> str:
    """The name of an entry for messages."""
    return key if isinstance(key, str) and re.fullmatch(r"[A-Za-z_]\w{0,60}", key, re.ASCII) else "?"


def _short(value: Any, *, inside: bool = False) -> str:
    """A value for messages, whatever was stored."""
    if value is _MISSING:
        return "nothing"
    if isinstance(value, list | tuple):
        items = "..." if inside else ", ".join(_short(item, inside=True) for item in value[:20])
        return shorten(f"[{items}]", 60)
    if type(value) is int and value.bit_length() > 64:
        return "a number of many digits"  # of which Python makes no text
    if value is None or isinstance(value, str | int | float | bool):
        return shorten(ascii(value[:60] if isinstance(value, str) else value), 60)
    return "a table" if isinstance(value, Mapping) else f"a {type(value).__name__}"
