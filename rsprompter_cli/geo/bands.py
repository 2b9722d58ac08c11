"""Which bands of a raster become red, green and blue, and which one says what is valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from rsprompter_cli.errors import InputError, UsageError

_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
# Colour models that are not red, green, blue: their bands shown as such would be plainly wrong.
_OTHER_MODELS = {ColorInterp.cyan: "CMYK", ColorInterp.hue: "HLS", ColorInterp.Cb: "YCbCr", ColorInterp.Y: "YCbCr"}


@dataclass(frozen=True, eq=False, slots=True)
class BandPlan:
    """How the bands of a file become a picture.

    colours: three 1-based bands in the order red, green, blue, or one that is repeated as grey.
    alpha: the 1-based band of transparency, or None.
    palette: uint8 [V, 4], red, green, blue, alpha of each value of the one colour band, or None.
    full_scale: largest value a sample can have when the file stores fewer than 8 bits, or None.
    notice: what the user should know of the choice, may be empty.
    """

    colours: tuple[int, ...]
    alpha: int | None = None
    palette: np.ndarray | None = None
    full_scale: int | None = None
    notice: str = ""

    @property
    def distinct(self) -> list[int]:
        """The colour bands to read, each once, ascending."""
        return sorted(set(self.colours))

    def arrange(self, values: np.ndarray) -> np.ndarray:
        """[len(distinct), H, W] as read to [3, H, W] (or [1, H, W] when there is one colour band)."""
        if self.colours == tuple(self.distinct):
            return values
        return values[[self.distinct.index(band) for band in self.colours]]


def choose_bands(
    dataset: Any, name: str, bands: Sequence[int] | None = None, trained: Sequence[int] | None = None
) -> BandPlan:
    """Apply the band rule to an open raster.

    `bands` wins, then `trained`; else one band is grey (its palette, if any, expanded), two are grey and what the
    file calls alpha, three and more go by colour interpretation, else the first three that are
    not alpha. Alpha is what the file calls so, at any place.

    Args:
        dataset: an open rasterio dataset.
        name: the file as the user wrote it, for messages.
        bands: one or three 1-based bands chosen by the user.
        trained: those that a model's training pictures were made of.

    Raises:
        InputError: complex numbers, colours in a model other than RGB, or a file without the bands of `trained`.
        UsageError: `bands` names a band the file lacks.
    """
    interpretation = dataset.colorinterp
    alpha = next((at for at, kind in enumerate(interpretation, 1) if kind == ColorInterp.alpha), None)
    notice = ""
    if bands is not None:
        colours = _wanted(dataset, name, bands)
    elif trained is not None:
        colours, notice = _as_trained(dataset, name, trained)
    else:
        colours, notice = _by_rule(interpretation, name)
    for band in colours:
        if dataset.dtypes[band - 1].startswith("complex"):
            raise InputError(f"{name}: band {band} holds complex numbers", "convert it to amplitude first")
    if alpha in colours:
        alpha = None
    palette = None
    if len(colours) == 1 and interpretation[colours[0] - 1] == ColorInterp.palette:
        palette = _palette(dataset.colormap(colours[0]))
    bits = dataset.tags(colours[0], ns="IMAGE_STRUCTURE").get("NBITS")
    few = bits is not None and int(bits) < 8 and palette is None
    return BandPlan(colours, alpha, palette, 2 ** int(bits) - 1 if few else None, notice)


def look_up_palette(values: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expand palette values [H, W] to uint8 [3, H, W] and what is opaque, bool [H, W].

    A value beyond the palette is black and not opaque.
    """
    index = np.clip(values, 0, len(palette) - 1)
    known = values == index
    rgba = palette[index]  # [H, W, 4]
    opaque = known & (rgba[..., 3] > 0)
    rgb = np.moveaxis(rgba[..., :3], -1, 0) * known  # [3, H, W]
    return rgb.astype(np.uint8), opaque


def _wanted(dataset: Any, name: str, bands: Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(int(band) for band in bands)
    if len(chosen) not in (1, 3):
        raise UsageError(f"--bands {','.join(map(str, chosen))}: give three bands, or one")
    missing = [band for band in chosen if not 1 <= band <= dataset.count]
    if missing:
        raise UsageError(f"--bands: {name} has no band {missing[0]}, it has {dataset.count}", "bands count from 1")
    return chosen


def _as_trained(dataset: Any, name: str, trained: Sequence[int]) -> tuple[tuple[int, ...], str]:
    """The bands, and a notice."""
    order = ",".join(map(str, trained))
    if max(trained) > dataset.count:
        raise InputError(
            f"{name}: the model was trained on bands {order} (red,green,blue) of its scenes, "
            f"this file has {dataset.count}",
            "name the bands with these colours here, as in --bands 1,2,3",
        )
    return tuple(trained), f"bands {order} are red, green, blue, as in the model's training (--bands changes it)"


def _by_rule(interpretation: Sequence[ColorInterp], name: str) -> tuple[tuple[int, ...], str]:
    """The bands, and a notice where the file leaves a choice."""
    other = next((_OTHER_MODELS[kind] for kind in interpretation if kind in _OTHER_MODELS), None)
    if other is not None:
        raise InputError(f"{name}: its colours are {other}, not RGB", "convert it, or choose bands with --bands")
    if all(list(interpretation).count(kind) == 1 for kind in _RGB):
        chosen = tuple(list(interpretation).index(kind) + 1 for kind in _RGB)
        order = ",".join(map(str, chosen))
        return chosen, "" if chosen == (1, 2, 3) else f"bands {order} are red, green, blue, as the file says"
    coloured = [at for at, kind in enumerate(interpretation, 1) if kind != ColorInterp.alpha]
    if not coloured:
        raise InputError(f"{name}: its only band is transparency", "choose a band with --bands")
    if len(coloured) >= 3:
        first = ",".join(map(str, coloured[:3]))
        unsaid = "the file does not say which bands are red, green, blue"
        return tuple(coloured[:3]), f"{unsaid}: taking {first} (--bands changes it)"
    grey = f"two bands and no transparency: taking band {coloured[0]} as grey (--bands changes it)"
    return (coloured[0],), grey if len(coloured) == 2 else ""


def _palette(colormap: dict[int, tuple[int, ...]]) -> np.ndarray:
    table = np.zeros((max(colormap) + 1, 4), dtype=np.uint8)
    for value, colour in colormap.items():
        table[value] = (*colour[:3], colour[3] if len(colour) > 3 else 255)
    return table
