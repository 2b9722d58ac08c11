"""Masks to polygons: round trips, edges, frames, holes, validity."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.features import rasterize
from shapely import MultiPolygon, Polygon, box

from rsprompter_cli.geo.geometry import (
    GRID,
    drop_specks,
    object_array,
    polygon_parts,
    simplify,
    snapped,
    without_collinear,
)
from rsprompter_cli.geo.polygonize import mask_to_polygon, masks_to_polygons, pixel_polygons
from rsprompter_cli.structures import MaskFrame
from tests.make.join_reference import drop_collinear


def burn(geometry: object, size: tuple[int, int]) -> np.ndarray:
    return rasterize([geometry], out_shape=size).astype(bool)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def square_frame(size: int) -> MaskFrame:
    return MaskFrame((size, size), (size, size), (size, size))


def bilinear(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float [h, w] to [H, W] with half-pixel centres and clamped edges, axis by axis."""
    for axis, length in enumerate(size):
        samples = values.shape[axis]
        places = ((np.arange(length) + 0.5) * samples / length - 0.5).clip(0, samples - 1)
        low = np.floor(places).astype(int).clip(0, max(samples - 2, 0))
        share = (places - low).reshape([-1, 1] if axis == 0 else [1, -1])
        high = np.minimum(low + 1, samples - 1)
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


def inflate(values: np.ndarray, threshold: float, frame: MaskFrame) -> np.ndarray:
    full = bilinear(values, frame.padded)[: frame.content[0], : frame.content[1]]
    return bilinear(full, frame.image) >= threshold


def logits_of(distance: object, h: int, frame: MaskFrame) -> np.ndarray:
    """Signed distance logits sampled at the centres of the low-resolution samples; distance(x, y) in image px."""
    y, x = np.meshgrid(*[(np.arange(h) + 0.5) * p / h for p in frame.padded], indexing="ij")
    return distance(x * frame.image[1] / frame.content[1], y * frame.image[0] / frame.content[0])  # type: ignore[operator]


# --- contours of low-resolution maps --------------------------------------------------------------


@pytest.mark.parametrize("radius", [20, 33, 80])
@pytest.mark.parametrize(
    "frame",
    [
        square_frame(256),
        MaskFrame((1024, 1024), (1024, 700), (512, 350)),
        MaskFrame((256, 256), (200, 256), (300, 384)),
    ],
)
def test_round_trip_of_logit_contours(radius: float, frame: MaskFrame) -> None:
    height, width = frame.image
    cx, cy = width * 0.5 + 3.3, height * 0.45 - 1.7

    def disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return radius - np.hypot(x - cx, y - cy)

    values = logits_of(disc, 128, frame)
    (polygon,) = masks_to_polygons(values[None].astype(np.float32), 0.0, frame=frame)
    assert iou(burn(polygon, frame.image), inflate(values, 0.0, frame)) >= 0.99
    truth = shapely.Point(cx, cy).buffer(radius, quad_segs=64).intersection(box(0, 0, width, height))
    assert polygon.symmetric_difference(truth).area < 0.02 * truth.area
    assert polygon.centroid.distance(truth.centroid) < 0.05


def test_a_coarse_map_is_followed_inside_its_cells() -> None:
    """17 image pixels per sample: the contour bends where the upsampled mask does."""
    frame = MaskFrame((256, 256), (194, 256), (824, 846))
    values = logits_of(lambda x, y: 27 - np.hypot(x - 56, (y - 693) * 1.3), 64, frame)
    (polygon,) = masks_to_polygons(values[None], 0.0, frame=frame)
    assert iou(burn(polygon, frame.image), inflate(values, 0.0, frame)) >= 0.985


def test_rotated_rectangle_with_a_hole_keeps_both_to_a_fraction_of_a_pixel() -> None:
    frame = square_frame(512)

    def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = 0.8 * (x - 250) + 0.6 * (y - 260), -0.6 * (x - 250) + 0.8 * (y - 260)
        outer = np.minimum(120 - np.abs(u), 60 - np.abs(v))
        inner = np.minimum(50 - np.abs(u), 20 - np.abs(v))
        return np.minimum(outer, -inner)

    values = logits_of(ring, 128, frame)
    (polygon,) = masks_to_polygons(values[None], 0.0, frame=frame)
    assert polygon.geom_type == "Polygon"
    assert len(polygon.interiors) == 1
    assert polygon.area == pytest.approx(240 * 120 - 100 * 40, rel=5e-3)
    assert iou(burn(polygon, frame.image), inflate(values, 0.0, frame)) >= 0.99


