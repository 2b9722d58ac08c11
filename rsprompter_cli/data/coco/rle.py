"""Run-length encodings and polygons of COCO: checked here, before pycocotools sees them.

pycocotools trusts its input: a NaN in a polygon makes it allocate until the process is killed,
and counts that do not add up decode to garbage. So each value passes `parse_segmentation` once,
and everything behind it works on values that are known to be sound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsprompter_cli.data.coco.problems import EntryError
from rsprompter_cli.errors import shorten

MAX_PIXELS = 2**32 - 1
"""pycocotools counts pixels in 32 bits."""

MAX_SIDE = 1_000_000
"""Pixels. pycocotools computes five times a coordinate in 32 bits; the largest rasters have 300,000."""

MAX_OUTLINE = 8_000_000
"""Pixels of outline of one object: pycocotools draws each edge five times as dense as the pixels, in 40 bytes a pixel.
A road network over a scene of 10,000 x 10,000 pixels has 4 million."""

MAX_VERTICES = 1_000_000
"""Of one object."""

MAX_CROP = 1 << 28
"""Pixels of one object's bounds that are unrolled at once: a scene of 16,384 x 16,384."""

MAX_RUNS = 500_000
"""Of one mask that is outlined: each may be a polygon of its own, of some kilobytes."""

_MERGED_BY_PYCOCOTOOLS = 100_000_000
"""Pixels of an image up to which pycocotools unites masks, for which it allocates four bytes a pixel, unchecked."""

# Seven characters of five bits hold any 32-bit run; a longer number is damage.
_MAX_CHARACTERS_PER_RUN = 7

_PIXELS_AT_ONCE = 1 << 24
_FARTHEST = 1e12


@dataclass(frozen=True, eq=False, slots=True)
class Rle:
    """A mask as compressed runs in column order.

    size: (rows, columns). counts: ASCII as pycocotools writes it; the runs add up to rows x columns.
    """

    size: tuple[int, int]
    counts: bytes

    def as_dict(self) -> dict[str, Any]:
        """The form that pycocotools takes."""
        return {"size": list(self.size), "counts": self.counts}


Polygons = tuple[np.ndarray, ...]
"""Rings of one object, each float64 [K, 2] of (x, y) in pixels, K >= 3; an object is their union."""

Segmentation = Polygons | Rle


def parse_segmentation(value: object, height: int, width: int) -> Segmentation:
    """A checked segmentation from the JSON value of an annotation on an image of height x width.

    Raises:
        EntryError: anything that pycocotools would crash on, misread or refuse without explanation.
    """
    if isinstance(value, Mapping):
        return _parse_rle(value, height, width)
    if isinstance(value, list):
        return _parse_polygons(value, height, width)
    if value is None:
        raise EntryError("no-segmentation", "has no segmentation (a box alone is not sufficient)")
    raise EntryError("segmentation-type", f"segmentation is of type {type(value).__name__}, neither polygons nor RLE")


