"""The lines of YOLO label files: `class x1 y1 x2 y2 ...`, shares of the picture's width and height."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rsprompter_cli.data.coco.problems import EntryError

TOLERANCE = 0.01
"""How far coordinates may leave 0..1: what rounding and drawing tools do; it is cut off."""

_LONGEST_LINE = 16 << 20

_BOX = 5
"""Numbers of a line that is a box: class, centre x and y, width, height."""


class Label(NamedTuple):
    """One line. ring: float64 [K, 2], x and y as shares; of a box its four corners."""

    line: int
    class_index: int
    ring: np.ndarray
    is_box: bool


def label_line(class_index: int, ring: np.ndarray, height: int, width: int) -> str:
    """A line without its end, from a ring of pixels inside the picture.

    Shares have as many decimals as make their error less than a ten-thousandth of a pixel.
    """
    decimals = math.ceil(math.log10(max(height, width))) + 4
    shares = (ring / (width, height)).clip(0, 1).ravel().tolist()
    return " ".join([str(class_index), *(_plain(share, decimals) for share in shares)])


def read_labels(text: str) -> Iterator[Label | tuple[int, EntryError]]:
    """The objects of a label file in order; for each line that is none, its number and what is wrong."""
    # Not all lines at once: each is an object of its own, and a file may be little else.
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if len(line) > _LONGEST_LINE:
            yield number, EntryError("count", f"has more than {_LONGEST_LINE:,} characters, which is no outline")
            continue
        words = line.split()
        if words:
            try:
                class_index, ring, is_box = _parse_line(words)
            except EntryError as fault:
                yield number, fault
            else:
                yield Label(number, class_index, ring, is_box)


def _parse_line(words: Sequence[str]) -> tuple[int, np.ndarray, bool]:
    values = np.array([_parse_number(word) for word in words])
    if not np.isfinite(values).all():
        raise EntryError("number", "contains NaN or infinity")
    if not 0 <= values[0] < 2**31 or values[0] != int(values[0]):
        raise EntryError("class", f"begins with {words[0][:40]!r}, which is not a class index")
    if len(words) != _BOX and (len(words) < 7 or len(words) % 2 == 0):
        raise EntryError("count", f"has {len(words)} numbers; an outline has 1 + 2 per point, at least 7, a box has 5")
    shares = values[1:].reshape(-1, 2)
    is_box = len(words) == _BOX
    if is_box:
        (x, y), (w, h) = shares.tolist()
        if w < 0 or h < 0:
            raise EntryError("box", f"a box cannot have width {w:g} and height {h:g}")
        x0, y0, x1, y1 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        shares = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    low, high = float(shares.min()), float(shares.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        far = high if high > 1 + TOLERANCE else low
        pixels = "; coordinates must be shares of width and height, not pixels" if high > 2 else ""
        raise EntryError("range", f"the coordinate {far:.6g} is outside 0..1{pixels}")
    return int(values[0]), shares, is_box


def _plain(share: float, decimals: int) -> str:
    text = f"{share:.{decimals}f}".rstrip("0").rstrip(".")
    return text or "0"


def _parse_number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise EntryError("number", f"{word[:40]!r} is not a number") from None
