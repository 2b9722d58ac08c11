"""Instances drawn on pictures, for people to look at."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_FILL = 0.4
"""Share of the instance's colour inside; the outline has all of it."""

_GOLDEN_ANGLE = 0.61803398875
"""Hues this far apart (of 1) stay distinct however many there are."""


def draw_instances(
    image: np.ndarray,
    shapes: Iterable[Any],
    labels: Sequence[int],
    scores: Sequence[float] | None,
    class_names: Sequence[str],
    *,
    title: str | None = None,
) -> Image.Image:
    """The picture with each instance tinted, outlined and, where there is room, named.

    Args:
        image: uint8 [H, W, 3] RGB.
        shapes: per instance a mask (bool [H, W], numpy or tensor) or a shapely polygon or
            multipolygon in pixels, origin at the outer corner of the first pixel; None draws nothing.
        labels: 0-based index into `class_names`, per instance.
        scores: 0..1 per instance, best shown on top; None for ground truth.
        class_names: names by label; with one class only the score is written.
        title: a line above the picture.

    Returns:
        An RGB image of the picture's size, taller by the title bar when there is a title.
    """
    from PIL import Image, ImageDraw

    canvas = np.array(image, dtype=np.float32)
    regions = [_region(shape, *image.shape[:2]) for shape in shapes]
    # Ascending, so that the surest instance lies on top.
    order = sorted(range(len(regions)), key=lambda index: 0.0 if scores is None else float(scores[index]))
    for index in order:
        _tint(canvas, regions[index], distinct_colour(index), thickness=1 + max(image.shape[:2]) // 1000)
    picture = Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8), "RGB")
    pen = ImageDraw.Draw(picture)
    taken: list[Box] = []
    others = [_bounds(region) for region in regions]
    for index in reversed(order):
        name = class_names[int(labels[index])] if len(class_names) > 1 else ""
        score = "" if scores is None else f"{float(scores[index]):.2f}"
        _write_caption(
            pen, regions[index], " ".join(filter(None, (name, score))), distinct_colour(index), taken, others
        )
    return add_title(picture, title) if title else picture


def side_by_side(pictures: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Pictures in a row on a white sheet, tops aligned."""
    from PIL import Image

    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet


def one_below_the_other(pictures: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Pictures in a column on a white sheet, left edges aligned."""
    from PIL.Image import Transpose

    # A column is a row with the axes swapped.
    row = side_by_side([picture.transpose(Transpose.TRANSPOSE) for picture in pictures], gap)
    return row.transpose(Transpose.TRANSPOSE)


def add_title(picture: Image.Image, title: str) -> Image.Image:
    """The picture under a white bar with text.

    Where the parts of the text, between double spaces, do not fit beside one another they stand below; a part that is
    too long by itself is shortened.
    """
    from PIL import Image, ImageDraw

    font = _font(picture.width)
    height = int(font.size * 1.6)
    lines = _title_lines(title, lambda text: font.getlength(text) <= picture.width - 8)
    sheet = Image.new("RGB", (picture.width, picture.height + height * len(lines)), "white")
    sheet.paste(picture, (0, height * len(lines)))
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((4, height * (number + 0.5)), line, fill="black", font=font, anchor="lm")
    return sheet


def _title_lines(title: str, fits: Callable[[str], bool]) -> list[str]:
    lines: list[str] = []
    for part in title.split("  "):
        text = part
        while len(text) > 1 and not fits(text):
            text = text[:-2] + "…"
        if lines and fits(f"{lines[-1]}  {text}"):
            lines[-1] += f"  {text}"
        else:
            lines.append(text)
    return lines


Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""

Region = tuple[int, int, np.ndarray]
"""Top, left and bool [h, w] of the pixels inside one instance."""


def _region(shape: Any, height: int, width: int) -> Region:
    """The pixels of a mask or geometry, cut to its bounds; empty when it lies outside the image."""
    nothing = (0, 0, np.zeros((0, 0), dtype=bool))
    if shape is None or getattr(shape, "is_empty", False):
        return nothing
    if hasattr(shape, "geom_type"):
        x0, y0, x1, y1 = shape.bounds
        left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
        right, bottom = min(width, int(np.ceil(x1))), min(height, int(np.ceil(y1)))
        if right <= left or bottom <= top:
            return nothing
        from rasterio import Affine
        from rasterio.features import rasterize

        # Pixel coordinates: y grows downwards, so both steps are positive.
        frame = Affine(1, 0, left, 0, 1, top)
        inside = rasterize([(shape, 1)], out_shape=(bottom - top, right - left), transform=frame, dtype="uint8")
        return top, left, inside.astype(bool)
    mask = np.asarray(shape, dtype=bool)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return nothing
    return int(rows[0]), int(columns[0]), mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _tint(canvas: np.ndarray, region: Region, colour: tuple[int, int, int], thickness: int) -> None:
    """Blend the colour into the region of a float32 [H, W, 3] canvas, outline opaque."""
    top, left, inside = region
    height, width = inside.shape
    core = np.pad(inside, 1)
    for _ in range(thickness):
        # Erosion by one pixel to each of the four sides.
        core[1:-1, 1:-1] &= core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    rim = inside & ~core[1:-1, 1:-1]
    view = canvas[top : top + height, left : left + width]
    view[inside] = (1 - _FILL) * view[inside] + _FILL * np.array(colour, dtype=np.float32)
    view[rim] = colour


def _bounds(region: Region) -> Box:
    top, left, inside = region
    return (left, top, left + inside.shape[1], top + inside.shape[0])


def _write_caption(
    pen: ImageDraw.ImageDraw,
    region: Region,
    text: str,
    colour: tuple[int, int, int],
    taken: list[Box],
    others: Sequence[Box],
) -> None:
    """Write `text` inside a roomy region, else above or below it; not at all where it would hide something.

    Args:
        taken: where captions stand already; the new one is added.
        others: bounds of all regions, kept free by captions outside their own.
    """
    left, top, right, bottom = own = _bounds(region)
    if not text or region[2].size == 0:
        return
    font = _font(pen.im.size[0])
    x0, y0, x1, y1 = pen.textbbox((0, 0), text, font=font)
    width, height = x1 - x0 + 2, y1 - y0 + 2
    inside = (left + 1, top + 1, left + 1 + width, top + 1 + height)
    above = (left, top - height, left + width, top)
    below = (left, bottom, left + width, bottom + height)
    roomy = bottom - top >= 3 * height and right - left >= width + 2
    for box in [inside] if roomy else [above, below]:
        hidden = taken if roomy else [*taken, *(other for other in others if other != own)]
        in_picture = box[0] >= 0 and box[1] >= 0 and box[2] <= pen.im.size[0] and box[3] <= pen.im.size[1]
        if in_picture and not any(_meet(box, other) for other in hidden):
            taken.append(box)
            pen.rectangle(box, fill=tuple(value // 4 for value in colour))
            pen.text((box[0] + 1 - x0, box[1] + 1 - y0), text, fill="white", font=font)
            return


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def distinct_colour(index: int) -> tuple[int, int, int]:
    """A saturated colour, far in hue from those of the neighbouring indices."""
    red, green, blue = colorsys.hsv_to_rgb(
        (index * _GOLDEN_ANGLE) % 1, (0.95, 0.7)[index % 2], (1.0, 0.85)[index // 2 % 2]
    )
    return int(red * 255), int(green * 255), int(blue * 255)


def _font(width: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=min(max(10, width // 60), 32))
