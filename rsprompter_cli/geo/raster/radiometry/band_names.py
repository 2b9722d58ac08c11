"""Which bands are red, green and blue by what the file calls them: names, wavelengths, band numbers of satellites.

Only what is certain counts: a name that also speaks of another part of the spectrum (red edge, coastal blue, green I)
is no plain colour, and two bands that could be the same colour make it uncertain, unless one is nearer to the middle
of that colour.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_COLOURS = ("red", "green", "blue")
_MIDDLE = {"red": 662.0, "green": 558.0, "blue": 482.0}
"""Nanometres: about the middle of these bands on Landsat, Sentinel-2, WorldView, PlanetScope and MicaSense."""

_RANGE = {"red": (620.0, 690.0), "green": (515.0, 590.0), "blue": (446.0, 514.0)}
"""Nanometres within which a wavelength alone names a colour: without coastal blue (443, 444), yellow (610) and red
edge (from 700)."""

_LETTERS = {"r": "red", "g": "green", "b": "blue"}
_OTHER_LIGHT = {
    "coastal",
    "aerosol",
    "cyan",
    "magenta",
    "yellow",
    "pan",
    "panchromatic",
    "edge",
    "rededge",
    "re",
    "vnir",
}
_OTHER_LIGHT |= {
    "near",
    "far",
    "mid",
    "deep",
    "infra",
    "infrared",
    "ir",
    "nir",
    "swir",
    "mwir",
    "lwir",
    "tir",
    "thermal",
}
_OTHER_LIGHT |= {"water", "vapour", "vapor", "cirrus", "i", "iii"}
_NO_LIGHT = {
    "cloud",
    "confidence",
    "contrast",
    "deviation",
    "diff",
    "difference",
    "dsm",
    "dtm",
    "dem",
    "error",
    "index",
}
_NO_LIGHT |= {"min", "max", "minus", "noise", "norm", "qa", "quality", "ratio", "sigma", "std", "stddev", "variance"}
_NO_LIGHT |= {"temperature", "uncertainty", "evi", "nbr", "ndre", "ndvi", "ndwi", "savi"}
_VALIDITY = {"alpha", "mask", "valid", "nodata"}
_OTHER_WORDS = _OTHER_LIGHT | _NO_LIGHT | _VALIDITY
"""Words that make a band with a colour in its name another thing than that colour."""

_NAME_TAGS: tuple[str, ...] = (
    "bandname",
    "band_name",
    "name",
    "description",
    "long_name",
    "standard_name",
    "common_name",
)
_NAME_TAGS += ("color", "colour")
_LIST_TAGS = ("band_names", "bandnames", "bands", "band_order", "channels")
_WAVELENGTH_TAGS: tuple[str, ...] = (
    "wavelength",
    "wavelengths",
    "central_wavelength",
    "centre_wavelength",
    "center_wavelength",
)
_WAVELENGTH_TAGS += ("centralwavelength", "central_wavelength_um", "central_wavelength_nm", "band_wavelength")
_UNIT_TAGS = ("wavelength_units", "wavelength_unit", "wavelengthunits", "units_wavelength")
_LONGEST_NAME = 1_000
"""Characters of a name in which a wavelength is looked for: among digits alone the search takes their square."""

_WITH_UNIT = re.compile(r"(\d+(?:\.\d+)?)\s*[\[(]?(nm|nanomet\w*|um|µm|μm|micromet\w*|microns?)\b[\])]?", re.IGNORECASE)
_SATELLITE_BAND = re.compile(r"^(?:(sr|toa|boa|rrs|refl|st)[ _-]?)?(?:band|b)[ _-]?(\d{1,2}a?)$", re.IGNORECASE)
_LANDSAT_OLI = re.compile(r"(?:^|[^a-z])(?:lc0?[89]_|lc[89]\d{3}|landsat[ _-]?[89])", re.IGNORECASE)
_LANDSAT_TM = re.compile(r"(?:^|[^a-z])(?:l[et]0?[457]_|l[et][457]\d{3}|landsat[ _-]?[457])", re.IGNORECASE)
_SENTINEL_2 = re.compile(r"(?:^|[^a-z])(?:s2[abc]_|sentinel[ _-]?2)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class NamedBands:
    """What the file says of its bands.

    names: of each band, empty where it has none.
    colours: the 1-based bands that are red, green, blue, or None when that is not certain.
    why: of `colours`, words that follow "because".
    not_alpha: 1-based bands that cannot be transparency, because their name says that they hold light.
    not_rgb: 1-based bands whose name says that they hold something else than red, green or blue light.
    """

    names: tuple[str, ...]
    colours: tuple[int, int, int] | None = None
    why: str = ""
    not_alpha: frozenset[int] = frozenset()
    not_rgb: frozenset[int] = frozenset()


def named_bands(dataset: Any, name: str) -> NamedBands:
    """What descriptions and tags of an open raster say of its bands.

    Args:
        dataset: an open rasterio dataset.
        name: the file name, which for products of satellites names the sensor.
    """
    tags = [_lower(dataset.tags(band)) | _lower(dataset.tags(band, ns="IMAGERY")) for band in dataset.indexes]
    whole = _lower(dataset.tags()) | _lower(dataset.tags(ns="ENVI"))
    names = _names(dataset, tags, whole)
    wavelengths = [_wavelength(text, one, whole) for text, one in zip(names, tags, strict=True)]
    light = frozenset(at for at, text in enumerate(names, 1) if _holds_light(text))
    other = frozenset(at for at in light if _colour_of(names[at - 1]) is None)
    for found, why in (
        (_by_words(names, wavelengths), "their names are {}"),
        (_by_letters(names), "their names are {}"),
        (_by_satellite(names, " ".join([name, *whole.values()])), "their names are {}"),
        (_by_wavelength(wavelengths), "their wavelengths are {} nm"),
    ):
        if found is not None:
            shown = [f"{wavelengths[at - 1]:g}" if "{} nm" in why else names[at - 1] for at in found]
            return NamedBands(names, found, why.format(", ".join(shown)), light, other)
    return NamedBands(names, not_alpha=light, not_rgb=other)


def _names(dataset: Any, tags: Sequence[Mapping[str, str]], whole: Mapping[str, str]) -> tuple[str, ...]:
    names = [(text or "").strip() for text in dataset.descriptions]
    if not any(names):
        names = [next((one[key].strip() for key in _NAME_TAGS if key in one), "") for one in tags]
    if not any(names):
        names = [whole.get(f"band_{band}", "").strip() for band in dataset.indexes]
    if not any(names):
        for key in _LIST_TAGS:
            parts = [part.strip(" '\"") for part in re.split(r"[,;|]", whole.get(key, "").strip(" []{}()"))]
            if len(parts) == dataset.count and all(parts):
                names = parts
                break
    return tuple(text if len(text) <= 60 else text[:57] + "..." for text in names)


def _words(text: str) -> set[str]:
    """Lower-case words of a name: `GreenI` and `green_i` are green and i, `Red edge-705` is red, edge and 705."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)", " ", text)
    return {word for word in re.split(r"[^a-z0-9]+", apart.lower()) if word}


