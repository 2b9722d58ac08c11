"""Correct, wrong and missed polygons on one picture, each kind in its colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

if TYPE_CHECKING:
    from PIL import Image

Colour = tuple[int, int, int]

RIGHT, WRONG, MISSED = (0, 170, 120), (235, 60, 20), (40, 110, 255)
"""Bluish green, vermilion and blue: distinguishable with colour vision deficiency, on paper as on imagery."""

_FILL = 0.45
"""Share of the colour inside; the outline has all of it."""

_SMALLEST_OUTLINE = 10.0
"""Pixels: what is smaller is a filled spot without an outline, which would hide its neighbours."""

_HATCH_STEP, _HATCH_WIDTH = 14, 3
"""Pixels along a row: what was missed is hatched, so that a wrong polygon on it shows its own colour between."""

_INK = (30, 30, 30)
_FONT_SIZE = 20
_MARGIN = 12


def draw_error_map(
    background: np.ndarray,
    *,
    right: Sequence[Any],
    wrong: Sequence[Any],
    missed: Sequence[Any],
    found: Sequence[Any],
    border: Any,
    outline: Colour,
    counts: tuple[int, int, int],
    figures: str,
) -> Image.Image:
    """The background with every polygon in the colour of its kind, above a legend that counts them.

    Args:
        background: uint8 [H, W, 3] RGB.
        right, wrong: predictions, in pixels (origin at the outer corner of the first pixel).
        missed, found: true objects; of those that were found only the outline is drawn.
        border: the area of interest as a polygon in pixels, or None.
        outline: colour of the outlines of found objects and of the border.
        counts: of correct, wrong and missed polygons, for the legend: not all need to lie on the picture.
        figures: a further text for the legend.

    Returns:
        RGB, higher than the background by the legend.
    """
    from PIL import Image, ImageDraw

    canvas = np.array(background, dtype=np.float32)
    size = canvas.shape[:2]
    on_right, on_wrong = _covered(right, *size), _covered(wrong, *size)
    # Colours are never mixed: a wrong polygon on a right one is its outline, and what was missed is hatched.
    for inside, colour in ((on_right, RIGHT), (on_wrong & ~on_right, WRONG)):
        canvas[inside] = (1 - _FILL) * canvas[inside] + _FILL * np.array(colour, dtype=np.float32)
    roomy = _is_roomy(missed)
    spots = _covered([shape for shape, is_large in zip(missed, roomy, strict=True) if not is_large], *size)
    canvas[spots | (_covered(missed, *size) & _hatching(*size))] = MISSED
    picture = Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8), "RGB")
    pen = ImageDraw.Draw(picture)
    for shapes, colour in ((right, RIGHT), (missed, MISSED), (wrong, WRONG)):
        _draw_outlines(pen, shapes, colour, width=2)
    _draw_outlines(pen, found, outline, width=1)
    if border is not None:
        _draw_outlines(pen, [border], outline, width=3)
    entries: list[tuple[str, Colour | None]] = [
        (f"correct {counts[0]:,}", RIGHT),
        (f"wrong {counts[1]:,}", WRONG),
        (f"missed {counts[2]:,}", MISSED),
        ("true outline", outline),
        (figures, None),
    ]
    return _with_legend(picture, entries)


def _covered(shapes: Sequence[Any], height: int, width: int) -> np.ndarray:
    """bool [H, W]: pixels under any of the shapes, those that are only touched too, so that none is lost."""
    if not len(shapes):
        return np.zeros((height, width), dtype=bool)
    from rasterio import Affine
    from rasterio.features import rasterize

    inside = rasterize(
        [(shape, 1) for shape in shapes],
        out_shape=(height, width),
        transform=Affine.identity(),
        all_touched=True,
        dtype="uint8",
    )
    return inside.astype(bool)


def _hatching(height: int, width: int) -> np.ndarray:
    """bool [H, W]: diagonal lines."""
    rows, cols = np.ogrid[:height, :width]
    lines: np.ndarray = (rows + cols) % _HATCH_STEP < _HATCH_WIDTH
    return lines


def _is_roomy(shapes: Sequence[Any]) -> np.ndarray:
    """bool [N]: shapes that are large enough for an outline."""
    if not len(shapes):
        return np.zeros(0, dtype=bool)
    x0, y0, x1, y1 = shapely.bounds(np.asarray(shapes, dtype=object)).T
    roomy: np.ndarray = np.maximum(x1 - x0, y1 - y0) >= _SMALLEST_OUTLINE
    return roomy


def _draw_outlines(pen: Any, shapes: Sequence[Any], colour: Colour, *, width: int) -> None:
    if not len(shapes):
        return
    rings = shapely.get_rings(shapely.get_parts(np.asarray(shapes, dtype=object)[_is_roomy(shapes)]))
    for ring in rings:
        pen.line([tuple(point) for point in shapely.get_coordinates(ring).tolist()], fill=colour, width=width)


def _hatch(sheet: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Turn the inside of a swatch into lines of its colour on white, as what was missed is drawn."""
    from PIL import Image

    left, top, right, bottom = box
    lines = _hatching(bottom - top - 1, right - left - 1)
    white = Image.new("RGB", lines.shape[::-1], "white")
    sheet.paste(white, (left + 1, top + 1), Image.fromarray(~lines))


def _with_legend(picture: Image.Image, entries: Sequence[tuple[str, Colour | None]]) -> Image.Image:
    """The picture above a white strip with the entries side by side, on as many lines as they need."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT_SIZE)
    places = []
    x, line = _MARGIN, 0
    for text, colour in entries:
        swatch = 0 if colour is None else _FONT_SIZE + 6
        needed = swatch + int(font.getlength(text)) + 2 * _MARGIN
        if x > _MARGIN and x + needed > picture.width:
            x, line = _MARGIN, line + 1
        places.append((x, line, swatch))
        x += needed
    height = (line + 1) * (_FONT_SIZE + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (picture.width, picture.height + height), "white")
    sheet.paste(picture, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for (left, row, swatch), (text, colour) in zip(places, entries, strict=True):
        top = picture.height + _MARGIN + row * (_FONT_SIZE + _MARGIN)
        if colour is not None:
            swatch_box = (left, top, left + _FONT_SIZE, top + _FONT_SIZE)
            pen.rectangle(swatch_box, fill=colour, outline=_INK)
            if colour == MISSED:
                _hatch(sheet, swatch_box)
        pen.text((left + swatch, top + _FONT_SIZE / 2), text, fill=_INK, font=font, anchor="lm")
    return sheet
