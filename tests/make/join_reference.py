"""The rule of joining written plainly, one object after another and the whole scene at once.

Slow, and kept apart from the package on purpose: `geo.stitch.joiner` computes the same with arrays and row by
row, and is compared with this.

1. `link_windows`: which instances of two overlapping windows are the same object.
2. `compose`: the polygon of a linked set; each point is decided by the window whose core holds it.
3. `settle`: where objects of different windows still overlap, the better placed one keeps the ground.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import shapely

from rsprompter_cli.geo.geometry import GRID, drop_specks, polygon_parts
from rsprompter_cli.geo.polygonize import MIN_PIECE
from rsprompter_cli.geo.stitch.instances import Instance, JoinedInstance, Key
from rsprompter_cli.geo.windows import Window, WindowGrid

MIN_LINK_IOU = 0.5
"""In the strip that two windows share, two views of one object agree at least this much."""

MIN_REMAINING = 0.5
"""An object that loses more than this share of its area to better placed ones was a copy of them."""

CUT_MARGIN = 1.0
"""Pixels: a mask that ends this close to a window edge goes on beyond it."""


class SceneEdges(NamedTuple):
    """Which sides of a window lie where the pixels to look at end, in the order of a box."""

    left: bool
    top: bool
    right: bool
    bottom: bool


class Part(NamedTuple):
    """What one window contributes to an object."""

    window: tuple[int, int]
    polygon: Any


@dataclass(frozen=True, eq=False, slots=True)
class Candidate:
    """A linked set before it is settled with its neighbours.

    polygon: union of the parts.
    cut: it goes on where no member could see.
    core_share: part of its area in the cores of its own windows, in steps of 0.01 (0..100).
    """

    polygon: Any
    label: int
    score: float
    members: tuple[Key, ...]
    parts: tuple[Part, ...]
    cut: bool
    core_share: int
    quality: float | None = None

    @property
    def rank(self) -> tuple[bool, int, float, Key]:
        """Sorts the better placed first."""
        return self.cut, -self.core_share, -self.score, self.members[0]


def join(instances: Iterable[Instance], grid: WindowGrid) -> list[JoinedInstance]:
    """Join the instances of all windows of a scene.

    Args:
        instances: in any order; polygons are snapped to 1/256 px first.
        grid: the windows they come from.

    Returns:
        Objects sorted by key; the same bytes for any order of the instances.

    Raises:
        ValueError: two instances with one key.
    """
    ordered = sorted(_snapped(instances), key=lambda instance: instance.key)
    places = {instance.key: place for place, instance in enumerate(ordered)}
    if len(places) != len(ordered):
        raise ValueError("two instances have the same window and index")
    by_window: dict[tuple[int, int], list[Instance]] = defaultdict(list)
    for instance in ordered:
        by_window[instance.window_row, instance.window_col].append(instance)
    sets = _Sets(len(ordered))
    for (row, col), seen in by_window.items():
        window = grid.window(row, col)
        for other in overlapping(grid, window):
            if other > window and (other.row, other.col) in by_window:
                for first, second in link_windows(seen, by_window[other.row, other.col], window, other):
                    sets.unite(places[first], places[second])
    composed = (compose([ordered[place] for place in members], grid) for members in sets.groups())
    return settle([candidate for candidate in composed if candidate is not None])


def overlapping(grid: WindowGrid, window: Window) -> Iterator[Window]:
    """The other windows that share pixels with this one, in row-major order."""
    x0, y0, x1, y1 = window.box
    # Two steps, not one: the last window, shifted inside, can reach over its neighbour.
    for row in range(max(0, window.row - 2), min(grid.rows, window.row + 3)):
        for col in range(max(0, window.col - 2), min(grid.cols, window.col + 3)):
            other = grid.window(row, col)
            a0, b0, a1, b1 = other.box
            if other != window and x0 < a1 and a0 < x1 and y0 < b1 and b0 < y1:
                yield other


def scene_edges(grid: WindowGrid, window: Window) -> SceneEdges:
    """Which sides of the window nothing lies beyond."""
    return SceneEdges(*(side == end for side, end in zip(window.box, grid.extent, strict=True)))


def link_windows(
    first: Sequence[Instance], second: Sequence[Instance], first_window: Window, second_window: Window
) -> list[tuple[Key, Key]]:
    """Pairs of instances of two overlapping windows that show one object.

    Inside the strip that the windows share, the connected pieces of the instances are compared class
    by class. Two instances are linked when pieces of theirs are each other's best partner and agree
    with an IoU of at least MIN_LINK_IOU. Containment is no reason: a hut beside a hall is inside
    every mask that swallowed both.

    Args:
        first, second: the instances of the two windows, in key order.
        first_window, second_window: where these windows lie.
    """
    strip = _common(first_window, second_window)
    links: set[tuple[Key, Key]] = set()
    for label in sorted({instance.label for instance in first} & {instance.label for instance in second}):
        pieces_a, owners_a = _pieces_inside(first, label, strip)
        pieces_b, owners_b = _pieces_inside(second, label, strip)
        if len(pieces_a) == 0 or len(pieces_b) == 0:
            continue
        a, b = shapely.STRtree(pieces_b).query(pieces_a, predicate="intersects")
        shared = shapely.area(shapely.intersection(pieces_a[a], pieces_b[b]))
        iou = np.round(shared / (shapely.area(pieces_a[a]) + shapely.area(pieces_b[b]) - shared), 9)
        best_of_a, best_of_b = _best(a, b, iou), _best(b, a, iou)
        for i, j, agreement in zip(a.tolist(), b.tolist(), iou, strict=True):
            if agreement >= MIN_LINK_IOU and best_of_a[i] == j and best_of_b[j] == i:
                links.add((owners_a[i].key, owners_b[j].key))
    return sorted(links)


def compose(members: Sequence[Instance], grid: WindowGrid) -> Candidate | None:
    """The polygon of a linked set, or of one unlinked instance.

    Each point is decided by the member whose core holds it; where no member's core does, it belongs
    to the object when any member says so.

    Args:
        members: in key order, one class.
        grid: the windows they come from.

    Returns:
        None for a single instance that is cut and has no area in its own core: the window whose
        core it lies in saw more of it, or nothing there.
    """
    windows = {(m.window_row, m.window_col): grid.window(m.window_row, m.window_col) for m in members}
    cut = _is_cut(members, windows, grid)
    parts, in_cores = _parts(members, {place: shapely.box(*grid.core(w)) for place, w in windows.items()})
    if len(members) == 1 and cut and in_cores == 0:
        return None
    polygon = polygon_parts(_union([part.polygon for part in parts]))
    if polygon is None:
        return None
    return Candidate(
        polygon=polygon,
        label=members[0].label,
        score=max(member.score for member in members),
        members=tuple(member.key for member in members),
        parts=parts,
        cut=cut,
        core_share=round(100 * in_cores / polygon.area),
        quality=max((member.quality for member in members if member.quality is not None), default=None),
    )


def settle(candidates: Sequence[Candidate]) -> list[JoinedInstance]:
    """Share out the ground that objects of one class claim from different windows.

    In the order of their rank (uncut first, then the share of area in own cores, score, key) each
    loses what better ranked objects hold from other windows, and goes when less than MIN_REMAINING
    of it is left. Overlaps inside one window are the model's own and stay.

    Args:
        candidates: every candidate that touches one of these must be among them.

    Returns:
        What remains, sorted by key.
    """
    settled: list[JoinedInstance] = []
    for label in sorted({candidate.label for candidate in candidates}):
        ranked = sorted((c for c in candidates if c.label == label), key=lambda candidate: candidate.rank)
        kept: dict[int, Candidate] = {}
        tree = shapely.STRtree([candidate.polygon for candidate in ranked])
        for place, candidate in enumerate(ranked):
            near = sorted(other for other in tree.query(candidate.polygon).tolist() if other in kept)
            remaining = _without(candidate, [kept[other] for other in near])
            if remaining is not None:
                kept[place] = remaining
        settled += [
            JoinedInstance(
                shapely.normalize(drop_collinear(c.polygon)), c.label, c.score, c.members[0], c.members, c.quality
            )
            for c in kept.values()
        ]
    return sorted(settled, key=lambda joined: joined.key)


def _parts(members: Sequence[Instance], cores: dict[tuple[int, int], Any]) -> tuple[tuple[Part, ...], float]:
    """What each window contributes to a linked set, and the area of the set that lies in their cores."""
    if len(cores) == 1:  # nobody to share with: the core decides nothing
        ((place, core),) = cores.items()
        seen = _union([member.polygon for member in members])
        inside = seen if shapely.covers(core, seen) else shapely.intersection(seen, core, grid_size=GRID)
        return (Part(place, seen),), inside.area
    all_cores = _union(list(cores.values()))
    parts: list[Part] = []
    in_cores = 0.0
    for place, core in cores.items():
        seen = _union([m.polygon for m in members if (m.window_row, m.window_col) == place])
        inside = shapely.intersection(seen, core, grid_size=GRID)
        in_cores += inside.area
        part = polygon_parts(_union([inside, shapely.difference(seen, all_cores, grid_size=GRID)]))
        if part is not None:
            parts.append(Part(place, part))
    return tuple(parts), in_cores


def _without(candidate: Candidate, better: Sequence[Candidate]) -> Candidate | None:
    """A candidate without the ground that better ranked ones hold from other windows."""
    parts: list[Part] = []
    lost = False
    for part in candidate.parts:
        held = [
            other.polygon
            for holder in better
            for other in holder.parts
            if other.window != part.window and _share_ground(other.polygon, part.polygon)
        ]
        left = shapely.difference(part.polygon, _union(held), grid_size=GRID) if held else part.polygon
        lost = lost or left.area < part.polygon.area
        geometry = polygon_parts(left)
        if geometry is not None:
            parts.append(Part(part.window, geometry))
    if not lost:
        return candidate
    polygon = drop_specks(polygon_parts(_union([part.polygon for part in parts])), MIN_PIECE)
    if polygon is None or polygon.area < MIN_REMAINING * candidate.polygon.area:
        return None
    return replace(candidate, polygon=polygon, parts=tuple(parts))


def _share_ground(one: Any, other: Any) -> bool:
    return bool(shapely.intersects(one, other) and not shapely.touches(one, other))


def _is_cut(members: Sequence[Instance], windows: dict[tuple[int, int], Window], grid: WindowGrid) -> bool:
    """Whether an object reaches an edge that is not the scene's and beyond which no other member looks."""
    for member in members:
        window = windows[member.window_row, member.window_col]
        x0, y0, x1, y1 = window.box
        a0, b0, a1, b1 = member.polygon.bounds
        edges = scene_edges(grid, window)
        sides = (
            (a0 < x0 + CUT_MARGIN and not edges.left, (x0, y0, x0 + CUT_MARGIN, y1)),
            (b0 < y0 + CUT_MARGIN and not edges.top, (x0, y0, x1, y0 + CUT_MARGIN)),
            (a1 > x1 - CUT_MARGIN and not edges.right, (x1 - CUT_MARGIN, y0, x1, y1)),
            (b1 > y1 - CUT_MARGIN and not edges.bottom, (x0, y1 - CUT_MARGIN, x1, y1)),
        )
        others = [shapely.box(*other.box) for other in windows.values() if other != window]
        for reached, strip in sides:
            if not reached:
                continue
            end = shapely.intersection(member.polygon, shapely.box(*strip))
            if not any(shapely.covers(other, end) for other in others):
                return True
    return False