def _colour_of(text: str) -> str | None:
    """The one colour that a name names, if it names nothing else of the spectrum."""
    words = _words(text)
    found = [colour for colour in _COLOURS if colour in words]
    return found[0] if len(found) == 1 and not words & _OTHER_WORDS else None


def _holds_light(text: str) -> bool:
    words = _words(text)
    return bool(_colour_of(text) or words & (_OTHER_LIGHT | _NO_LIGHT)) and not words & _VALIDITY


def _by_words(names: Sequence[str], wavelengths: Sequence[float | None]) -> tuple[int, int, int] | None:
    """Names that hold the words red, green, blue; of several with one word the plainest, or the one nearest to its
    middle."""
    chosen = []
    for colour in _COLOURS:
        bands = [at for at, text in enumerate(names, 1) if _colour_of(text) == colour]
        known = [wavelengths[at - 1] for at in bands]
        if len(bands) > 1 and all(value is not None for value in known):
            bands = _nearest(bands, wavelengths, _MIDDLE[colour])
        if len(bands) > 1:
            fewest = min(len(_words(names[at - 1])) for at in bands)
            bands = [at for at in bands if len(_words(names[at - 1])) == fewest]
        if len(bands) != 1:
            return None
        chosen.append(bands[0])
    red, green, blue = chosen
    return red, green, blue


def _by_letters(names: Sequence[str]) -> tuple[int, int, int] | None:
    """R, G, B, or BAND_R, BAND_G, BAND_B."""
    letters = [re.sub(r"^(?:band|ch|channel)[ _-]*", "", text.strip().lower()) for text in names]
    bands = [[at for at, text in enumerate(letters, 1) if text == letter] for letter in _LETTERS]
    if any(len(found) != 1 for found in bands):
        return None
    red, green, blue = (found[0] for found in bands)
    return red, green, blue


