"""From a mask to the COCO instances of its connected components or values, by runs instead of pixels.

A run is an unbroken stretch of pixels within one column. A tile has a few thousand of them where it
has a quarter of a million pixels, and COCO's masks are lists of runs anyway.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rsprompter_cli.errors import InputError

Connectivity = Literal[4, 8]


class Runs(NamedTuple):
    """Stretches of a mask, all int64 [R], in column order: column, first row, one past the last row."""

    column: np.ndarray
    top: np.ndarray
    bottom: np.ndarray


_MOST_RUNS = 5_000_000
"""Runs of one mask, 24 bytes each: 100,000 buildings of 50 columns."""

_MOST_OBJECTS = 100_000
"""Objects of one mask; each becomes a dictionary of about 1 KB."""


def mask_to_instances(
    mask: np.ndarray, *, connectivity: Connectivity = 4, name: str | Path = "mask"
) -> list[dict[str, Any]]:
    """The COCO fields of every connected component of a mask.

    Args:
        mask: bool [H, W].
        connectivity: 4: pixels are connected by their edges; 8: by their corners too.
        name: of the mask, for messages.

    Returns:
        One dictionary per component, in the order of their first pixels column by column: `bbox` XYWH in
        pixels, `area` in pixels, `segmentation` as compressed RLE, equal to what pycocotools encodes
        from the component's own mask.

    Raises:
        InputError: the mask is noise, with more pieces than any picture has objects.
    """
    runs = find_runs(mask)
    if len(runs.column) == 0:
        return []
    _check_runs(len(runs.column), name)
    height, width = mask.shape
    component = number_components(runs, height, connectivity)
    _check_objects(int(component.max()) + 1, name)
    return _fields(runs, component, height, width)


def _check_runs(count: int, name: str | Path) -> None:
    if count > _MOST_RUNS:
        raise InputError(f"{name}: its columns change value {count:,} times: it is noise, not a mask of objects")


def _check_objects(count: int, name: str | Path) -> None:
    if count > _MOST_OBJECTS:
        raise InputError(
            f"{name}: contains {count:,} objects, more than {_MOST_OBJECTS:,}: is it noise?",
            "smooth it, or cut the picture and its mask into tiles",
        )


def labels_to_instances(labels: np.ndarray, *, name: str | Path = "mask") -> list[tuple[int, dict[str, Any]]]:
    """The COCO fields of every value but 0 of a label image, by ascending value.

    Args:
        labels: integer [H, W]; the pixels of one value are one instance, in however many pieces.
        name: of the image, for messages.

    Returns:
        (value, fields as of `mask_to_instances`) of each.

    Raises:
        InputError: as `mask_to_instances`.
    """
    height, width = labels.shape
    # A row of background above and below ends every run within its column.
    framed = np.zeros((width, height + 2), labels.dtype)
    framed[:, 1:-1] = labels.T
    flat = framed.ravel()
    change = np.flatnonzero(flat[1:] != flat[:-1])
    values = flat[change[:-1] + 1]
    starts, ends, values = change[:-1][values != 0], change[1:][values != 0], values[values != 0]
    if len(values) == 0:
        return []
    _check_runs(len(values), name)
    column, top = np.divmod(starts, height + 2)
    found, number = np.unique(values, return_inverse=True)
    _check_objects(len(found), name)
    fields = _fields(Runs(column, top, ends % (height + 2)), number, height, width)
    return list(zip(found.tolist(), fields, strict=True))


def find_runs(mask: np.ndarray) -> Runs:
    """The runs of a mask, bool [H, W]."""
    height, width = mask.shape
    # A row of background above and below ends every run within its column.
    framed = np.zeros((width, height + 2), np.int8)
    framed[:, 1:-1] = mask.T
    change = np.flatnonzero(framed.ravel()[1:] != framed.ravel()[:-1])  # starts and ends take turns
    column, row = np.divmod(change, height + 2)
    return Runs(column[0::2], row[0::2], row[1::2])


def number_components(runs: Runs, height: int, connectivity: Connectivity = 4) -> np.ndarray:
    """The component of each run, int64 [R], from 0 in the order of their first runs.

    Runs of neighbouring columns belong together when they share a row, with connectivity 8 also when
    one begins right where the other ends.
    """
    # Places on a line on which every column has its own stretch, one longer than any run reaches.
    start = runs.column * (height + 1) + runs.top
    end = runs.column * (height + 1) + runs.bottom
    from_next = np.searchsorted(end, start + height + 1, side="right" if connectivity == 4 else "left")
    to_next = np.searchsorted(start, end + height + 1, side="left" if connectivity == 4 else "right")
    partners = np.maximum(to_next - from_next, 0)
    left = np.repeat(np.arange(len(start)), partners)
    before = np.cumsum(partners) - partners
    right = np.arange(len(left)) - np.repeat(before - from_next, partners)
    links = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(len(start), len(start)))
    _, label = connected_components(links, directed=False)
    _, seen, label = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty(len(seen), np.int64)
    rank[np.argsort(seen)] = np.arange(len(seen))
    return rank[label]


def _fields(runs: Runs, component: np.ndarray, height: int, width: int) -> list[dict[str, Any]]:
    """The COCO fields of each component, which are numbered from 0, from its runs."""
    order = np.argsort(component, kind="stable")  # by component, then in column order
    component = component[order]
    column, top, bottom = (values[order] for values in runs)
    first = np.concatenate([[0], np.flatnonzero(np.diff(component)) + 1])
    last = np.append(first[1:], len(order)) - 1
    x, y = column[first], np.minimum.reduceat(top, first)
    w, h = column[last] - x + 1, np.maximum.reduceat(bottom, first) - y
    boxes = np.stack([x, y, w, h], axis=1).astype(np.float64).tolist()
    areas = np.add.reduceat(bottom - top, first).tolist()
    rles = _compress(column * height + top, column * height + bottom, component, height, width)
    return [{"bbox": box, "area": area, "segmentation": rle} for box, area, rle in zip(boxes, areas, rles, strict=True)]


def _compress(
    starts: np.ndarray, ends: np.ndarray, component: np.ndarray, height: int, width: int
) -> list[dict[str, Any]]:
    """The RLE of each component from its runs [start, end) in column order, sorted by component."""
    # A run at the foot of a column and one at the head of the next are one to COCO.
    apart = (starts[1:] != ends[:-1]) | (component[1:] != component[:-1])
    starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    component = component[np.append(True, apart)]
    first = np.concatenate([[0], np.flatnonzero(np.diff(component)) + 1])
    lengths = np.empty(2 * len(starts), np.int64)  # gap, run, gap, run, ...
    lengths[2::2] = starts[1:] - ends[:-1]
    lengths[2 * first] = starts[first]
    lengths[1::2] = ends - starts
    rest = (height * width - ends[np.append(first[1:], len(ends)) - 1]).tolist()
    bounds = [*(2 * first).tolist(), len(lengths)]
    counts = lengths.tolist()
    size = [height, width]
    plain = [
        {"size": size, "counts": counts[a:b] + ([left] if left else [])}
        for (a, b), left in zip(pairwise(bounds), rest, strict=True)
    ]
    packed = coco_mask.frPyObjects(plain, height, width)
    return [{"size": size, "counts": rle["counts"].decode("ascii")} for rle in packed]
