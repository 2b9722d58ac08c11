"""Sharing out the ground that objects of one class claim from different windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely

from rsprompter_cli.geo.geometry import GRID, drop_specks, expand, meet, union_groups, with_area
from rsprompter_cli.geo.polygonize import MIN_PIECE
from rsprompter_cli.geo.stitch.compose import Candidates, Parts

MIN_REMAINING = 0.5
"""An object that loses more than this share of its area to better placed ones was a copy of them."""


def resolve_overlaps(
    candidates: Candidates, parts: Parts, first: np.ndarray, second: np.ndarray, blocked: np.ndarray
) -> tuple[Candidates, Parts, np.ndarray]:
    """Share out the ground, in the order of rank: uncut first, then the share of area in own cores, score, key.

    Each loses what better ranked objects of its class hold from other windows, and goes when less than
    MIN_REMAINING of it is left. Overlaps inside one window are the model's own and stay.

    Args:
        candidates: some settled already.
        parts: theirs; those that were given up have none.
        first, second: positions of neighbours among the candidates, in one order each; every two that
            have ground in common are such a pair.
        blocked: bool [C], not to be settled now: something may come that touches them.

    Returns:
        The candidates and their parts as they are now, and the positions of those settled by this call
        that remain; the others have no polygon any more.
    """
    rank = _ranks(candidates)
    swap = rank[first] > rank[second]
    better, worse = np.where(swap, second, first), np.where(swap, first, second)
    settled, polygon = candidates.settled.copy(), candidates.polygon.copy()
    already = settled.copy()
    waits = np.zeros(len(candidates), bool)
    while True:
        waits[:] = settled | blocked
        waits[worse[~settled[better]]] = True
        ready = ~waits
        if not ready.any():
            break
        asked = ready[worse] & ~shapely.is_missing(polygon)[better]
        parts = _give_way(candidates, polygon, parts, better[asked], worse[asked], rank)
        settled |= ready
        open_pairs = ~settled[worse]
        better, worse = better[open_pairs], worse[open_pairs]
    remaining = np.flatnonzero(settled & ~already & ~shapely.is_missing(polygon))
    return replace(candidates, settled=settled, polygon=polygon), parts, remaining


def _ranks(candidates: Candidates) -> np.ndarray:
    """int [C]: 0 for the best placed."""
    order = np.lexsort((candidates.first, -candidates.score, -candidates.core_share, candidates.cut))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _give_way(
    candidates: Candidates, polygon: np.ndarray, parts: Parts, better: np.ndarray, worse: np.ndarray, rank: np.ndarray
) -> Parts:
    """Take from some candidates what better ones hold; `polygon` is changed, the parts are given back.

    Args:
        candidates, polygon: all, and what they are now.
        parts: of all.
        better, worse: positions of neighbours; the better ones are settled and remain.
        rank: of all.
    """
    mine, theirs = _contested(candidates, parts, better, worse, rank)
    if len(mine) == 0:
        return parts
    places, group = np.unique(mine, return_inverse=True)
    held = union_groups(parts.polygon[theirs], group, len(places))
    left = shapely.difference(parts.polygon[places], held, grid_size=GRID)
    lost = shapely.area(left) < shapely.area(parts.polygon[places])
    losers = np.unique(parts.owner[places[lost]])
    now = parts.polygon.copy()
    changed = places[np.isin(parts.owner[places], losers)]
    now[changed] = with_area(left[np.searchsorted(places, changed)])
    keep = ~shapely.is_missing(now)
    for loser in losers.tolist():
        place = int(np.searchsorted(candidates.number, loser))
        own = np.arange(*np.searchsorted(parts.owner, [loser, loser + 1]))
        rest = [part for part in now[own] if part is not None]
        polygon[place] = _what_remains(rest, shapely.area(polygon[place]))
        if polygon[place] is None:
            keep[own] = False
    return Parts(parts.owner[keep], parts.window[keep], now[keep])


def _contested(
    candidates: Candidates, parts: Parts, better: np.ndarray, worse: np.ndarray, rank: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of parts of worse and of better candidates, of different windows, that have ground in common."""
    order = np.lexsort((rank[better], worse))
    better, worse = better[order], worse[order]
    starts = np.searchsorted(parts.owner, candidates.number)
    counts = np.searchsorted(parts.owner, candidates.number, side="right") - starts
    pair, mine, theirs = expand(counts[worse], counts[better])
    mine, theirs = mine + starts[worse[pair]], theirs + starts[better[pair]]
    keep = parts.window[mine] != parts.window[theirs]
    mine, theirs = mine[keep], theirs[keep]
    bounds = shapely.bounds(parts.polygon).reshape(-1, 4)
    keep = meet(bounds[mine], bounds[theirs])
    mine, theirs = mine[keep], theirs[keep]
    one, other = parts.polygon[mine], parts.polygon[theirs]
    keep = shapely.intersects(one, other)
    keep[keep] = ~shapely.touches(one[keep], other[keep])
    order = np.argsort(mine[keep], kind="stable")
    return mine[keep][order], theirs[keep][order]


def _what_remains(parts: list[shapely.Geometry], area_before: float) -> shapely.Geometry | None:
    """The union of parts without specks, or None when it is under MIN_REMAINING of what it was."""
    if not parts:
        return None
    union = parts[0] if len(parts) == 1 else shapely.union_all(parts, grid_size=GRID)
    (polygon,) = with_area(np.array([union], dtype=object))
    polygon = drop_specks(polygon, MIN_PIECE)
    return None if polygon is None or polygon.area < MIN_REMAINING * area_before else polygon
