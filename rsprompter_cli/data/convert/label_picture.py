"""Label pictures as masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from rsprompter_cli.errors import InputError

BINARY = (frozenset({0, 255}), frozenset({0, 1}))


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture in pixels; its pixels are decoded, so that damage shows.

    Raises:
        InputError: not a readable picture.
    """
    with _decoded(path) as picture:
        return picture.height, picture.width


def read_binary_label(path: Path) -> np.ndarray:
    """A picture of two values as bool [H, W], True where it is bright.

    The brightness counts, not the stored number: one-bit files that store white as 0 and palettes are
    decoded first.

    Raises:
        InputError: not a readable picture, in colour, or holding other values than 0 and 255 or 0 and 1.
    """
    with _decoded(path) as picture:
        values = _grey_values(picture, path)
    found = np.unique(values)
    if not any(set(found.tolist()) <= allowed for allowed in BINARY):
        odd = [value for value in found.tolist() if value not in (0, 1, 255)] or found.tolist()
        shown = ", ".join(f"{value:g}" for value in odd[:5]) + (", ..." if len(odd) > 5 else "")
        raise InputError(f"{path}: is no binary label, it holds {shown}; the values must be 0 and 255, or 0 and 1")
    return values != 0


def _grey_values(picture: Image.Image, path: Path) -> np.ndarray:
    """[H, W] brightness: 0 or 255 for one-bit pictures, else as stored."""
    if picture.mode == "1":
        return np.asarray(picture.convert("L"))
    if picture.mode in ("P", "RGB", "RGBA", "LA"):
        # A palette index is not a brightness; an opaque alpha says nothing.
        colours = np.asarray(picture.convert("RGB"))
        if (colours != colours[..., :1]).any():
            raise InputError(f"{path}: is a colour picture, a label has only black and white")
        return colours[..., 0]
    return np.asarray(picture)


@contextmanager
def _decoded(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            picture.load()
            yield picture
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: is no picture that can be read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: damaged or unreadable: {error}") from error
