"""From samples to 0..255, decided once for a whole scene.

The values of --scale:
- `auto`: 8-bit samples are taken as they are, all others by percentiles;
- `none`: samples are taken as they are, whatever their type, and cut at 0 and 255;
- `percentile`: each colour is stretched so that its 2nd and 98th percentile over the scene become 25 and 225;
- `LO,HI`: LO becomes 0 and HI becomes 255 in every colour.
Results are cut at 0 and 255. The percentiles come from one sample of the scene, so every window
is stretched alike.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rsprompter_cli.errors import UsageError, did_you_mean

log = logging.getLogger(__name__)

PERCENTILES = (2.0, 98.0)
"""What map viewers cut by default: haze and glint fall outside."""

PERCENTILE_LEVELS = (25.0, 225.0)
"""What those percentiles become. In 8-bit orthophotos, which models learn from, they lie there (16..38 and 212..225
on average over our seven training and validation scenes): a stretch to 0 and 255 shows a model a harder contrast than
it knows, and cost 0.05 of F1."""

ScaleChoice = Literal["auto", "none", "percentile"] | tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scaling:
    """A linear map of samples to 0..255.

    kind: "uint8" and "none" take samples as they are; "percentile" and "range" stretch them.
    low, high: samples that become 0 and 255, one each per colour; empty when taken as they are.
    """

    kind: Literal["uint8", "none", "percentile", "range"]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def apply(self, values: np.ndarray) -> np.ndarray:
        """float [C, H, W] samples to float32 [C, H, W] in 0..255."""
        if self.low:
            low = np.asarray(self.low, dtype=values.dtype)[:, None, None]
            high = np.asarray(self.high, dtype=values.dtype)[:, None, None]
            values = (values - low) * (255 / (high - low))
        return np.clip(values, 0, 255).astype(np.float32, copy=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": self.kind, "low": list(self.low), "high": list(self.high)}


def parse_scale(text: str | None) -> ScaleChoice:
    """The value of --scale.

    Raises:
        UsageError: neither a known word nor LO,HI with LO < HI.
    """
    if text is None or text == "auto":
        return "auto"
    if text in ("none", "percentile"):
        return "none" if text == "none" else "percentile"
    low, comma, high = text.partition(",")
    try:
        pair = (float(low), float(high)) if comma else None
    except ValueError:
        pair = None
    if pair is None:
        raise UsageError(
            f"--scale {text!r}: must be auto, none, percentile, or LO,HI",
            did_you_mean(text, ["auto", "none", "percentile"]) if not comma else "for example --scale 0,3000",
        )
    return check_range(pair)


def check_range(pair: tuple[float, float]) -> tuple[float, float]:
    """The pair, when it is finite and ascending; else UsageError."""
    if not (math.isfinite(pair[0]) and math.isfinite(pair[1]) and pair[0] < pair[1]):
        raise UsageError(f"--scale {pair[0]:g},{pair[1]:g}: must be two numbers, the first below the second")
    return pair


def trained_choice(trained: str | None, *, dtype: str, name: str) -> ScaleChoice:
    """The choice for a scene whose user makes none: that of the model's training, where it can be meant.

    A range above 255 belongs to samples of more than 8 bits; an 8-bit file would come out black.

    Args:
        trained: a value of --scale, None when none was chosen in training.
        dtype: numpy name of the scene's samples.
        name: the file, for messages.
    """
    choice = parse_scale(trained)
    if isinstance(choice, tuple) and choice[1] > 255 and dtype == "uint8":
        log.warning(
            "%s: its 8-bit samples are used unscaled; in the model's training scenes, %s was scaled to 0..255 "
            "(--scale changes it)",
            name,
            "{:g} to {:g}".format(*choice),
        )
        return "auto"
    return choice


def by_percentiles(choice: ScaleChoice, dtype: str) -> bool:
    """Whether a choice stretches samples of this type by their percentiles."""
    return choice == "percentile" or (choice == "auto" and dtype != "uint8")


def choose_scaling(
    choice: ScaleChoice,
    *,
    dtype: str,
    full_scale: int | None,
    colours: int,
    sample: Callable[[], np.ndarray],
    name: str,
) -> Scaling:
    """Decide how a scene's samples become 0..255.

    Args:
        choice: from `parse_scale`.
        dtype: numpy name of the samples.
        full_scale: largest value when the file stores fewer than 8 bits, else None.
        colours: 3, or 1 for grey.
        sample: gives valid samples of the scene, float [colours, M], M may be 0; only called for percentiles.
        name: the file, for messages.
    """
    if isinstance(choice, tuple):
        low, high = check_range(choice)
        return Scaling("range", (low,) * colours, (high,) * colours)
    if choice == "none":
        return Scaling("none")
    if not by_percentiles(choice, dtype):
        if full_scale is not None:
            return Scaling("range", (0.0,) * colours, (float(full_scale),) * colours)
        return Scaling("uint8")
    values = sample()
    if values.shape[1] == 0:
        log.warning(
            "%s: no valid sample found for percentiles, using values unscaled (--scale LO,HI sets a range)", name
        )
        return Scaling("none")
    low_high = np.percentile(values.astype(np.float64), PERCENTILES, axis=1)  # [2, colours]
    bounds = [_full_range(*_widen(float(low), float(high))) for low, high in low_high.T]
    scaling = Scaling("percentile", tuple(low for low, _ in bounds), tuple(high for _, high in bounds))
    log.info(
        "%s: %s samples are scaled to 0..255 by percentiles: %s",
        name,
        dtype,
        "; ".join(f"{low:g} to {high:g}" for low, high in bounds),
    )
    return scaling


def _full_range(low: float, high: float) -> tuple[float, float]:
    """The samples that become 0 and 255 where `low` and `high` become PERCENTILE_LEVELS."""
    dark, bright = PERCENTILE_LEVELS
    step = (high - low) / (bright - dark)
    return low - dark * step, high + (255 - bright) * step


def _widen(low: float, high: float) -> tuple[float, float]:
    """A flat scene has no range: give it one, so that it becomes black instead of NaN."""
    if high > low:
        return low, high
    return low, low + max(1.0, abs(low) * 1e-3)
