"""Running a model over the windows of a scene: read ahead, batch, detect, outline."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from shapely import Geometry, difference, is_empty
from shapely.affinity import translate
from torch import Tensor

from rsprompter_cli.errors import UsageError
from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.polygonize import mask_to_polygon, masks_to_polygons, pixel_polygons
from rsprompter_cli.geo.stitch.joiner import Instance
from rsprompter_cli.geo.stitch.mask_nms import mask_nms
from rsprompter_cli.geo.windows import Window, WindowGrid
from rsprompter_cli.models.base import PadsImages, RunsConcurrently, with_score_floor
from rsprompter_cli.models.precision import autocast
from rsprompter_cli.predict.stats import RunStats, Stage
from rsprompter_cli.structures import Detections, LowResMasks, MaskFrame, MaskPatches, Tile

if TYPE_CHECKING:
    from rsprompter_cli.geo.raster.scene import Scene
    from rsprompter_cli.predict.aoi import AreaOfInterest

_READ_AHEAD = 2
"""Batches being read while one is computed: reading is an order of magnitude faster than any model."""


class TileReader(Protocol):
    """What detection needs of a scene."""

    def read(self, window: Window) -> Tile:
        """The pixels of a window."""


ReadBatch = tuple[Window, list[tuple[Window, Tile]]]
"""The last window of a batch, and the windows of it that hold a valid pixel, with their pixels."""


def read_batches(scene: TileReader, windows: Iterable[Window], batch: int) -> Generator[ReadBatch, None, None]:
    """Tiles in batches that are a fixed partition of the window list, read ahead in one thread.

    Windows without a valid pixel are left out after reading, so a batch may be shorter or empty;
    the partition does not depend on what the windows hold.
    """
    groups = _partition(windows, batch)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rsp-read") as reader:
        pending: list[Future[ReadBatch]] = []
        try:
            for group in groups:
                pending.append(reader.submit(_read_group, scene, group))
                if len(pending) > _READ_AHEAD:
                    yield pending.pop(0).result()
            while pending:
                yield pending.pop(0).result()
        finally:
            for future in pending:
                future.cancel()


def _partition(windows: Iterable[Window], batch: int) -> Iterator[list[Window]]:
    iterator = iter(windows)
    while group := list(islice(iterator, batch)):
        yield group


def _read_group(scene: TileReader, group: Sequence[Window]) -> ReadBatch:
    tiles = ((window, scene.read(window)) for window in group)
    return group[-1], [(window, tile) for window, tile in tiles if tile.valid is None or bool(tile.valid.any())]


def concurrency_of(model: torch.nn.Module) -> int:
    """How many batches a model computes at the same time, each with its share of the CPU's threads.

    A light model leaves much of a CPU idle: the threads of an operation wait for one another, and between operations
    all but one wait. Figures are in docs/decisions/0024.
    """
    parameter = next(model.parameters(), None)
    elsewhere = parameter is not None and parameter.device.type != "cpu"
    if elsewhere or not isinstance(model, RunsConcurrently):
        return 1
    return min(model.concurrency, torch.get_num_threads())


def detect_in_order(
    batches: Iterable[ReadBatch], detect: Callable[[Sequence[Tile]], list[Detections]], concurrency: int
) -> Generator[tuple[ReadBatch, list[Detections]], None, None]:
    """Every batch with its detections, in order; `concurrency` of them are computed at the same time.

    Args:
        detect: the detections of a batch's tiles; is called for batches that have any, from several threads.
        concurrency: threads, which share those that torch has for an operation; 1: all is computed in this thread.
    """
    if concurrency == 1:
        yield from ((batch, _detect_batch(detect, batch)) for batch in batches)
        return
    threads = torch.get_num_threads()
    pending: deque[tuple[ReadBatch, Future[list[Detections]]]] = deque()
    try:
        # Every thread has the same share, even if one is left over: results depend on it, by rounding.
        with ThreadPoolExecutor(concurrency, "rsp-model", torch.set_num_threads, (threads // concurrency,)) as pool:
            try:
                for batch in batches:
                    pending.append((batch, pool.submit(_detect_batch, detect, batch)))
                    if len(pending) > concurrency:  # one more than are computed, so that no thread waits for its next
                        former, future = pending.popleft()
                        yield former, future.result()
                while pending:
                    former, future = pending.popleft()
                    yield former, future.result()
            finally:
                for _, future in pending:
                    future.cancel()
    finally:
        # What a thread sets is its own, but threads that start later take the last value.
        torch.set_num_threads(threads)


def _detect_batch(detect: Callable[[Sequence[Tile]], list[Detections]], batch: ReadBatch) -> list[Detections]:
    _, tiles = batch
    return detect([tile for _, tile in tiles]) if tiles else []


def run_model(
    model: torch.nn.Module, tiles: Sequence[Tile], *, pad_to: int | None, dtype: torch.dtype
) -> list[Detections]:
    """Detections of each tile, in pixels of the tile.

    Args:
        model: in evaluation mode.
        tiles: of one batch.
        pad_to: a tile with a shorter side (a scene smaller than a window) is padded with the mean
            colour at its right and bottom to this many pixels, not enlarged: its ground resolution
            must stay. None gives the model each tile as it is, to be resized as in evaluation.
        dtype: the arithmetic.
    """
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    padding = model.padding if isinstance(model, PadsImages) else (0.0, 0.0, 0.0)
    images = [_padded(torch.from_numpy(tile.pixels), pad_to or 0, padding).to(device) for tile in tiles]
    with torch.inference_mode(), autocast(device, dtype):
        return list(model(images, None))


def _padded(pixels: Tensor, size: int, mean: Sequence[float]) -> Tensor:
    _, height, width = pixels.shape
    if height >= size and width >= size:
        return pixels
    fill = torch.as_tensor(mean, dtype=pixels.dtype).reshape(3, 1, 1)
    canvas = fill.expand(3, max(size, height), max(size, width)).clone()
    canvas[:, :height, :width] = pixels
    return canvas


def outline(window: Window, tile: Tile, detections: Detections, *, score: float) -> list[Instance]:
    """The detections of one window as polygons in working-grid pixels.

    Those under `score` are dropped, and so is what lies in nodata and what repeats a better one; `index`
    counts the model's detections, so that it does not depend on the threshold.
    """
    kept = [i for i, value in enumerate(detections.scores.tolist()) if value >= score]
    if not kept:
        return []
    labels = detections.labels.tolist()
    scores = detections.scores.tolist()
    quality = [None] * len(scores) if detections.quality is None else detections.quality.tolist()
    instances = []
    for index, polygon in zip(kept, window_polygons(window, tile, detections.masks, kept), strict=True):
        if polygon is not None:
            place = (window.row, window.col, index)
            instances.append(Instance(*place, int(labels[index]), float(scores[index]), polygon, quality[index]))
    return mask_nms(instances)


def window_polygons(
    window: Window, tile: Tile, masks: Tensor | LowResMasks | MaskPatches, kept: Sequence[int]
) -> list[Geometry | None]:
    """The masks numbered `kept` of one window as polygons in pixels of the grid, without what lies in nodata.

    None stands for a mask of which nothing is left.
    """
    hidden = _invalid_area(tile)
    return [_clip(polygon, hidden, window) for polygon in _tile_polygons(masks, kept)]


def _tile_polygons(masks: Tensor | LowResMasks | MaskPatches, kept: Sequence[int]) -> list[Geometry | None]:
    if isinstance(masks, LowResMasks):
        values = masks.values[list(kept)].float().cpu().numpy()
        return list(masks_to_polygons(values, masks.threshold, frame=masks.frame))
    if isinstance(masks, MaskPatches):
        return [_patch_polygon(masks.values[index], masks.corners[index]) for index in kept]
    return pixel_polygons(masks[list(kept)].cpu().numpy())


def _patch_polygon(patch: Tensor, corner: tuple[int, int]) -> Geometry | None:
    """The sub-pixel outline of a patch of logits [h, w] whose first pixel is `corner` (left, top) of the tile."""
    size = (int(patch.shape[0]), int(patch.shape[1]))
    (polygon,) = masks_to_polygons(patch[None].float().cpu().numpy(), 0.0, frame=MaskFrame(size, size, size))
    return None if polygon is None else translate(polygon, *corner)


def _invalid_area(tile: Tile) -> Geometry | None:
    if tile.valid is None or bool(tile.valid.all()):
        return None
    return mask_to_polygon(np.logical_not(tile.valid))


def _clip(polygon: Geometry | None, hidden: Geometry | None, window: Window) -> Geometry | None:
    """The part of a polygon inside its window and outside nodata, in working-grid pixels; None when nothing is."""
    if polygon is None:
        return None
    from shapely import box, intersection

    x0, y0, x1, y1 = polygon.bounds
    if x0 < 0 or y0 < 0 or x1 > window.width or y1 > window.height:
        polygon = intersection(polygon, box(0, 0, window.width, window.height))
    if hidden is not None:
        polygon = difference(polygon, hidden)
    polygon = polygon_parts(polygon)
    if polygon is None or is_empty(polygon):
        return None
    return translate(polygon, window.left, window.top)


@dataclass(frozen=True, eq=False, slots=True)
class DetectedBatch:
    """What the model found in a batch of windows.

    windows: each with its pixels and the detections in them.
    windows_done: windows of the row-major order that are done with this batch.
    """

    windows: list[tuple[Window, Tile, Detections]]
    windows_done: int


def detect_windows(
    model: torch.nn.Module,
    scene: Scene,
    grid: WindowGrid,
    *,
    first: int = 0,
    stop: int | None = None,
    score: float,
    pad: bool = True,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    area: AreaOfInterest | None = None,
    stats: RunStats | None = None,
) -> Generator[DetectedBatch, None, None]:
    """The detections of every window of a scene from position `first` on, in row-major order.

    Args:
        stop: the position before which it ends, None for the end of the scene.
        pad: bring windows of a scene smaller than the grid's size to that size, see `run_model`.
        area: only windows that it wants are read.
    """
    if batch < 1:
        raise UsageError(f"--batch {batch}: must be at least 1")
    stats = stats or RunStats()
    windows_left = (grid.window_at(position) for position in range(first, len(grid) if stop is None else stop))
    wanted = _wanted(windows_left, scene, area, stats)

    def detect(tiles: Sequence[Tile]) -> list[Detections]:
        with stats.stage(Stage.MODEL):
            return run_model(model, tiles, pad_to=grid.size if pad else None, dtype=dtype)

    with ExitStack() as stack:
        # However this ends, no thread computes a window or reads the scene afterwards.
        stack.enter_context(with_score_floor(model, score))
        read = stack.enter_context(closing(read_batches(stats.reader(scene), wanted, batch)))
        waited = stats.timed(Stage.WAITING, read)
        detected = stack.enter_context(closing(detect_in_order(waited, detect, concurrency_of(model))))
        for (last, tiles), detections in detected:
            scene.require_unchanged()
            windows = [(window, tile, found) for (window, tile), found in zip(tiles, detections, strict=True)]
            yield DetectedBatch(windows, last.row * grid.cols + last.col + 1)


def _wanted(windows: Iterable[Window], scene: Scene, area: AreaOfInterest | None, stats: RunStats) -> Iterator[Window]:
    """Those in the area of interest under which the file stores something."""
    for window in windows:
        if area is not None and not area.wants(window):
            stats.skip(outside=True)
        elif not scene.may_have_data(window):
            stats.skip(outside=False)
        else:
            yield window
