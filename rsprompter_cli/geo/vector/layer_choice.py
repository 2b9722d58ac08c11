"""Which layer of a vector file is read: the only one, or the one that is named; never a silent choice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsprompter_cli.errors import InputError, UsageError, did_you_mean, plural, shorten

SEVERAL = {"GPKG", "TopoJSON"}
"""GDAL's names of the formats, among those that are read, that hold more than one layer."""

_SHOWN = 12
"""Layers that a message names."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LayerHead:
    """A layer of a file as it is listed: its place, its name, and its geometry type (None: a table without one)."""

    place: int
    name: str
    geometry: str | None


def choose_layer(
    path: Any,
    heads: Sequence[LayerHead],
    wanted: str | Sequence[str] | None,
    *,
    count: Callable[[int], int],
    option: str,
) -> LayerHead:
    """The layer of a file to read.

    Args:
        path: of the file, for messages.
        heads: all its layers.
        wanted: the name of the layer; of several names the one that the file has. A file with a single layer of
            features needs none, and of several names it need not have any.
        count: features of the layer at a place, asked only where several layers could be meant.
        option: the option that names the layer, for messages.

    Raises:
        InputError: no layer has a geometry.
        UsageError: several could be meant, or there is no layer of that name.
    """
    spatial = [head for head in heads if head.geometry is not None]
    if not spatial:
        tables = ", ".join(repr(head.name) for head in heads[:_SHOWN])
        raise InputError(f"{path}: has no geometries" + (f", only attribute tables: {tables}" if tables else ""))
    if wanted:
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        found = [head for head in heads if head.name in names]
        if len(found) == 1:
            if found[0].geometry is None:
                raise UsageError(f"{path}: its layer {found[0].name!r} has no geometry", _named(spatial, option))
            return found[0]
        if found:
            both = ", ".join(repr(head.name) for head in found)
            raise UsageError(f"{path}: has {len(found)} of the layers given with {option}: {both}", "give one of them")
        if isinstance(wanted, str) or len(spatial) > 1:
            asked = " or ".join(repr(shorten(name)) for name in names)
            near = did_you_mean(names[0], [head.name for head in spatial])
            raise UsageError(f"{path}: has no layer {asked}", near)
    if len(spatial) == 1:
        return spatial[0]
    counts = {head.place: count(head.place) for head in spatial}
    filled = [head for head in spatial if counts[head.place]]
    if len(filled) == 1:
        empty = ", ".join(repr(head.name) for head in spatial if head is not filled[0])
        _log.warning("%s: reading layer %r, the only one with features; empty: %s", path, filled[0].name, empty)
        return filled[0]
    shown = [f"{head.name!r} ({head.geometry}, {plural(counts[head.place], 'feature')})" for head in spatial[:_SHOWN]]
    more = f" and {len(spatial) - _SHOWN} more" if len(spatial) > _SHOWN else ""
    raise UsageError(
        f"{path}: has {len(spatial)} layers: {', '.join(shown)}{more}",
        f"choose one with {option}, for example {option} {_quoted(spatial[0].name)}",
    )


def check_column(path: Path, column: str | None, known: Iterable[str]) -> None:
    """Raise UsageError when an attribute is asked for that is not known."""
    if column is not None and column not in (names := [str(name) for name in known]):
        raise UsageError(f"{path}: has no attribute {column!r}", did_you_mean(column, names))


def _named(spatial: Sequence[LayerHead], option: str) -> str:
    return f"choose another with {option}: " + ", ".join(repr(head.name) for head in spatial[:_SHOWN])


def _quoted(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else repr(name)