def _pieces_inside(instances: Sequence[Instance], label: int, strip: Any) -> tuple[np.ndarray, list[Instance]]:
    """Connected pieces with area of the instances of a class inside a strip, and whose they are."""
    x0, y0, x1, y1 = strip.bounds
    chosen = []
    for instance in instances:
        a0, b0, a1, b1 = instance.polygon.bounds
        if instance.label == label and a0 < x1 and x0 < a1 and b0 < y1 and y0 < b1:
            chosen.append(instance)
    polygons = np.array([instance.polygon for instance in chosen], dtype=object)
    pieces, owners = shapely.get_parts(shapely.intersection(polygons, strip), return_index=True)
    # A geometry collection (an edge along the border of the strip) has one more level.
    pieces, inner = shapely.get_parts(pieces, return_index=True)
    with_area = shapely.area(pieces) > 0
    return pieces[with_area], [chosen[owner] for owner in owners[inner][with_area]]


def _best(of: np.ndarray, partners: np.ndarray, iou: np.ndarray) -> dict[int, int]:
    """For each piece the partner with the highest IoU, the first in key order among equals."""
    best: dict[int, int] = {}
    for place in np.lexsort((partners, -iou, of)).tolist():
        best.setdefault(int(of[place]), int(partners[place]))
    return best


