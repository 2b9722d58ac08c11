"""The configuration that mmengine stores in a checkpoint, beside the weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rsprompter_cli.io.model_files.python_literals import UNREAD, LiteralsError, read_literals
from rsprompter_cli.io.model_files.unpickle import StoredConfig

_TRAINING_SETS = ("train_dataloader.dataset", "train_dataloader.dataset.dataset")
"""The second where another set wraps it, as RepeatDataset does."""
_JSON_NAMES = {"true": True, "false": False, "null": None}
_PRINTED = re.compile(r"\s*(?:Config \(path: [^\n]*?\): )?(?=\{)")
"""How the text of a whole dictionary begins: JSON, or what printing mmengine's Config gives."""


@dataclass(frozen=True, eq=False)
class OriginalConfig:
    """The configuration of a training of the original, as far as it is made of literals.

    tree: by name; `UNREAD` stands where there was something else. Empty where none was read.
    where: the entry of the checkpoint that held it, "" where none did.
    problem: why it was not read, or "".
    """

    tree: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    problem: str = ""

    def at(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path, in which a number is an index of a list; `UNREAD` below such a value."""
        value: Any = self.tree
        for part in path.split("."):
            if value is UNREAD:
                return UNREAD
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                return default
        return value

    def class_names(self) -> tuple[str, ...] | None:
        """The names that were given to the training set's classes, not looked at."""
        for path in (*(f"{place}.metainfo" for place in _TRAINING_SETS), "metainfo"):
            for key in ("classes", "CLASSES"):
                names = self.at(f"{path}.{key}")
                if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                    return tuple(name.strip() for name in names)
        return None

    def data_set(self) -> str | None:
        """The original's class of the training set."""
        names = (self.at(f"{place}.type") for place in reversed(_TRAINING_SETS))
        return next((name.rpartition(".")[2] for name in names if isinstance(name, str)), None)


def find_original_config(content: Mapping[str, Any]) -> OriginalConfig:
    """The configuration in a checkpoint, wherever a version of mmengine or mmcv puts it.

    Args:
        content: of the file, unpickled.
    """
    for where, stored in _candidates(content):
        if isinstance(stored, str) and stored.strip():
            return _from_text(stored, where)
        if isinstance(stored, StoredConfig):
            stored = stored.tree
        if isinstance(stored, Mapping) and stored:
            return _completed(dict(stored), where)
    return OriginalConfig()


def runtime_info(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What mmengine's message hub knew of the run."""
    hub = content.get("message_hub")
    info = hub.get("runtime_info") if isinstance(hub, Mapping) else None
    return info if isinstance(info, Mapping) else {}


def _candidates(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    meta = content.get("meta")
    if isinstance(meta, Mapping):
        yield "meta.cfg", meta.get("cfg")
        yield "meta.config", meta.get("config")
    yield "message_hub.runtime_info.cfg", runtime_info(content).get("cfg")


def _from_text(text: str, where: str) -> OriginalConfig:
    printed = _PRINTED.match(text)
    try:
        if printed:
            tree = read_literals(f"config = {text[printed.end() :]}", _JSON_NAMES)["config"]
        else:
            tree = read_literals(text)
    except LiteralsError as error:
        return OriginalConfig(where=where, problem=str(error))
    if not isinstance(tree, dict) or not tree:
        return OriginalConfig(where=where, problem="it contains no assignments")
    return _completed(tree, where)


def _completed(tree: dict[str, Any], where: str) -> OriginalConfig:
    """With the preprocessor of the pictures in the model, from where mmengine takes it if the model has none."""
    model = tree.get("model")
    if not isinstance(model, Mapping):
        return OriginalConfig(where=where, problem="it has no table `model`")
    if "data_preprocessor" in tree and "data_preprocessor" not in model:
        tree["model"] = {**model, "data_preprocessor": tree["data_preprocessor"]}
    return OriginalConfig(tree, where)