@pytest.mark.parametrize("frame", [square_frame(64), MaskFrame((64, 64), (40, 64), (100, 160))])
def test_objects_at_the_edge_reach_exactly_the_edge(frame: MaskFrame) -> None:
    height, width = frame.image
    values = np.full((3, 16, 16), 5.0, np.float32)
    values[1, :, 8:] = -5.0
    values[2, 2:, :] = -5.0
    whole, left, top = masks_to_polygons(values, 0.0, frame=frame)
    assert whole.equals(box(0, 0, width, height))
    assert left.bounds == (0, 0, width / 2, height)
    assert top.bounds[:3] == (0, 0, width)


def test_a_window_and_its_neighbour_meet_without_a_gap() -> None:
    """Each sees its half of a wall; both halves end on the common edge."""
    frame = square_frame(64)
    values = np.full((1, 32, 32), -4.0, np.float32)
    values[0, 10:20, :] = 4.0
    (left,) = masks_to_polygons(values, 0.0, frame=frame)
    right = shapely.transform(left, lambda xy: xy + np.array([64, 0]))
    both = shapely.union(left, right)
    assert both.geom_type == "Polygon"
    assert both.area == 2 * left.area


def test_nothing_everything_and_odd_values() -> None:
    values = np.full((5, 8, 8), -3.0, np.float32)
    values[1] = 0.0  # the threshold itself is inside
    values[2] = np.nan
    values[3, 2:6, 2:6] = np.inf
    values[4] = -np.inf
    values[4, 3:5, 3:5] = 2.0
    nothing, everything, undefined, infinite, small = masks_to_polygons(values, 0.0, frame=square_frame(80))
    assert nothing is None
    assert everything.equals(box(0, 0, 80, 80))
    assert undefined is None
    assert 35 < np.sqrt(infinite.area) < 60
    assert small.area > 0
    assert masks_to_polygons(np.zeros((0, 4, 4), np.float32), 0.5, frame=square_frame(8)) == []


def test_specks_go_and_large_pieces_stay_together() -> None:
    values = np.full((2, 64, 64), -4.0, np.float32)
    values[0, 10:30, 10:30] = 4.0
    values[0, 40:60, 10:30] = 4.0
    values[0, 5, 50] = 4.0  # one sample: about one pixel
    values[0, 20, 20] = -4.0  # one sample hole
    values[1, 7, 7] = 0.5  # nothing but a speck: kept, it is the largest piece
    both, speck = masks_to_polygons(values, 0.0, frame=square_frame(64))
    assert both.geom_type == "MultiPolygon"
    assert len(both.geoms) == 2
    assert all(len(part.interiors) == 0 for part in both.geoms)
    assert speck.area > 0
    exact, _ = masks_to_polygons(values, 0.0, frame=square_frame(64), min_piece=0)
    assert len(exact.geoms) == 3
    assert sum(len(part.interiors) for part in exact.geoms) == 1


@settings(max_examples=120, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-2, 2)),
    st.sampled_from([square_frame(9), MaskFrame((64, 64), (64, 33), (100, 51)), MaskFrame((32, 32), (5, 32), (1, 7))]),
    st.sampled_from([-1.0, 0.0, 0.5]),
)
def test_contours_are_valid_inside_and_on_the_grid(values: np.ndarray, frame: MaskFrame, threshold: float) -> None:
    """Whole numbers meet the threshold at samples and saddles, where contours degenerate."""
    (polygon,) = masks_to_polygons(values[None], threshold, frame=frame)
    if polygon is None:
        return
    assert polygon.geom_type in ("Polygon", "MultiPolygon")
    assert polygon.is_valid
    assert polygon.area > 0
    x0, y0, x1, y1 = polygon.bounds
    assert min(x0, y0) >= 0
    assert x1 <= frame.image[1]
    assert y1 <= frame.image[0]
    coordinates = shapely.get_coordinates(polygon) / GRID
    assert (coordinates == np.round(coordinates)).all()


# --- exact pixel edges ----------------------------------------------------------------------------

masks = hnp.arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=100, deadline=None)
@given(masks)
def test_pixel_edges_are_exact(stack: np.ndarray) -> None:
    for mask, polygon in zip(stack, pixel_polygons(stack), strict=True):
        assert shapely.to_wkb(polygon) == shapely.to_wkb(mask_to_polygon(mask))  # drawn together or alone
        if polygon is None:
            assert not mask.any()
            continue
        assert polygon.is_valid
        assert polygon.area == mask.sum()
        assert (burn(polygon, mask.shape) == mask).all()
        assert polygon.equals(mask_to_polygon(mask))


def test_many_overlapping_masks() -> None:
    stack = np.zeros((40, 30, 30), bool)
    for number in range(40):
        stack[number, number % 20 : number % 20 + 10, 5:25] = True
    for mask, polygon in zip(stack, pixel_polygons(stack), strict=True):
        rows = np.flatnonzero(mask.any(1))
        assert polygon.equals(box(5, rows[0], 25, rows[-1] + 1))