def _common(first: Window, second: Window) -> Any:
    a, b = first.box, second.box
    return shapely.box(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))


def _union(polygons: Sequence[Any]) -> Any:
    return polygons[0] if len(polygons) == 1 else shapely.union_all(list(polygons), grid_size=GRID)


def snap(geometry: Any) -> Any:
    """A geometry on the grid of 1/256 pixel, valid there; None when nothing with area is left."""
    sound = polygon_parts(geometry)
    if sound is None:
        return None
    steps = shapely.get_coordinates(sound) / GRID
    return sound if (steps == np.round(steps)).all() else polygon_parts(shapely.set_precision(sound, GRID))


def drop_collinear(geometry: Any) -> Any:
    """The same polygon or multipolygon without the vertices that lie exactly on the line of their neighbours."""
    parts = [
        shapely.Polygon(_corners(part.exterior), [_corners(hole) for hole in part.interiors])
        for part in shapely.get_parts(geometry)
    ]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _corners(ring: Any) -> np.ndarray:
    xy = shapely.get_coordinates(ring)[:-1]
    before, after = xy - np.roll(xy, 1, axis=0), np.roll(xy, -1, axis=0) - xy
    return xy[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _snapped(instances: Iterable[Instance]) -> Iterator[Instance]:
    for instance in instances:
        polygon = snap(instance.polygon)
        if polygon is not None:  # on the grid, but not bound to it: IoUs are not rounded
            yield replace(instance, polygon=shapely.set_precision(polygon, 0, mode="pointwise"))


class _Sets:
    """Disjoint sets over 0..n-1; the smallest number of a set names it."""

    def __init__(self, count: int) -> None:
        """Every number is a set of its own."""
        self._parent = list(range(count))

    def unite(self, a: int, b: int) -> None:
        a, b = sorted((self._root(a), self._root(b)))
        self._parent[b] = a

    def groups(self) -> list[list[int]]:
        """The sets, and in each its numbers, in order."""
        groups: dict[int, list[int]] = defaultdict(list)
        for number in range(len(self._parent)):
            groups[self._root(number)].append(number)
        return list(groups.values())

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number