def decode_counts(text: str | bytes) -> np.ndarray:
    """The runs, int64 [R], that a compressed count string stands for.

    The code (pycocotools `rleToString`): characters 48..111 carry six bits, five of value, low
    ones first, and one that says "more follows"; the last character's 0x10 is the sign; from the
    fourth run on the number is the difference to the run two places before.

    Raises:
        EntryError: a foreign character, a number cut off or too long.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    codes = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return np.zeros(0, dtype=np.int64)
    if codes.min() < 0 or codes.max() > 63:
        raise EntryError("rle-characters", "RLE counts contain an invalid character")
    last = np.flatnonzero((codes & 0x20) == 0)
    if last.size == 0 or last[-1] != codes.size - 1:
        raise EntryError("rle-truncated", "RLE counts end within a number")
    first = np.concatenate(([0], last[:-1] + 1))
    length = last - first + 1
    if length.max() > _MAX_CHARACTERS_PER_RUN:
        raise EntryError("rle-characters", "RLE counts contain a number of more than 32 bits")
    place = np.arange(codes.size) - np.repeat(first, length)
    runs = np.add.reduceat((codes & 0x1F) << (5 * place), first)
    runs -= ((codes[last] & 0x10) != 0) * (np.int64(1) << (5 * length))
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def to_rle(segmentation: Segmentation, height: int, width: int) -> Rle:
    """The mask of a checked segmentation, polygons rasterised by pycocotools and united."""
    if isinstance(segmentation, Rle):
        return segmentation
    from pycocotools import mask as coco_mask

    parts = coco_mask.frPyObjects([ring.ravel() for ring in segmentation], height, width)
    if len(parts) > 1 and height * width > _MERGED_BY_PYCOCOTOOLS:
        return _united([part["counts"] for part in parts], height, width)
    merged = coco_mask.merge(parts)
    return Rle((height, width), bytes(merged["counts"]))


def outline_length(segmentation: Segmentation) -> int:
    """Pixels that rasterising an object walks along its edges; 0 for runs."""
    if isinstance(segmentation, Rle):
        return 0
    return sum(_edges(ring) for ring in segmentation)


def decode_crop(rle: Rle) -> tuple[np.ndarray, int, int]:
    """A mask within its bounds.

    Returns:
        bool [h, w], and the column and row of the image that it begins at; [0, 0] when the mask covers no pixel.

    Raises:
        EntryError: the bounds have more than MAX_CROP pixels, or the mask more than MAX_RUNS runs.
    """
    height, _ = rle.size
    edges = np.cumsum(decode_counts(rle.counts))
    if edges.size > 2 * MAX_RUNS:
        raise EntryError("mask-runs", f"mask has {edges.size // 2:,} runs, more than {MAX_RUNS:,}")
    x0, y0, x1, y1 = (int(value) for value in bounds(rle))
    if (x1 - x0) * (y1 - y0) > MAX_CROP:
        raise EntryError("mask-size", f"mask covers {x1 - x0} x {y1 - y0} pixels, more than {MAX_CROP:,} in all")
    crop = np.zeros((y1 - y0, x1 - x0), dtype=bool)
    step = max(1, _PIXELS_AT_ONCE // height)
    for first in range(x0, x1, step):
        last = min(first + step, x1)
        here, there = np.searchsorted(edges, (first * height, last * height))
        lengths = np.diff(edges[here:there], prepend=first * height, append=last * height)
        strip = np.repeat((np.arange(lengths.size) + here) % 2 == 1, lengths).reshape(last - first, height)
        crop[:, first - x0 : last - x0] = strip[:, y0:y1].T
    return crop, x0, y0


def _united(parts: Sequence[bytes], height: int, width: int) -> Rle:
    """The union of masks, in memory that grows with their runs and not with the image."""
    from pycocotools import mask as coco_mask

    edges = [np.cumsum(decode_counts(part)) for part in parts]
    # Ends take turns: a run begins, it ends. The last end of all may be that of the image, where nothing begins.
    places = np.concatenate(edges)
    steps = np.concatenate([np.where(np.arange(len(one)) % 2, -1, 1) for one in edges])
    order = np.argsort(places, kind="stable")
    places, steps = places[order], steps[order]
    last = np.append(places[1:] != places[:-1], True)
    places, depth = places[last], np.cumsum(steps)[last]
    inside = (depth > 0) & (places < height * width)
    turns = places[inside != np.append(False, inside[:-1])]
    counts = np.diff(turns, prepend=0, append=height * width).tolist()
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return Rle((height, width), bytes(packed["counts"]))


def _edges(ring: np.ndarray) -> int:
    """Pixels along the edges of a ring, the longer of the two directions of each."""
    steps = np.abs(np.diff(ring, axis=0, append=ring[:1]))
    return int(np.ceil(steps.max(axis=1)).sum())


def bounds(segmentation: Segmentation) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in pixels: the extent of the vertices, or of the pixels (last + 1)."""
    if isinstance(segmentation, Rle):
        from pycocotools import mask as coco_mask

        x, y, w, h = (float(value) for value in coco_mask.toBbox(segmentation.as_dict()))
        return x, y, x + w, y + h
    points = np.concatenate(segmentation)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def overshoot(box: Sequence[float], height: int, width: int) -> float:
    """How far, in pixels, an xyxy box leaves the image; 0 when it lies inside."""
    x0, y0, x1, y1 = box
    return max(0.0, -x0, -y0, x1 - width, y1 - height)


def allowed_overshoot(height: int, width: int) -> float:
    """How far, in pixels, an outline or box may leave the image before it is an error.

    Drawing tools round and let a stroke slip over the rim: two pixels or two hundredths of the
    longer side are cut off with a warning. More means that coordinates and image do not belong
    together.
    """
    return max(2.0, 0.02 * max(height, width))


