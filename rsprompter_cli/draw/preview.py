"""Objects on a picture as one HTML page that needs nothing else: no host, no library, no second file.

The page draws on a canvas. Its polygons travel as whole steps of STEP pixels, each vertex as its difference from the
one before, and like its columns as varints in base64: some 2 bytes a vertex.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from rsprompter_cli.draw.overlays import distinct_colour

STEP = 0.25
"""Pixels that coordinates are rounded to."""

LARGEST_PICTURE = 1_500_000
"""Bytes of the picture as JPEG."""

_PARTS = Path(__file__).with_name("map")
_COLOURS = ("#ffd60a", "#00c2ff", "#ff5fb0", "#6dff4a", "#ff8c1a", "#b794ff", "#00e5b0", "#ff5c5c")
"""Those of the first classes: bright, since most ground is dull."""

_MOST_TONES = 24
"""Colours of objects: more can hardly be told apart, so an object among so many neighbours shares one."""

_QUALITIES = (85, 75, 65, 50)


@dataclass(frozen=True, eq=False, slots=True)
class MapColumns:
    """N objects; all values of a column, NaN where one is absent.

    polygons: object [N], polygons or multipolygons in pixels, y down.
    id: int64 [N], ascending. label: int64 [N], from 0. score: float64 [N], 0..1. windows: int64 [N].
    area, perimeter: float64 [N], square metres and metres, or pixels where the page has no metres.
    quality: float64 [N], 0..1, or None when no object has one.
    """

    polygons: np.ndarray
    id: np.ndarray
    label: np.ndarray
    score: np.ndarray
    area: np.ndarray
    perimeter: np.ndarray
    windows: np.ndarray
    quality: np.ndarray | None = None


@dataclass(frozen=True, eq=False, slots=True)
class MapPicture:
    """What lies below the objects.

    pixels: uint8 [h, w, 3].
    x, y, width, height: what it shows, in the pixels of the polygons.
    grid: longitude and latitude of m x m points spread evenly over it, row by row from the top, or None.
    metres: length of a pixel of the polygons on the ground, or None.
    """

    pixels: np.ndarray
    x: float
    y: float
    width: float
    height: float
    grid: Sequence[Sequence[tuple[float, float]]] | None = None
    metres: float | None = None


def map_page(
    objects: MapColumns,
    picture: MapPicture,
    *,
    title: str,
    about: str,
    classes: Sequence[tuple[str, int]],
    area: Any = None,
    colour_each: bool = False,
) -> str:
    """The page.

    Args:
        title: of the page. about: a line below it.
        classes: name and number of objects of each class, by label.
        area: a polygon or multipolygon in pixels, drawn as a dashed line; None for none.
        colour_each: objects have colours of their own, which differ between neighbours, instead of their class's.
    """
    tones = object_tones(objects.polygons) if colour_each else None
    data = {
        "title": title,
        "about": about,
        "classes": [
            {"name": name, "count": count, "colour": _colour(label)} for label, (name, count) in enumerate(classes)
        ],
        "step": STEP,
        "metres": picture.metres,
        "grid": picture.grid,
        "area": None if area is None else _outline(area),
        "image": {
            "src": "data:image/jpeg;base64," + base64.b64encode(_jpeg(picture.pixels)).decode(),
            **{name: getattr(picture, name) for name in ("x", "y", "width", "height")},
        },
        **encode_polygons(objects.polygons),
        "columns": _columns(objects) | ({} if tones is None else {"tone": varints(tones)}),
        "tones": None if tones is None else [_colour(tone) for tone in range(int(tones.max(initial=0)) + 1)],
    }
    style, script = (_part(f"page.{kind}") for kind in ("css", "js"))
    parts = {
        "TITLE": html.escape(title),
        "STYLE": style,
        "STYLE_HASH": _hash(style),
        "SCRIPT": script,
        "SCRIPT_HASH": _hash(script),
        "DATA": _inert(data),
    }
    page = _part("page.html")
    pieces = page.split("@")
    # Names stand between at signs; what is put in is not looked at again.
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def object_tones(polygons: np.ndarray) -> np.ndarray:
    """int64 [N], small numbers from 0, such that polygons [N] whose bounds meet have different ones.

    The first number that no earlier neighbour has, searched from one that the place decides, so that all tones are
    used; the same polygons in the same order have the same tones.
    """
    tones = np.zeros(len(polygons), dtype=np.int64)
    if not len(polygons):
        return tones
    bounds = shapely.bounds(polygons)
    size = np.median(bounds[:, 2:] - bounds[:, :2])
    boxes = shapely.box(*(bounds + np.array([-1, -1, 1, 1]) * size / 4).T)
    one, other = shapely.STRtree(boxes).query(boxes, predicate="intersects")
    earlier = other < one
    order = np.argsort(one[earlier], kind="stable")
    near, starts = other[earlier][order], np.searchsorted(one[earlier][order], np.arange(len(polygons) + 1))
    centres = np.rint(bounds[:, :2] + bounds[:, 2:]).astype(np.int64)
    # Knuth's multiplicative hash, so that objects in a regular pattern start at all tones.
    mixed = (centres[:, 0] + 31 * centres[:, 1]) * 2654435761 % 2**32
    wished = (mixed >> 16) % len(_COLOURS)
    for i in range(len(polygons)):
        taken = set(tones[near[starts[i] : starts[i + 1]]].tolist())
        around = [(wished[i] + step) % len(_COLOURS) for step in range(len(_COLOURS))]
        tones[i] = next(
            (tone for tone in [*around, *range(len(_COLOURS), _MOST_TONES)] if tone not in taken), wished[i]
        )
    return tones


def fewer_vertices(polygon: Any) -> Any:
    """A polygon as a map needs it, moved by no more than two steps."""
    simple = shapely.simplify(polygon, 2 * STEP)
    return polygon if simple.is_empty else simple


def encode_polygons(polygons: np.ndarray) -> dict[str, str]:
    """Polygons [N] as texts: `rings` (how many each has), `sizes` (vertices of each ring), `xy` (steps)."""
    # Holes wind against their outlines, so that what overlaps is filled and a hole is not.
    parts, owner = shapely.get_parts(shapely.orient_polygons(polygons), return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    last = np.append(ring[1:] != ring[:-1], True) if len(ring) else np.zeros(0, dtype=bool)
    whole = np.rint(xy[~last] / STEP).astype(np.int64)
    return {
        "rings": varints(np.bincount(owner[part], minlength=len(polygons))),
        "sizes": varints(np.bincount(ring[~last], minlength=len(rings))),
        "xy": varints(np.diff(whole, axis=0, prepend=np.zeros((1, 2), np.int64)).ravel()),
    }


def varints(values: np.ndarray) -> str:
    """Whole numbers [N], as base64 of 7 bits a byte, the last byte of each below 128; the sign in the lowest bit."""
    code = np.where(values < 0, -2 * values - 1, 2 * values).astype(np.uint64)
    lengths = np.ones(len(code), dtype=np.int64)
    rest = code >> np.uint64(7)
    while rest.any():
        lengths += rest > 0
        rest >>= np.uint64(7)
    ends = np.cumsum(lengths)
    out = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    for place in range(int(lengths.max(initial=0))):
        has = lengths > place
        septet = (code[has] >> np.uint64(7 * place)) & np.uint64(127)
        more = (lengths[has] > place + 1).astype(np.uint64) << np.uint64(7)
        out[(ends - lengths)[has] + place] = (septet | more).astype(np.uint8)
    return base64.b64encode(out.tobytes()).decode()


def _columns(objects: MapColumns) -> dict[str, str]:
    scaled = {
        "label": objects.label,
        "id": np.diff(objects.id, prepend=0),
        "score": np.rint(objects.score * 1e4),
        "area": np.rint(objects.area * 10),
        "perimeter": np.rint(objects.perimeter * 10),
        "windows": objects.windows,
    }
    if objects.quality is not None:
        scaled["quality"] = np.rint(objects.quality * 1e4)
    # Below zero: there is none.
    return {name: varints(np.nan_to_num(values, nan=-1).astype(np.int64)) for name, values in scaled.items()}


def _outline(area: Any) -> list[list[list[float]]]:
    rings = shapely.get_rings(shapely.get_parts(fewer_vertices(area)))
    return [np.round(shapely.get_coordinates(ring)[:-1], 1).tolist() for ring in rings]


def _jpeg(pixels: np.ndarray) -> bytes:
    """The picture as JPEG, coarser in steps until it is small enough."""
    from PIL import Image

    picture = Image.fromarray(pixels, "RGB")
    while True:
        for quality in _QUALITIES:
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality, optimize=True)
            if file.tell() <= LARGEST_PICTURE:
                return file.getvalue()
        picture = picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))


def _colour(label: int) -> str:
    if label < len(_COLOURS):
        return _COLOURS[label]
    return "#{:02x}{:02x}{:02x}".format(*distinct_colour(label))


def _inert(data: Mapping[str, Any]) -> str:
    """JSON that no HTML parser finds an end or a comment in."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8").rstrip("\n")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
