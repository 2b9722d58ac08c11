"""From masks to polygons: sub-pixel contours of low-resolution maps, or the exact edges of pixels.

Polygons are in pixels of the image (x = column, y = row, origin at the outer corner of the first
pixel), valid, with holes, on a grid of 1/256 pixel. An object of several pieces stays one
multipolygon: a roof under a tree is one roof.
"""

from __future__ import annotations

import math
from itertools import chain, pairwise
from typing import Any

import contourpy
import numpy as np
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine

from rsprompter_cli.geo.geometry import drop_specks, gather, object_array, snapped, with_area
from rsprompter_cli.structures import MaskFrame

MIN_PIECE = 4.0
"""Square pixels: smaller pieces and holes of a contour are noise of the decoder."""

_LARGEST_VALUE = 1e6
_MAX_LAYERS = 8
_WIDEST_CELL = 4.0


def masks_to_polygons(
    values: np.ndarray, threshold: float, *, frame: MaskFrame, min_piece: float = MIN_PIECE
) -> list[Any]:
    """Outline low-resolution maps where their interpolated value reaches the threshold.

    Sample i of h lies at pixel (i + 0.5) * padded / h of the padded input (half-pixel centres, as
    the bilinear upsampling of the masks). Beyond the outermost samples the map goes on unchanged,
    so an object at the edge of a window reaches exactly that edge.

    Args:
        values: float [N, h, w], probabilities or logits. Not-a-number counts as outside.
        threshold: of the values.
        frame: how the maps lie on the image.
        min_piece: pieces smaller than this (square image pixels) are dropped, except that the
            largest one stays, and such holes are filled.

    Returns:
        N polygons or multipolygons in image pixels, clipped to the image; None where nothing is.
    """
    count, h, w = values.shape
    ys = _sample_places(h, frame.padded[0], frame.content[0], frame.image[0])
    xs = _sample_places(w, frame.padded[1], frame.content[1], frame.image[1])
    outlines = with_area(object_array([_contour(values[n], threshold, xs, ys) for n in range(count)]))
    height, width = frame.image
    whole = shapely.box(0, 0, width, height)
    over = ~shapely.is_missing(outlines) & ~shapely.covers(whole, outlines)
    outlines[over] = with_area(shapely.intersection(outlines[over], whole))
    return [drop_specks(outline, min_piece) for outline in snapped(outlines)]


def mask_to_polygon(mask: np.ndarray) -> Any:
    """The exact outline of a mask along pixel edges.

    Args:
        mask: bool [H, W].

    Returns:
        Polygon or multipolygon (pieces joined by an edge, not by a corner), None for an empty mask.
    """
    return pixel_polygons(mask[None])[0]


def pixel_polygons(masks: np.ndarray) -> list[Any]:
    """The exact outlines of masks along pixel edges, many at once.

    Masks that do not overlap are drawn into one label image, which is outlined in one go: five
    times faster than one by one.

    Args:
        masks: bool [N, H, W].

    Returns:
        N polygons or multipolygons, None for empty masks.
    """
    pieces: list[list[Any]] = [[] for _ in range(len(masks))]
    for labels in _label_layers(masks):
        _outline_labels(labels, pieces)
    return [gather(parts) for parts in pieces]


def label_polygons(labels: np.ndarray, count: int) -> list[Any]:
    """The exact outlines of the areas of a label image along pixel edges.

    Args:
        labels: int32 or uint8 [H, W], 0 for nothing, 1..count for the objects.
        count: of objects.

    Returns:
        `count` polygons or multipolygons, None for labels that do not occur.
    """
    pieces: list[list[Any]] = [[] for _ in range(count)]
    _outline_labels(labels, pieces)
    return [gather(parts) for parts in pieces]


