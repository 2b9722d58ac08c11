"""Which ground of a scene its footprints speak of, and which part of that is held back.

Someone who outlines fifty buildings in one corner of a scene says nothing of the others, so only the ground
among the outlines may count as free of further objects. How far it reaches is told by the outlines
themselves: their spacing is the median distance from one to the next (between centres).

- Between outlines: gaps narrower than four spacings are labelled, to the border of the scene too.
- Beyond the outermost ones: half a spacing.

Everything is in pixels of one grid with square ground pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from scipy.spatial import KDTree

from rsprompter_cli.data.tiles.coarse_area import coarse_area
from rsprompter_cli.data.tiles.split import Split, cut_scene, regions_of
from rsprompter_cli.geo.geometry import polygon_parts

COVERED = 0.9
"""Share of a scene from which on the labels are taken to cover all of it."""

_REACH = 2.0
"""Spacings to either side of a gap that is closed."""

_MOST_VERTICES, _MOST_OF_ONE = 10_000, 500
"""Of all outlines and of each; with more they are laid on a grid: growing and uniting them could take minutes."""

_DECIMALS = 3
"""Of a pixel; outlines whose centres differ by less lie on top of one another."""

_ARC = 4
"""Segments of a quarter circle: an area that is estimated needs no smooth outline."""


def labelled_area(polygons: Sequence[Any] | np.ndarray, height: int, width: int, *, tile: int) -> Any:
    """The ground on which every object is taken to be outlined.

    Args:
        polygons: footprints in pixels, at least one of which touches the scene.
        height, width: of the scene.
        tile: side of the model's input, which bounds what the spacing may be: dense and lonely outlines alike.

    Returns:
        A polygon or multipolygon inside the scene; the whole scene when it covers COVERED of it.

    Raises:
        InputError: without the name of the file: the outlines are too long.
    """
    frame = shapely.box(0, 0, width, height)
    array = np.asarray(polygons, dtype=object)
    array = array[shapely.intersects(array, frame)]
    spacing = _spacing(array, tile)
    reach, margin = _REACH * spacing, spacing / 2
    vertices = shapely.get_num_coordinates(array)
    if vertices.sum() > _MOST_VERTICES or vertices.max(initial=0) > _MOST_OF_ONE:
        area = coarse_area(array, height, width, spacing=spacing, reach=reach, margin=margin)
    else:
        area = _grown_area(array, frame, reach, margin)
    return frame if area.area >= COVERED * frame.area else area


def _grown_area(array: np.ndarray, frame: Any, reach: float, margin: float) -> Any:
    """The ground of `labelled_area` with round corners."""
    # The ground beyond the border counts as labelled where a gap between an outline and it is closed.
    beyond = shapely.difference(frame.buffer(3 * reach, join_style="mitre"), frame)
    grown = shapely.union_all([*shapely.buffer(array, reach, quad_segs=_ARC), beyond.buffer(reach, quad_segs=_ARC)])
    closed = shapely.intersection(grown.buffer(-reach, quad_segs=_ARC), frame)
    around = shapely.union_all(shapely.buffer(array, margin, quad_segs=_ARC))
    area = shapely.intersection(shapely.union(closed, around), frame)
    # Closing leaves crumbs in the corners of the frame, where no outline is near.
    parts = [part for part in shapely.get_parts(area) if part.area > 0 and part.intersects(around)]
    return polygon_parts(shapely.union_all(parts))


def _spacing(polygons: np.ndarray, tile: int) -> float:
    """Median distance in pixels from the centre of a footprint to the next one, from 1/16 to 1/2 of a tile."""
    centres = shapely.get_coordinates(shapely.centroid(polygons))
    _, first, which = np.unique(np.round(centres, _DECIMALS), axis=0, return_index=True, return_inverse=True)
    places = centres[first]
    distances = KDTree(places).query(places, k=[2])[0][which, 0] if len(places) > 1 else np.zeros(0)
    median = float(np.median(distances)) if len(distances) else tile / 4
    return float(np.clip(median, tile / 16, tile / 2))


def split_ground(area: Any, centres: np.ndarray, *, share: float, tile: int) -> dict[Split, Any]:
    """Cut an area in two with a straight line, so that the end of its longer side holds a share of the footprints.

    Args:
        area: polygon in pixels.
        centres: float [N, 2], x and y of the footprints in the area, N at least 2.
        share: of the footprints, for validation.
        tile: side of the model's input; each part keeps an eighth of it.

    Returns:
        What trains and what validates, without common ground.
    """
    left, top = np.floor(area.bounds[:2]).astype(int).tolist()
    right, bottom = np.ceil(area.bounds[2:]).astype(int).tolist()
    height, width = bottom - top, right - left
    cut = cut_scene(centres - (left, top), height, width, share, min(tile // 4, max(height, width)))
    if cut is None:
        raise ValueError(f"an area of {width} x {height} px is too small to divide")
    parts: dict[Split, Any] = {}
    for split, (x0, y0, x1, y1) in regions_of(height, width, cut):
        box = shapely.box(left + x0, top + y0, left + x1, top + y1)
        part = polygon_parts(shapely.intersection(area, box))
        if part is not None:
            parts[split] = part
    return parts
