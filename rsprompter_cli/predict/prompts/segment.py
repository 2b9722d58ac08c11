"""Asking SAM: each prompt in a window of a scene, answered with a polygon."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from shapely.affinity import scale

from rsprompter_cli.geo.geometry import object_array, snapped
from rsprompter_cli.geo.raster.scene import Scene
from rsprompter_cli.geo.windows import Window
from rsprompter_cli.models.precision import autocast
from rsprompter_cli.models.zero_shot.prompted import PromptedSam, SeenPicture
from rsprompter_cli.predict.detect import window_polygons
from rsprompter_cli.predict.prompts.windows import (
    Miss,
    Prompt,
    ends_in_scene,
    first_level,
    grid_size,
    is_last_level,
    on_level,
    one_part,
    share_windows,
)
from rsprompter_cli.structures import LowResMasks, Progress, Size, Tile

_AT_A_TIME = 64
"""Prompts whose masks are held at once: some 64 MB for SAM at 1024 pixels."""


class Answer(NamedTuple):
    """SAM's mask of a prompt; polygon: in pixels of the working grid; score: the IoU that SAM expects, 0..1."""

    polygon: Any
    score: float


@dataclass
class Answers:
    """What became of prompts, by the row of their features; windows: that SAM's encoder saw."""

    found: dict[int, Answer] = field(default_factory=dict)
    misses: dict[int, Miss] = field(default_factory=dict)
    windows: int = 0


def answer_prompts(
    model: PromptedSam,
    scene: Scene,
    prompts: Sequence[Prompt],
    *,
    keep_parts: bool = False,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Answers:
    """Ask SAM for the object of each prompt, window by window.

    The mask of a point that ends at the edge of its window, with the scene going on beyond, is asked for
    again on the next coarser grid, where the window shows more.

    Args:
        model: in evaluation mode.
        prompts: on the scene.
        keep_parts: masks of several parts stay whole; else one part of each is kept, see `one_part`.
        dtype: the arithmetic.
        progress: called after each window, and within one of many prompts.
    """
    shape, size = (scene.height, scene.width), model.image_size
    answers = Answers()
    waiting: dict[int, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        waiting[first_level(prompt.box, shape, size)].append(prompt)

    def on_part() -> None:
        if progress is not None:
            progress(len(answers.found) + len(answers.misses), len(prompts))

    on_part()
    while waiting:
        level = min(waiting)
        asked = waiting.pop(level)
        grid = grid_size(level, shape)
        shared = share_windows(on_level(np.array([one.box for one in asked]), level, shape), grid, size)
        with _reader(scene, level, grid) as read:
            for one in shared:
                window = _Window(one.window, read(one.window), level, shape)
                members = [asked[i] for i in one.members]
                again = _answer_window(model, window, members, answers, keep_parts, dtype, on_part)
                if again:
                    waiting[level + 1] += again
                on_part()
    return answers


@dataclass(frozen=True, eq=False, slots=True)
class _Window:
    """A window of a level's grid and its pixels; shape: (rows, columns) of the working grid."""

    window: Window
    tile: Tile
    level: int
    shape: Size

    @property
    def grid(self) -> Size:
        return grid_size(self.level, self.shape)

    def inside(self, places: np.ndarray) -> np.ndarray:
        """Bounds [N, 4] or points [N, 2] of the working grid in pixels of the window."""
        corner = [self.window.left, self.window.top]
        return on_level(places, self.level, self.shape) - np.tile(corner, places.shape[1] // 2)

    def has_data(self, prompt: Prompt) -> bool:
        """Whether any pixel of a box, or under a point, is valid."""
        valid = self.tile.valid
        if valid is None:
            return True
        last = np.array([valid.shape[1] - 1, valid.shape[0] - 1])
        if prompt.points is not None:
            x, y = np.minimum(self.inside(prompt.points).astype(int), last).T
            return bool(valid[y, x].any())
        ((x0, y0, x1, y1),) = self.inside(np.array([prompt.box]))
        return bool(valid[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))].any())


def _reader(scene: Scene, level: int, grid: Size) -> AbstractContextManager[Callable[[Window], Tile]]:
    return nullcontext(scene.read) if level == 0 else scene.coarser(*grid)


def _answer_window(
    model: PromptedSam,
    window: _Window,
    prompts: Sequence[Prompt],
    answers: Answers,
    keep_parts: bool,
    dtype: torch.dtype,
    on_part: Callable[[], None],
) -> list[Prompt]:
    """Enter the answers of one window's prompts; those to be asked again are returned."""
    shown = [prompt for prompt in prompts if window.has_data(prompt)]
    answers.misses |= {prompt.row: Miss.NODATA for prompt in prompts if not window.has_data(prompt)}
    if not shown:
        return []
    answers.windows += 1
    again = []
    with torch.inference_mode(), autocast(model.device, dtype):
        seen = model.see(torch.from_numpy(window.tile.pixels))
        for part in _alike(shown):
            masks, quality = _ask(model, seen, window, part)
            polygons = window_polygons(window.window, window.tile, masks, range(len(part)))
            for prompt, polygon, score in zip(part, polygons, quality, strict=True):
                if polygon is None:
                    answers.misses[prompt.row] = Miss.EMPTY
                    continue
                if not keep_parts:
                    points = None if prompt.points is None else on_level(prompt.points, window.level, window.shape)
                    polygon = one_part(polygon, points)
                if _is_cut(prompt, polygon, window, model.image_size):
                    again.append(prompt)
                else:
                    answers.found[prompt.row] = Answer(_on_working_grid(polygon, window), score)
            on_part()
    return again


def _ask(
    model: PromptedSam, seen: SeenPicture, window: _Window, prompts: Sequence[Prompt]
) -> tuple[LowResMasks, list[float]]:
    """Masks of prompts that are all boxes or all of as many points, and their scores."""
    if prompts[0].points is None:
        boxes = window.inside(np.array([prompt.box for prompt in prompts]))
        masks, quality = model.answer_boxes(seen, torch.from_numpy(boxes))
    else:
        points = np.stack([window.inside(prompt.points) for prompt in prompts if prompt.points is not None])
        masks, quality = model.answer_points(seen, torch.from_numpy(points))
    return masks, quality.tolist()


def _alike(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Prompts that can be asked together, a number at a time: boxes, and those of as many points."""
    groups: dict[int, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        groups[0 if prompt.points is None else len(prompt.points)].append(prompt)
    for group in groups.values():
        for start in range(0, len(group), _AT_A_TIME):
            yield group[start : start + _AT_A_TIME]


def _is_cut(prompt: Prompt, polygon: Any, window: _Window, size: int) -> bool:
    # A box says how large its object is: what reaches the edge of its window is no part of that.
    if prompt.points is None or is_last_level(window.level, window.shape, size):
        return False
    return ends_in_scene(polygon.bounds, window.window, window.grid)


def _on_working_grid(polygon: Any, window: _Window) -> Any:
    if window.level == 0:
        return polygon
    (height, width), (rows, columns) = window.shape, window.grid
    grown = scale(polygon, width / columns, height / rows, origin=(0, 0))
    return snapped(object_array([grown]))[0] or grown