def _by_satellite(names: Sequence[str], about: str) -> tuple[int, int, int] | None:
    """Band numbers of Sentinel-2 and Landsat, where they can only be those of one numbering.

    Sentinel-2 and Landsat 8 and 9 have blue, green, red as 2, 3, 4; Landsat 4 to 7 as 1, 2, 3.
    """
    matches = [_SATELLITE_BAND.match(re.split(r"[ ,;:(]", text.strip(), maxsplit=1)[0]) for text in names]
    if sum(found is not None for found in matches) < 3:
        return None
    prefixes = {(found[1] or "").lower() for found in matches if found}
    spelled = {found[2].lower(): at for at, found in enumerate(matches, 1) if found}
    numbers = {spelling.lstrip("0"): at for spelling, at in spelled.items()}
    if len(numbers) < sum(found is not None for found in matches):
        return None  # one number twice
    # Plain "Band 1", "Band 2", ... only count.
    padded = any(spelling.startswith("0") for spelling in spelled)
    counted = not padded and all(found and found[2] == str(at) for at, found in enumerate(matches, 1))
    thermal = {found[2] for found in matches if found and (found[1] or "").lower() == "st"}
    old = "6" in thermal or bool(_LANDSAT_TM.search(about))
    new = (
        bool(thermal & {"10", "11"})
        or bool(_LANDSAT_OLI.search(about) or _SENTINEL_2.search(about))
        or any(found and (found[1] or "").lower() == "sr" and found[2] == "6" for found in matches)
        or padded
        or bool({"8a", "9", "10", "11", "12"} & numbers.keys())
        or ("8" in numbers and "1" not in numbers and "sr" not in prefixes)
    )
    if old == new or (counted and not (thermal or _named_sensor(about) or "sr" in prefixes)):
        return None
    wanted = ("3", "2", "1") if old else ("4", "3", "2")
    if any(number not in numbers for number in wanted):
        return None
    red, green, blue = (numbers[number] for number in wanted)
    return red, green, blue


def _named_sensor(about: str) -> bool:
    return any(sensor.search(about) for sensor in (_LANDSAT_OLI, _LANDSAT_TM, _SENTINEL_2))


def _by_wavelength(wavelengths: Sequence[float | None]) -> tuple[int, int, int] | None:
    chosen = []
    for colour, (low, high) in _RANGE.items():
        bands = [at for at, value in enumerate(wavelengths, 1) if value is not None and low <= value <= high]
        if not bands:
            return None
        chosen.append(_nearest(bands, wavelengths, _MIDDLE[colour])[0])
    red, green, blue = chosen
    return red, green, blue


def _nearest(bands: Sequence[int], wavelengths: Sequence[float | None], middle: float) -> list[int]:
    return [min(bands, key=lambda at: abs((wavelengths[at - 1] or 0.0) - middle))]


def _wavelength(text: str, tags: Mapping[str, str], whole: Mapping[str, str]) -> float | None:
    """Nanometres, from a tag or from a name such as `Blue-475` or `band 30 (665.2 nm)`."""
    unit = next((one[key] for one in (tags, whole) for key in _UNIT_TAGS if key in one), "")
    for key in _WAVELENGTH_TAGS:
        found = re.match(r"\s*(\d+(?:\.\d+)?)\s*([a-zµμ]*)", tags.get(key, "")[:_LONGEST_NAME].lower())
        if found:
            return _nanometres(float(found[1]), found[2] or ("um" if key.endswith("_um") else unit))
    text = text[:_LONGEST_NAME]
    found = _WITH_UNIT.search(text)
    if found:
        return _nanometres(float(found[1]), found[2])
    numbers = [float(number) for number in re.findall(r"(?<![\d.])\d{3,4}(?:\.\d+)?(?![\d.])", text)]
    plausible = [value for value in numbers if 380 <= value <= 1100]
    return plausible[0] if len(plausible) == 1 and _colour_of(text) else None


def _nanometres(value: float, unit: str) -> float | None:
    # Without a unit, the size of the number tells: light has 0.38 to 2.5 micrometres.
    micro = unit.strip().lower().startswith(("u", "µ", "μ", "micro")) or (not unit and value < 20)
    value = value * 1000 if micro else value
    return value if 300 <= value <= 20_000 else None


def _lower(tags: Mapping[str, str]) -> dict[str, str]:
    return {key.lower().replace(" ", "_"): text for key, text in tags.items()}
