"""What `meta.json` of a checkpoint may contain: the type and range of every field, checked before any of it is used."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rsprompter_cli.config import first_fault
from rsprompter_cli.documents import is_unicode

_Name = Annotated[str, Field(min_length=1, max_length=1000)]
_Word = Annotated[str, Field(max_length=1000)]
_Id = Annotated[int, Field(gt=-(2**63), lt=2**63)]
_Metres = Annotated[float, Field(gt=0, le=1e6)]
_Band = Annotated[int, Field(ge=1, le=65536)]

_MAX_TEXT = 100_000
"""Characters of one text among the free facts."""
_FACTS = {"seconds_per_window": (int, float), "seconds_per_window_on": (str,)}
"""Types of the free facts that the program reads again."""


class _StoredMeta(BaseModel):
    """The fields of `CheckpointMeta` as JSON has them; those without default there have none here."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    class_names: Annotated[list[_Name], Field(min_length=1, max_length=100_000)]
    category_ids: list[_Id]
    image_size: Annotated[int, Field(ge=16, le=16384)]
    gsd_range: Annotated[list[_Metres], Field(min_length=2, max_length=2)] | None = None
    bands: Annotated[list[_Band], Field(min_length=1, max_length=64)] | None = None
    scaling: _Word = ""
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    sam: dict[_Word, _Word] = {}
    metrics: dict[_Word, float | None] | None = None
    versions: dict[_Word, _Word] = {}
    git_commit: _Word | None = None
    provenance: dict[str, Any] = {}
    format_version: int

    @model_validator(mode="after")
    def _check(self) -> _StoredMeta:
        if len(self.class_names) != len(self.category_ids):
            raise ValueError("class_names and category_ids must have the same length")
        for name, values in (("class_names", self.class_names), ("category_ids", self.category_ids)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: contains a value twice")
        if self.gsd_range is not None and self.gsd_range[0] > self.gsd_range[1]:
            raise ValueError("gsd_range: must be two ascending numbers")
        if not _is_scaling(self.scaling):
            raise ValueError("scaling: is neither uint8, auto, none, percentile nor two ascending numbers")
        for key, types in _FACTS.items():
            value = self.provenance.get(key)
            if value is not None and (type(value) not in types or (type(value) is not str and not 0 < value < 1e9)):
                raise ValueError(f"provenance.{key}: is not a {'number above 0' if float in types else 'text'}")
        for value in _leaves(self.provenance):
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError("provenance: contains a number that is not finite")
            if isinstance(value, str) and len(value) > _MAX_TEXT:
                raise ValueError(f"provenance: contains a text of more than {_MAX_TEXT:,} characters")
        for text in [*self.class_names, *map(str, _leaves(self.provenance)), *self.sam.values(), self.scaling]:
            if not is_unicode(text):
                raise ValueError("contains text that is not valid Unicode")
        return self


def check_meta(fields: Any) -> dict[str, Any]:
    """The fields of a `meta.json`, which are all known, of the right type and in range.

    Args:
        fields: the value in the file.

    Raises:
        ValueError: the first that is not, in one line that names it.
    """
    if not isinstance(fields, dict):
        raise ValueError("is not a JSON object")
    try:
        stored = _StoredMeta.model_validate(fields)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from error
    # What is absent has the default of CheckpointMeta.
    return stored.model_dump(include=set(fields))


def _is_scaling(text: str) -> bool:
    """Whether a text is "uint8" or a value of --scale."""
    if text in ("", "uint8", "auto", "none", "percentile"):
        return True
    low, _, high = text.partition(",")
    try:
        return -math.inf < float(low) < float(high) < math.inf
    except ValueError:
        return False


def _leaves(tree: Any) -> Iterator[Any]:
    """Keys and values of a tree that are no lists and tables themselves; its depth is bounded by the reader."""
    if isinstance(tree, dict):
        yield from tree
        for value in tree.values():
            yield from _leaves(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value)
    else:
        yield tree
