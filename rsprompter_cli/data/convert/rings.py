"""Rings of vertices in pixels of an image, between COCO's polygons and formats of one outline for each object."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from pycocotools import mask as coco_mask
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import Delaunay

from rsprompter_cli.data.coco.problems import EntryError
from rsprompter_cli.data.coco.rle import Rle, bounds, decode_crop, overshoot, parse_segmentation, to_rle
from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.polygonize import mask_to_polygon

WITHOUT_AREA = ("no-segmentation", "polygon-flat", "polygon-short")
"""Kinds of EntryError of an object that has nothing to show, and nothing wrong otherwise."""

MAX_CROSSINGS = 200_000
"""Of the edges of an object: hand-drawn outlines cross themselves a few times."""

_EDGES_AT_ONCE = 64

DECIMALS = 3
"""Of a pixel, in what is written: finer than anyone draws, and a thousandth comes back as it went out."""


def ring_polygon(ring: np.ndarray) -> Any:
    """What a ring, float [K, 2], surrounds by the even-odd rule, as COCO fills it; None without area.

    Raises:
        EntryError: it crosses itself more than MAX_CROSSINGS times.
    """
    polygon = shapely.Polygon(ring)
    if polygon.is_valid:
        return polygon_parts(polygon)
    check_crossings(ring)
    return polygon_parts(shapely.make_valid(polygon))


def rings_polygon(rings: Sequence[np.ndarray]) -> Any:
    """The union of what rings surround, as COCO unites the polygons of an object; None without area.

    Raises:
        EntryError: they cross themselves or each other more than MAX_CROSSINGS times.
    """
    parts = [part for ring in rings if (part := ring_polygon(ring)) is not None]
    if len(parts) > 1:
        check_crossings(*rings)
    return polygon_parts(shapely.union_all(parts)) if parts else None


def check_crossings(*rings: np.ndarray) -> None:
    """Refuse rings of which too many edges meet: mending and uniting take time and memory for each pair.

    Edges are compared by their boxes, some at a time, so that counting them stays cheap.
    """
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    # Fewer edges than this cannot meet more often.
    if len(starts) ** 2 <= 2 * MAX_CROSSINGS:
        return
    edges = shapely.linestrings(np.stack([starts, ends], axis=1))
    tree, pairs = shapely.STRtree(edges), 0
    for first in range(0, len(edges), _EDGES_AT_ONCE):
        some = edges[first : first + _EDGES_AT_ONCE]
        near, _ = tree.query(some, predicate="intersects")
        pairs += len(near) - 3 * len(some)  # each edge meets itself and its neighbours
        if pairs > 2 * MAX_CROSSINGS:
            raise EntryError("polygon-crossings", f"polygon crosses itself more than {MAX_CROSSINGS:,} times")


def rle_polygon(rle: Rle) -> Any:
    """The outline of run lengths along pixel edges; None when they cover no pixel.

    Raises:
        EntryError: they are too many, or cover too large an area: see `decode_crop`.
    """
    mask, x, y = decode_crop(rle)
    outline = mask_to_polygon(mask) if mask.any() else None
    return None if outline is None else shapely.transform(outline, lambda points: np.add(points, (x, y)))


def lies_inside(ring: np.ndarray, height: int, width: int) -> bool:
    """Whether no vertex leaves the picture."""
    return overshoot(bounds((ring,)), height, width) == 0


def clip(geometry: Any, height: int, width: int) -> Any:
    """What of a polygon or multipolygon lies in the picture; None when nothing with area does."""
    return polygon_parts(shapely.intersection(geometry, shapely.box(0, 0, width, height)))


def clip_ring(ring: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """The rings that are left of one when the picture ends; itself when it lies inside, none when outside.

    Raises:
        EntryError: it crosses itself more than MAX_CROSSINGS times.
    """
    if lies_inside(ring, height, width):
        return [ring]
    whole = ring_polygon(ring)
    inside = None if whole is None else clip(whole, height, width)
    return [] if inside is None else [to_one_ring(part) for part in shapely.get_parts(inside)]


def coco_fields(rings: Sequence[np.ndarray], height: int, width: int) -> dict[str, Any]:
    """`bbox`, `area` and `segmentation` of a COCO annotation from rings inside the picture.

    The area is that of the mask, in pixels, as everywhere in COCO.

    Raises:
        EntryError: a ring without area, or one that COCO's readers refuse.
    """
    segmentation = [np.round(ring, DECIMALS).ravel().tolist() for ring in rings]
    parsed = parse_segmentation(segmentation, height, width)
    x0, y0, x1, y1 = bounds(parsed)
    return {
        "bbox": [x0, y0, round(x1 - x0, DECIMALS), round(y1 - y0, DECIMALS)],
        "area": int(coco_mask.area(to_rle(parsed, height, width).as_dict())),
        "segmentation": segmentation,
    }


Place = tuple[int, int]
"""A vertex: the number of its ring, and its number in the ring."""


def to_one_ring(geometry: Any) -> np.ndarray:
    """The outline of a polygon or multipolygon as one ring.

    Args:
        geometry: valid, with area.

    Returns:
        float64 [K, 2], not closed: the last vertex is another than the first. A polygon without holes
        keeps its vertices; otherwise those where a channel begins come twice.
    """
    rings = _rings(geometry)
    return rings[0] if len(rings) == 1 else _walk(rings, _channels(rings))


def count_rings(geometry: Any) -> int:
    """Exteriors and holes of a polygon or multipolygon."""
    return int(shapely.get_num_geometries(geometry) + sum(shapely.get_num_interior_rings(shapely.get_parts(geometry))))


def _rings(geometry: Any) -> list[np.ndarray]:
    """Exteriors and holes, each float64 [K, 2] without its closing vertex, holes turning the other way."""
    turned = shapely.orient_polygons(geometry)
    lines = [line for part in shapely.get_parts(turned) for line in (part.exterior, *part.interiors)]
    return [shapely.get_coordinates(line)[:-1] for line in lines]


def _channels(rings: Sequence[np.ndarray]) -> Mapping[Place, list[Place]]:
    """Which vertices are joined so that all rings hang together by the shortest channels, both ways.

    The shortest line between two sets of points is an edge of their Delaunay triangulation, so only its
    edges are looked at, whatever the number of rings.
    """
    points = np.concatenate(rings)
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    number = np.concatenate([np.arange(len(ring)) for ring in rings])
    triangulation = Delaunay(points - points.mean(axis=0))
    corners = triangulation.simplices
    # Points that are too near to another to be a corner of their own: joined with that one.
    doubles = triangulation.coplanar[:, [0, 2]]
    edges = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]], doubles]).astype(np.int64)
    edges = edges[owner[edges[:, 0]] != owner[edges[:, 1]]]
    length = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    sides = np.sort(owner[edges], axis=1)
    # The shortest edge of each pair of rings; ties by the vertices, so that the result is one.
    order = np.lexsort((edges[:, 1], edges[:, 0], length, sides[:, 1], sides[:, 0]))
    edges, length, sides = edges[order], length[order], sides[order]
    first = np.append(True, (sides[1:] != sides[:-1]).any(axis=1))
    edges, length, sides = edges[first], length[first], sides[first]
    # 1 more, because a length of 0 would be no edge to scipy; the shortest tree is the same.
    graph = coo_array((length + 1, (sides[:, 0], sides[:, 1])), shape=(len(rings), len(rings)))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    edge_of = {(int(a), int(b)): edge for (a, b), edge in zip(sides, edges, strict=True)}
    channels: dict[Place, list[Place]] = defaultdict(list)
    for pair in sorted(zip(tree.row.tolist(), tree.col.tolist(), strict=True)):
        one, other = ((int(owner[v]), int(number[v])) for v in edge_of[pair])
        channels[one].append(other)
        channels[other].append(one)
    return channels


def _walk(rings: Sequence[np.ndarray], channels: Mapping[Place, list[Place]]) -> np.ndarray:
    """All vertices in the order of one walk around the first ring, leaving it by every channel."""
    points: list[np.ndarray] = []
    entered = {0}
    # What is still to do, last first: a step on a ring (its number, where it was entered, steps done), or a return.
    todo: list[tuple[int, int, int] | np.ndarray] = [(0, 0, 0)]
    while todo:
        step = todo.pop()
        if isinstance(step, np.ndarray):
            points.append(step)
            continue
        ring, start, done = step
        vertex = (start + done) % len(rings[ring])
        points.append(rings[ring][vertex])
        if done == len(rings[ring]):
            continue
        todo.append((ring, start, done + 1))
        for other, entry in channels.get((ring, vertex), ()):
            if other not in entered:
                entered.add(other)
                todo += [rings[ring][vertex], (other, entry, 0)]
    return np.array(points[:-1])
