"""Polygons with holes and several parts as one ring, for formats that know no other outline.

All rings are walked in one go: where two come nearest, the way leads over by a channel of no width
and back again. The area stays what it is under both rules of filling, even-odd and non-zero, because
holes run against their exterior.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import Delaunay

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
