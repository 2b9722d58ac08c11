"""Which ground trains and which validates: whole scenes, or two blocks of one scene, never random tiles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import shapely

from rsprompter_cli.errors import UsageError
from rsprompter_cli.geo.windows import Box

logger = logging.getLogger(__name__)

Split = Literal["train", "val"]


class Cut(NamedTuple):
    """A straight line through a scene; what lies before it trains, the rest validates.

    axis: 0 for a horizontal line (the scene is higher than wide), 1 for a vertical one.
    share: its place as a part of that side, so that it is the same on the ground at any resolution.
    """

    axis: Literal[0, 1]
    share: float


def assign_splits(
    scenes: Sequence[Path], *, split: Split | None, val_scenes: Sequence[str], val: float | None
) -> list[Split | float]:
    """The split of each scene, or the share of its footprints that a block of it validates with.

    Args:
        split: all scenes go there.
        val_scenes: paths, file names or stems of scenes that validate; the others train.
        val: share that each scene gives for validation; None: 0.2 unless one of the above is given.

    Raises:
        UsageError: contradicting wishes, or a name that fits no scene or several.
    """
    if (split is not None) + bool(val_scenes) + (val is not None) > 1:
        raise UsageError("--split, --val-scene and --val are mutually exclusive")
    if val is not None and not 0 <= val < 1:
        raise UsageError(f"--val {val}: must be a share of the footprints, at least 0 and below 1")
    if split is not None:
        return [split] * len(scenes)
    if not val_scenes:
        share = 0.2 if val is None else val
        return [share or "train"] * len(scenes)
    chosen = set()
    for name in val_scenes:
        fits = [i for i, scene in enumerate(scenes) if name in (str(scene), scene.name, scene.stem)]
        if len(fits) != 1:
            problem = "matches none of the scenes" if not fits else f"matches {len(fits)} scenes"
            raise UsageError(f"--val-scene {name}: {problem}", "scenes: " + ", ".join(map(str, scenes)))
        chosen.update(fits)
    if len(chosen) == len(scenes):
        raise UsageError("--val-scene names all scenes, so none is left for training", "use --split val")
    return ["val" if i in chosen else "train" for i in range(len(scenes))]


def cut_scene(centres: np.ndarray, height: int, width: int, share: float, tile: int) -> Cut | None:
    """Where to cut a scene so that its end holds about a share of the footprints.

    The line crosses the longer side, so that it is short. Without footprints the share is that of the
    area. Both parts keep at least half a tile.

    Args:
        centres: float [N, 2], x and y of the footprints in pixels of the working grid.

    Returns:
        None when the longer side is shorter than a tile: such a scene has nothing to cut.
    """
    axis: Literal[0, 1] = 0 if height > width else 1
    length = (height, width)[axis]
    if length < tile:
        return None
    along = np.sort(centres[:, 1 - axis])
    place = length * (1 - share)
    if len(along):
        # Between two neighbouring footprints, so that the numbers fit whatever their spacing.
        before = min(max(round(len(along) * (1 - share)), 1), len(along) - 1) if len(along) > 1 else 0
        place = (along[before - 1] + along[before]) / 2 if before else place
    return Cut(axis, float(np.clip(place, tile / 2, length - tile / 2)) / length)


def regions_of(height: int, width: int, cut: Cut) -> list[tuple[Split, Box]]:
    """The two parts of a scene; they share no pixel."""
    length = (height, width)[cut.axis]
    at = min(max(round(length * cut.share), 1), length - 1)
    if cut.axis == 0:
        return [("train", (0, 0, width, at)), ("val", (0, at, width, height))]
    return [("train", (0, 0, at, height)), ("val", (at, 0, width, height))]


def warn_of_shared_ground(areas: Sequence[tuple[Path, Split, Any]]) -> None:
    """Warn when a training and a validation scene overlap, which makes figures too high.

    Args:
        areas: per whole scene its path, split and outline in degrees.
    """
    for path, split, outline in areas:
        for other, other_split, other_outline in areas:
            if (split, other_split) != ("train", "val"):
                continue
            common = shapely.intersection(outline, other_outline).area
            # A hundredth: mosaics cut from one flight share a seam.
            if common > 0.01 * min(outline.area, other_outline.area):
                logger.warning(
                    "%s (train) and %s (val) overlap on the ground, so validation figures will be too high", path, other
                )