def _outline_labels(labels: np.ndarray, pieces: list[list[Any]]) -> None:
    """Add the connected areas of each label n of an int32 [H, W] image to pieces[n - 1]."""
    found = list(shapes(labels, mask=labels > 0, connectivity=4, transform=Affine.identity()))
    if not found:
        return
    outer = [outline["coordinates"][0] for outline, _ in found]
    # All outer rings in one call: made one by one they would cost as much as finding them.
    vertices = np.array(list(chain.from_iterable(outer)), np.float64)
    rings = shapely.linearrings(vertices, indices=np.repeat(np.arange(len(outer)), [len(ring) for ring in outer]))
    for ring, (outline, label) in zip(shapely.polygons(rings).tolist(), found, strict=True):
        holes = outline["coordinates"][1:]
        pieces[int(label) - 1].append(shapely.Polygon(ring.exterior, holes) if holes else ring)


def _sample_places(samples: int, padded: int, content: int, image: int) -> np.ndarray:
    """float64 [samples + 2]: image pixels of the samples, with the two edges of the map around them."""
    places = np.concatenate([[0.0], np.arange(samples) + 0.5, [samples]])
    return places * (padded / samples) * (image / content)


def _contour(values: np.ndarray, threshold: float, xs: np.ndarray, ys: np.ndarray) -> Any:
    """One map [h, w] outlined, in image pixels, perhaps not valid; None where nothing is."""
    inside = values >= threshold
    rows, cols = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if len(rows) == 0:
        return None
    # One sample around what is inside; at the edge of the map that is the edge sample again.
    take_rows = np.arange(rows[0] - 1, rows[-1] + 2)
    take_cols = np.arange(cols[0] - 1, cols[-1] + 2)
    h, w = values.shape
    around = values[take_rows.clip(0, h - 1)[:, None], take_cols.clip(0, w - 1)].astype(np.float64)
    around = np.nan_to_num(around - threshold, nan=-_LARGEST_VALUE).clip(-_LARGEST_VALUE, _LARGEST_VALUE)
    around, xs, ys = _refined(around, xs[take_cols + 1], ys[take_rows + 1])
    generator = contourpy.contour_generator(xs, ys, around, fill_type=contourpy.FillType.OuterOffset)
    # The value itself belongs to the inside: contourpy asks for more than the lower level.
    points, offsets = generator.filled(-np.finfo(np.float64).tiny, np.inf)
    polygons = []
    for vertices, starts in zip(points, offsets, strict=True):
        exterior, *holes = [vertices[start:end] for start, end in pairwise(starts)]
        polygons.append(shapely.Polygon(exterior, holes))
    return shapely.MultiPolygon(polygons) if polygons else None


def _refined(values: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same bilinear surface with samples at most _WIDEST_CELL pixels apart.

    Inside a cell the contour of a bilinear surface is a curve; a straight piece through a cell of many
    pixels would miss it by pixels.
    """
    for axis, places in ((0, ys), (1, xs)):
        parts = math.ceil(np.diff(places).max() / _WIDEST_CELL - 1e-9)
        if parts > 1:
            low, share = np.divmod(np.arange((len(places) - 1) * parts + 1), parts)
            high = np.minimum(low + 1, len(places) - 1)
            weight = share / parts
            between = places[low] * (1 - weight) + places[high] * weight
            weight = weight[:, None] if axis == 0 else weight
            values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
            xs, ys = (xs, between) if axis == 0 else (between, ys)
    return values, xs, ys


def _label_layers(masks: np.ndarray) -> list[np.ndarray]:
    """int32 [H, W] images in which pixel value n + 1 is mask n; masks that overlap are on different ones."""
    layers: list[np.ndarray] = []
    for number, mask in enumerate(masks, start=1):
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows) == 0:
            continue
        box = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        cut = mask[box]
        free = [layer for layer in layers[-_MAX_LAYERS:] if not (layer[box][cut]).any()]
        if not free:
            free = [np.zeros(masks.shape[1:], np.int32)]
            layers.append(free[0])
        free[0][box][cut] = number
    return layers