def _parse_rle(value: Mapping[Any, Any], height: int, width: int) -> Rle:
    size, counts = value.get("size"), value.get("counts")
    if size != [height, width]:
        shown = shorten(repr(size), 60)
        raise EntryError("rle-size", f"RLE size {shown} is not the image's [height, width] = [{height}, {width}]")
    if isinstance(counts, str):
        runs = decode_counts(counts)
    elif isinstance(counts, list):
        runs = _parse_run_list(counts)
    else:
        raise EntryError("rle-counts", "RLE has no counts")
    if runs.size and runs.min() < 0:
        raise EntryError("rle-counts", "RLE counts contain a negative run")
    total = int(runs.sum())
    if total != height * width:
        raise EntryError("rle-counts", f"RLE counts add up to {total:,} pixels, but the image has {height * width:,}")
    if not runs[1::2].any():
        raise EntryError("empty-mask", "RLE covers no pixels")
    if isinstance(counts, str):
        return Rle((height, width), counts.encode("ascii"))
    from pycocotools import mask as coco_mask

    packed = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return Rle((height, width), bytes(packed["counts"]))


def _parse_run_list(counts: list[Any]) -> np.ndarray:
    # bool is an int to Python, and no count. A run over 32 bits would wrap around in pycocotools.
    if not all(type(run) is int and 0 <= run <= MAX_PIXELS for run in counts):
        raise EntryError("rle-counts", "RLE counts contain a value that is not a number of pixels")
    return np.array(counts, dtype=np.int64)


def _parse_polygons(value: list[Any], height: int, width: int) -> Polygons:
    if not value:
        raise EntryError("no-segmentation", "has an empty list of polygons")
    rings = tuple(_parse_ring(ring, index) for index, ring in enumerate(value))
    excess = overshoot(bounds(rings), height, width)
    if excess > allowed_overshoot(height, width):
        # pycocotools allocates along every edge, so a vertex far away would also take all memory.
        raise EntryError("polygon-outside", f"polygon extends {excess:.6g} pixels beyond the {width} x {height} image")
    _check_outline(rings, height, width)
    return rings


def _check_outline(rings: Polygons, height: int, width: int) -> None:
    """Refuse outlines that are longer than any mask's, before pycocotools allocates along them."""
    vertices = sum(map(len, rings))
    if vertices > MAX_VERTICES:
        raise EntryError("polygon-vertices", f"polygon has {vertices:,} vertices, more than {MAX_VERTICES:,}")
    # An outline along pixel edges passes each of them once; a hand draws fewer. Small images have some more room.
    most = min(MAX_OUTLINE, 2 * height * width + 64 * (height + width) + 10_000)
    length = outline_length(rings)
    if length > most:
        raise EntryError(
            "polygon-length",
            f"polygon has edges of {length:,} pixels in all, more than the {most:,} that an outline in an image of "
            f"{width} x {height} can have",
        )


def _parse_ring(ring: object, index: int) -> np.ndarray:
    """One ring, float64 [K, 2]."""
    if isinstance(ring, list) and len(ring) > 2 * MAX_VERTICES:
        raise EntryError("polygon-vertices", f"polygon {index} has more than {MAX_VERTICES:,} vertices")
    if not isinstance(ring, list) or not all(type(number) in (int, float) for number in ring):
        raise EntryError("polygon-type", f"polygon {index} is not a flat list of numbers")
    if len(ring) % 2:
        raise EntryError("polygon-odd", f"polygon {index} has an odd number of coordinates, {len(ring):,}")
    if len(ring) < 6:
        raise EntryError("polygon-short", f"polygon {index} has {len(ring)} coordinates; a ring needs at least 6")
    try:
        points = np.array(ring, dtype=np.float64).reshape(-1, 2)
    except OverflowError as error:
        raise EntryError("polygon-not-finite", f"polygon {index} contains a number that is too large") from error
    if not np.isfinite(points).all():
        raise EntryError("polygon-not-finite", f"polygon {index} contains NaN or infinity")
    if np.abs(points).max() > _FARTHEST:
        raise EntryError("polygon-outside", f"polygon {index} extends far beyond any image")
    # All points on one line, which the signed area alone does not say: that of a bow tie is 0 too.
    arms = points - points[0]
    far = arms[np.argmax(np.abs(arms).sum(axis=1))]
    if not np.abs(arms[:, 0] * far[1] - arms[:, 1] * far[0]).max() > 1e-9:
        raise EntryError("polygon-flat", f"polygon {index} has no area")
    return points
