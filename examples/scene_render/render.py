"""Light: sun, sky and cast shadows on the painted grid, then a camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_render.layout import Town, plan_town
from scene_render.noise import Floats, smooth
from scene_render.paint import (
    Canvas,
    paint_car,
    paint_ground,
    paint_house,
    paint_litter,
    paint_plots,
    paint_roads,
    paint_tree,
    paint_walls,
)
from scene_render.style import Style

SUPERSAMPLING = 3
"""Fine pixels along one side of a picture pixel."""


@dataclass(frozen=True)
class Picture:
    """pixels: uint8 [H, W, 3] RGB; town: what it shows; gsd: metres per pixel."""

    pixels: NDArray[np.uint8]
    town: Town
    gsd: float


def render_scene(style: Style, seed: int, *, width: int, height: int, gsd: float) -> Picture:
    """Draw a town of width x height pixels.

    Raises:
        ValueError: a seed that does not belong to the style.
    """
    if seed not in style.seeds:
        raise ValueError(f"seed {seed} does not belong to style {style.name!r} ({style.seeds})")
    rng = np.random.default_rng(seed)
    town = plan_town(rng, style, width * gsd, height * gsd)
    canvas = Canvas.empty((height * SUPERSAMPLING, width * SUPERSAMPLING), gsd / SUPERSAMPLING)
    paint_ground(canvas, rng, style)
    paint_plots(canvas, rng, town, style)
    paint_roads(canvas, rng, town, style)
    for house in town.houses:
        paint_house(canvas, house, style)
    paint_walls(canvas, town)
    paint_litter(canvas, rng, town)
    for car in town.cars:
        paint_car(canvas, car)
    for tree in town.trees:
        paint_tree(canvas, rng, tree, style)
    elevation = np.radians(rng.uniform(*style.sun))
    azimuth = np.radians(rng.uniform(0, 360))
    return Picture(develop(rng, light(canvas, float(azimuth), float(elevation))), town, gsd)


def light(canvas: Canvas, azimuth: float, elevation: float) -> Floats:
    """Linear radiance [H, W, 3], 1 for a white flat surface in the sun.

    azimuth: where the sun stands, radians clockwise from north; elevation: above the horizon.
    """
    # Direction to the sun on the grid: x to the east, y down the picture, so north is -y.
    sun_x, sun_y = np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation)
    length = np.sqrt(1 + canvas.slope_x**2 + canvas.slope_y**2)
    facing = (np.sin(elevation) - canvas.slope_x * sun_x - canvas.slope_y * sun_y) / length
    facing = np.clip(facing, 0, None) / np.float32(np.sin(elevation))
    lit = facing * (1 - cast_shadows(canvas, azimuth, elevation))
    # Less sky is seen beside what stands higher.
    hidden = np.clip(smooth(canvas.height, 0.9 / canvas.step) - canvas.height, 0, 3)
    sky = 1 / (1 + 0.35 * hidden)
    sunlight = np.array([0.80, 0.765, 0.70], np.float32)
    skylight = np.array([0.17, 0.20, 0.25], np.float32)
    return canvas.albedo * (lit[..., None] * sunlight + sky[..., None] * skylight)


def cast_shadows(canvas: Canvas, azimuth: float, elevation: float) -> Floats:
    """1 where something higher stands between a point and the sun, 0 in full light."""
    step_x, step_y = np.sin(azimuth), -np.cos(azimuth)
    drop = canvas.step * np.tan(elevation)
    reach = int(float(canvas.height.max()) / drop) + 1
    shape = canvas.shape
    horizon = np.full(shape, -1e3, np.float32)
    for number in range(1, reach + 1):
        dx, dy = round(number * step_x), round(number * step_y)
        # The pixel `number` steps towards the sun shades this one up to its height less the drop.
        to_rows, from_rows = _overlap(shape[0], dy)
        to_cols, from_cols = _overlap(shape[1], dx)
        target = horizon[to_rows, to_cols]
        np.maximum(target, canvas.height[from_rows, from_cols] - np.float32(number * drop), out=target)
    shade = np.clip((horizon - canvas.height - 0.05) / 0.25, 0, 1)
    return smooth(shade.astype(np.float32), 1.0)


def _overlap(length: int, offset: int) -> tuple[slice, slice]:
    """Where `index` and `index + offset` are both inside."""
    return slice(max(0, -offset), length - max(0, offset)), slice(max(0, offset), length + min(0, offset))


def develop(rng: np.random.Generator, radiance: Floats) -> NDArray[np.uint8]:
    """The camera: slight blur, reduction to picture pixels, haze, tone, sensor noise."""
    factor = SUPERSAMPLING
    blurred = np.stack([smooth(radiance[..., band], 0.45 * factor) for band in range(3)], axis=-1)
    height, width = blurred.shape[0] // factor, blurred.shape[1] // factor
    pixels = blurred.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
    grey = pixels @ np.array([0.30, 0.55, 0.15], np.float32)
    pixels += 0.16 * (grey[..., None] - pixels)
    pixels = 0.95 * pixels * 1.4 + np.array([0.010, 0.012, 0.016], np.float32)
    tone = np.clip(pixels, 0, 1) ** (1 / 2.2)
    tone = tone + 0.10 * (tone - 0.5) * (1 - np.abs(2 * tone - 1))
    shot = rng.standard_normal(pixels.shape, dtype=np.float32) * 1.6
    speckle = rng.standard_normal((height, width, 1), dtype=np.float32) * 1.4
    return np.clip(np.rint(tone * 255 + shot + speckle), 0, 255).astype(np.uint8)
