"""Which bands of a raster become red, green and blue, and which one says what is valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from rsprompter_cli.errors import InputError, UsageError, plural
from rsprompter_cli.geo.raster.formats.sample_layout import image_structure
from rsprompter_cli.geo.raster.radiometry.band_names import NamedBands, named_bands

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
    negative: the value that is black in a file whose zero is white, or None where zero is black.
    names: what the file calls each of its bands, empty where it does not.
    why: what decided on `colours`, in words.
    notice: what the user should know of the choice, may be empty.
    """

    colours: tuple[int, ...]
    alpha: int | None = None
    palette: np.ndarray | None = None
    full_scale: int | None = None
    negative: int | None = None
    names: tuple[str, ...] = ()
    why: str = ""
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
    file calls alpha. Three and more go by colour interpretation where it names red, green and blue in another order
    than bands 1, 2, 3; else by the names, wavelengths or satellite band numbers that the file gives its bands, see
    `named_bands`; else by colour interpretation, else the first three that are not alpha. Names come before
    red, green, blue as bands 1, 2, 3, because writers of TIFF set that for any file of three or four bands. Alpha is
    what the file calls so, at any place, unless its name says that it holds light.

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
    named = named_bands(dataset, name)
    alpha = next(
        (at for at, kind in enumerate(interpretation, 1) if kind == ColorInterp.alpha and at not in named.not_alpha),
        None,
    )
    if bands is not None:
        colours, why, notice = _wanted(dataset, name, bands), "--bands", ""
    elif trained is not None:
        colours, why, notice = _as_trained(dataset, name, trained)
    else:
        colours, why, notice = _by_rule(interpretation, name, named, alpha)
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
    full_scale = 2 ** int(bits) - 1 if few else None
    negative = black_of_negative(dataset, colours[0]) if palette is None else None
    if negative is not None:
        turned = 'its photometric interpretation is "white is zero", so samples are inverted'
        notice = f"{notice}; {turned}" if notice else turned
    if negative is None and palette is None and image_structure(dataset).get("MINISWHITE") == "YES":
        ignored = f'"white is zero" does not apply to {dataset.dtypes[colours[0] - 1]} samples and is ignored'
        notice = f"{notice}; {ignored}" if notice else ignored
    return BandPlan(colours, alpha, palette, full_scale, negative, named.names, why, notice)


def black_of_negative(dataset: Any, band: int) -> int | None:
    """The value that is black in a TIFF whose photometric interpretation is "white is zero".

    Returns:
        None where zero is black, and where samples are not unsigned integers, whose black is unknown.
    """
    dtype = np.dtype(dataset.dtypes[band - 1]) if not dataset.dtypes[band - 1].startswith("complex") else None
    if dtype is None or dtype.kind != "u" or image_structure(dataset).get("MINISWHITE") != "YES":
        return None
    bits = int(dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8 * dtype.itemsize))
    return int(2**bits - 1)


def turn_negative(values: np.ndarray, black: int | None) -> np.ndarray:
    """Samples of a file whose zero is white, inverted so that zero is black.

    Args:
        values: unsigned integers of any shape.
        black: from `black_of_negative`; None leaves the values as they are.
    """
    if black is None:
        return values
    turned: np.ndarray = values.dtype.type(black) - np.minimum(values, values.dtype.type(black))
    return turned


def look_up_palette(values: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expand palette values [H, W] to uint8 [3, H, W] and a mask of opaque pixels, bool [H, W].

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
        raise UsageError(f"--bands {','.join(map(str, chosen))}: give one band or three")
    missing = [band for band in chosen if not 1 <= band <= dataset.count]
    if missing:
        raise UsageError(
            f"--bands: {name} has {plural(dataset.count, 'band')}, and no band {missing[0]}",
            "bands are numbered from 1",
        )
    return chosen


def _as_trained(dataset: Any, name: str, trained: Sequence[int]) -> tuple[tuple[int, ...], str, str]:
    """The bands, what decided on them, and a notice."""
    order = ",".join(map(str, trained))
    if max(trained) > dataset.count:
        raise InputError(
            f"{name}: the model was trained on bands {order} (red, green, blue) of its scenes, "
            f"this file has {plural(dataset.count, 'band')}",
            "name the bands with these colours in this file, for example --bands 1,2,3",
        )
    notice = f"bands {order} are read as red, green, blue, as in the model's training (--bands changes it)"
    return tuple(trained), "the model's training", notice


def _by_rule(
    interpretation: Sequence[ColorInterp], name: str, named: NamedBands, alpha: int | None
) -> tuple[tuple[int, ...], str, str]:
    """The bands, what decided on them, and a notice where the file leaves a choice or states an unusual order."""
    other = next((_OTHER_MODELS[kind] for kind in interpretation if kind in _OTHER_MODELS), None)
    if other is not None:
        raise InputError(f"{name}: its colour space is {other}, not RGB", "convert it, or choose bands with --bands")
    stated = None
    if all(list(interpretation).count(kind) == 1 for kind in _RGB):
        stated = tuple(list(interpretation).index(kind) + 1 for kind in _RGB)
    if stated not in (None, (1, 2, 3)):
        order = ",".join(map(str, stated))
        why = "colour interpretation"
        if named.colours not in (None, stated):
            why += f", although {named.why}"
        return (
            stated,
            why,
            f"bands {order} are read as red, green, blue, as the file states ({why}; --bands changes it)",
        )
    if named.colours is not None:
        order = ",".join(map(str, named.colours))
        silent = stated == named.colours
        notice = f"bands {order} are read as red, green, blue because {named.why} (--bands changes it)"
        return named.colours, named.why, "" if silent else notice
    coloured = [at for at in range(1, len(interpretation) + 1) if at != alpha]
    if not coloured:
        raise InputError(f"{name}: its only band is an alpha band", "choose a band with --bands")
    if stated is not None:
        names = ", ".join(named.names[at - 1] or "-" for at in stated)
        told = f"bands 1,2,3 are read as red, green, blue, although their names are {names} (--bands changes it)"
        return stated, "colour interpretation", told if named.not_rgb & set(stated) else ""
    if len(coloured) >= 3:
        first = ",".join(map(str, coloured[:3]))
        unsaid = "the file does not state which bands are red, green, blue"
        if any(named.names):
            unsaid += f" (their names are {', '.join(text or '-' for text in named.names[:12])})"
        return tuple(coloured[:3]), "the first three bands", f"{unsaid}: using {first} (--bands changes it)"
    grey = f"two bands and no alpha band: using band {coloured[0]} as grey (--bands changes it)"
    return (coloured[0],), "the first band, as grey", grey if len(coloured) == 2 else ""


def _palette(colormap: dict[int, tuple[int, ...]]) -> np.ndarray:
    table = np.zeros((max(colormap) + 1, 4), dtype=np.uint8)
    for value, colour in colormap.items():
        table[value] = (*colour[:3], colour[3] if len(colour) > 3 else 255)
    return table