def test_corner_neighbours_are_two_pieces_and_a_hole_stays() -> None:
    assert len(mask_to_polygon(np.eye(2, dtype=bool)).geoms) == 2
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    assert len(mask_to_polygon(ring).interiors) == 1
    assert mask_to_polygon(np.zeros((3, 3), bool)) is None


# --- cleaning -------------------------------------------------------------------------------------


def test_polygon_parts_mends_what_it_is_given() -> None:
    bow_tie = Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    mended = polygon_parts(bow_tie)
    assert mended.is_valid
    assert mended.area == 2
    mixed = shapely.GeometryCollection([box(0, 0, 1, 1), shapely.LineString([(0, 0), (5, 5)]), box(2, 2, 3, 3)])
    assert polygon_parts(mixed).area == 2
    overlapping = MultiPolygon([box(0, 0, 2, 2), box(1, 1, 3, 3)])
    assert polygon_parts(overlapping).area == 7
    for nothing in (None, Polygon(), shapely.LineString([(0, 0), (1, 1)]), Polygon([(0, 0), (1, 1), (0, 0)])):
        assert polygon_parts(nothing) is None


def test_a_sliver_thinner_than_the_grid_vanishes() -> None:
    nothing, whole = snapped(object_array([box(0, 0, 100, GRID / 3), box(0, 0, 1 + GRID / 3, 1)]))
    assert nothing is None
    assert whole.equals(box(0, 0, 1, 1))


def test_a_sliver_with_holes_that_leave_it_is_mended_before_it_is_snapped() -> None:
    outline = [(0.522, 0.0008), (0.6618, 0.0072), (0.2799, 0.0087)]
    holes = [[outline[0], (0.646, 0.0066), (0.4314, 0.0059)], [outline[1], (0.5594, 0.0038), (0.4098, 0.0074)]]
    sliver = Polygon(outline, holes)
    with pytest.raises(shapely.GEOSException):
        shapely.set_precision(sliver, GRID)
    (found,) = snapped(object_array([sliver]))
    assert found is None or found.is_valid


corners = hnp.arrays(np.float64, (3, 2), elements=st.floats(0, 1, width=32))


@settings(max_examples=200, deadline=None)
@given(
    corners, hnp.arrays(np.float64, (2, 3, 3), elements=st.floats(0, 1, width=32)), st.floats(-2, 5), st.floats(-2, 2)
)
def test_snapping_any_sliver_with_touching_holes(
    corners: np.ndarray, shares: np.ndarray, length: float, width: float
) -> None:
    """Holes lie in the outline and touch its corners or edges, up to rounding, and each other."""
    outline = corners * [10**length * GRID, 10**width * GRID]
    shares[0, 0], shares[1, 0] = [1, 0, 0], [shares[1, 0, 0], 1, 0]
    weights = shares / np.maximum(shares.sum(-1, keepdims=True), 1e-9)
    polygon = Polygon(outline, list(weights @ outline))
    (found,) = snapped(object_array([polygon]))
    if found is None:
        return
    assert found.is_valid
    assert found.area > 0
    coordinates = shapely.get_coordinates(found) / GRID
    assert (coordinates == np.round(coordinates)).all()
    assert Polygon(outline).buffer(GRID).covers(found)


def test_drop_specks_keeps_the_only_piece() -> None:
    assert drop_specks(box(0, 0, 1, 1), 4).area == 1
    assert drop_specks(None, 4) is None


@settings(max_examples=80, deadline=None)
@given(masks, st.floats(0, 4))
def test_simplify_stays_valid_and_near(stack: np.ndarray, tolerance: float) -> None:
    for polygon in pixel_polygons(stack):
        if polygon is None:
            continue
        fewer = simplify(polygon, tolerance)
        assert fewer.is_valid
        assert fewer.area > 0
        assert shapely.get_num_coordinates(fewer) <= shapely.get_num_coordinates(polygon)
        assert polygon.buffer(tolerance + 1e-6).covers(fewer)


@settings(max_examples=60, deadline=None)
@given(masks)
def test_dropping_collinear_vertices_changes_no_point(stack: np.ndarray) -> None:
    polygons = object_array([polygon for polygon in pixel_polygons(stack) if polygon is not None])
    dense = shapely.segmentize(polygons, 0.5)
    for polygon, before, corners in zip(polygons, dense, without_collinear(dense), strict=True):
        assert corners.is_valid
        assert corners.equals(polygon)
        assert shapely.get_num_coordinates(corners) <= shapely.get_num_coordinates(polygon)
        assert shapely.to_wkb(corners) == shapely.to_wkb(drop_collinear(before))
