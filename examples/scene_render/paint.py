"""Colours and heights on a fine grid: the ground, then what stands on it, from low to high."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapely.geometry import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from scene_render.layout import Car, Town, Tree
from scene_render.noise import Floats, at, cells, fractal, ramp, smooth
from scene_render.roofs import House, surface
from scene_render.style import Color, Material, Style


def linear(color: Color | NDArray[np.float32]) -> Floats:
    """sRGB 0..255 as linear reflectance 0..1."""
    return (np.asarray(color, np.float32) / 255) ** np.float32(2.2)


@dataclass
class Canvas:
    """The fine grid.

    step: metres per fine pixel. albedo: linear [H, W, 3]. height: metres above datum [H, W].
    slope_x, slope_y: rise per metre to the east and down the picture [H, W].
    """

    step: float
    albedo: Floats
    height: Floats
    slope_x: Floats
    slope_y: Floats

    @classmethod
    def empty(cls, shape: tuple[int, int], step: float) -> Canvas:
        flat = [np.zeros(shape, np.float32) for _ in range(3)]
        return cls(step, np.zeros((*shape, 3), np.float32), *flat)

    @property
    def shape(self) -> tuple[int, int]:
        return self.height.shape[0], self.height.shape[1]

    def mask(self, shapes: Iterable[BaseGeometry]) -> NDArray[np.bool_]:
        """True where a polygon covers the grid."""
        picture = Image.new("1", self.shape[::-1])
        draw = ImageDraw.Draw(picture)
        for shape in shapes:
            for part in getattr(shape, "geoms", [shape]):
                draw.polygon([(x / self.step, y / self.step) for x, y in part.exterior.coords], fill=1)
        return np.asarray(picture)

    def patch(self, x: float, y: float, reach: float) -> tuple[tuple[slice, slice], Floats, Floats]:
        """The part of the grid within `reach` metres of a point: its index and x, y of its pixel centres."""
        rows = slice(max(0, int((y - reach) / self.step)), max(0, min(self.shape[0], int((y + reach) / self.step) + 1)))
        cols = slice(max(0, int((x - reach) / self.step)), max(0, min(self.shape[1], int((x + reach) / self.step) + 1)))
        ys = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) * np.float32(self.step)
        xs = (np.arange(cols.start, cols.stop, dtype=np.float32) + 0.5) * np.float32(self.step)
        grid_x, grid_y = np.meshgrid(xs, ys)
        return (rows, cols), grid_x, grid_y


def mix(canvas: Canvas, weight: Floats, color: Floats) -> None:
    """Blend a colour [3] or [H, W, 3] over the whole canvas by a weight [H, W]."""
    canvas.albedo += weight[..., None] * (color - canvas.albedo)


def paint_ground(canvas: Canvas, rng: np.random.Generator, style: Style) -> None:
    """Soil and grass in patches of several sizes, with fine grain and a gentle relief."""
    ground, shape = style.ground, canvas.shape
    metre = 1 / canvas.step
    wide = fractal(rng, shape, 2.8, 60 * metre)
    middle = fractal(rng, shape, ground.roughness, 12 * metre)
    fine = fractal(rng, shape, 0.9, 2 * metre)
    canvas.albedo[:] = linear(ground.soil[0])
    mix(canvas, ramp(middle + 0.5 * wide, -0.2, 1.6), linear(ground.soil[1]))
    mix(canvas, ramp(wide - 0.6 * middle, 0.4, 2.0), linear(ground.soil[2]))
    cover = 0.9 * wide + 0.55 * middle + 0.35 * fine
    mix(canvas, 0.92 * ramp(cover, -0.75, 0.55), linear(ground.grass[0]))
    mix(canvas, 0.85 * ramp(cover + 0.5 * fine, 0.5, 1.9), linear(ground.grass[1]))
    mix(canvas, 0.7 * ramp(middle - wide + 0.4 * fine, 0.6, 2.0), linear(ground.grass[2]))
    canvas.albedo *= (1 + 0.10 * fine + 0.06 * middle)[..., None]
    np.clip(canvas.albedo, 0.01, 0.95, out=canvas.albedo)
    canvas.slope_x += 0.05 * fine
    canvas.slope_y += 0.05 * np.roll(fine, 7, axis=0)


def paint_plots(canvas: Canvas, rng: np.random.Generator, town: Town, style: Style) -> None:
    """Garden plots: rows of plants on dug earth."""
    for plot in town.plots:
        (index, xs, ys), inside = _polygon_patch(canvas, plot)
        angle, spacing = rng.uniform(0, np.pi), rng.uniform(0.7, 1.3)
        across = xs * np.cos(angle) + ys * np.sin(angle)
        rows = 0.5 + 0.5 * np.sin(across * 2 * np.pi / spacing)
        grown = np.clip(rows * rng.uniform(0.4, 1.1) + rng.normal(0, 0.18, rows.shape), 0, 1)[..., None]
        green = linear(style.ground.grass[int(rng.integers(2))]) * np.float32(rng.uniform(0.8, 1.3))
        earth = linear(style.ground.soil[1]) * np.float32(rng.uniform(0.6, 0.95))
        soft = (smooth(inside.astype(np.float32), 0.25 / canvas.step) * 0.85)[..., None]
        canvas.albedo[index] += soft * (earth + grown * (green - earth) - canvas.albedo[index])


def _polygon_patch(
    canvas: Canvas, polygon: Polygon
) -> tuple[tuple[tuple[slice, slice], Floats, Floats], NDArray[np.bool_]]:
    left, top, right, bottom = polygon.bounds
    reach = max(right - left, bottom - top) / 2 + 1
    index, xs, ys = canvas.patch((left + right) / 2, (top + bottom) / 2, reach)
    picture = Image.new("1", (xs.shape[1], xs.shape[0]))
    origin = (index[1].start, index[0].start)
    corners = [(x / canvas.step - origin[0], y / canvas.step - origin[1]) for x, y in polygon.exterior.coords]
    if xs.size:
        ImageDraw.Draw(picture).polygon(corners, fill=1)
    return (index, xs, ys), np.asarray(picture)


def paint_roads(canvas: Canvas, rng: np.random.Generator, town: Town, style: Style) -> None:
    """Worn yards around houses, tracks with wheel ruts, paved roads with shoulders and patches."""
    metre = 1 / canvas.step
    ragged = fractal(rng, canvas.shape, 1.8, 5 * metre)
    grain = fractal(rng, canvas.shape, 0.5, 1 * metre)
    yards = smooth(canvas.mask(house.outline.buffer(1.6) for house in town.houses).astype(np.float32), 1.2 * metre)
    mix(canvas, 0.8 * ramp(yards + 0.16 * ragged, 0.3, 0.8), linear(style.ground.track) * 0.96)
    for paved in (False, True):
        roads = [road for road in town.roads if road.paved == paved]
        color = linear(style.ground.road if paved else style.ground.track)
        if paved:
            shoulder = smooth(_band(canvas, roads, 1.3), 0.8 * metre)
            mix(canvas, 0.75 * ramp(shoulder + 0.14 * ragged, 0.35, 0.75), linear(style.ground.track) * 0.85)
        wear_size = 0.05 if paved else 0.08
        edge = smooth(_band(canvas, roads, 0.0), (0.15 if paved else 0.5) * metre)
        wear = 1 + wear_size * (ragged + grain)
        mix(canvas, ramp(edge + (0.03 if paved else 0.12) * ragged, 0.35, 0.65), color * wear[..., None])
        _ruts(canvas, roads, ragged)
    _dashes(canvas, town)


def _band(canvas: Canvas, roads: list, extra: float) -> Floats:
    shapes = [road.line.buffer(road.width / 2 + extra, cap_style="flat") for road in roads]
    return canvas.mask(shapes).astype(np.float32)


def _ruts(canvas: Canvas, roads: list, ragged: Floats) -> None:
    for road in roads:
        for side in (-0.8, 0.8):
            rut = road.line.parallel_offset(abs(side), "left" if side < 0 else "right")
            worn = smooth(canvas.mask([rut.buffer(0.35)]).astype(np.float32), 0.25 / canvas.step)
            canvas.albedo *= (1 + (-0.10 if road.paved else 0.14) * worn * ramp(ragged, -1.0, 0.6))[..., None]


def _dashes(canvas: Canvas, town: Town) -> None:
    for road in town.roads:
        if road.paved and road.width > 5:
            starts = np.arange(0, road.line.length - 3, 6.0)
            lines = [LineString([road.line.interpolate(s), road.line.interpolate(s + 2.5)]) for s in starts]
            paint = canvas.mask(line.buffer(0.09, cap_style="flat") for line in lines)
            canvas.albedo[paint] += 0.5 * (0.55 - canvas.albedo[paint])


def paint_house(canvas: Canvas, house: House, style: Style) -> None:
    """One roof: its covering, its height and its slopes."""
    rng = np.random.default_rng(house.seed)
    index, xs, ys = canvas.patch(house.x, house.y, float(np.hypot(house.half_u, house.half_v)) + 1)
    if not xs.size:
        return
    cos, sin = np.float32(np.cos(house.angle)), np.float32(np.sin(house.angle))
    u = (xs - np.float32(house.x)) * cos + (ys - np.float32(house.y)) * sin
    v = -(xs - np.float32(house.x)) * sin + (ys - np.float32(house.y)) * cos
    roof = surface(house, u, v)
    material = next(item for item, _ in style.materials if item.name == house.material)
    inside = roof.inside
    color = linear(material.color) * np.float32(1 + material.spread * rng.uniform(-1, 1))
    color = color * (1 + 0.05 * rng.uniform(-1, 1, 3)).astype(np.float32)
    covering = cover(rng, material, color, roof.along, roof.down, 1 / canvas.step)
    canvas.albedo[index][inside] = np.clip(covering, 0.008, 0.92)[inside]
    rise_y, rise_x = np.gradient(roof.height, canvas.step)
    canvas.slope_x[index][inside] = np.clip(rise_x, -1.2, 1.2)[inside]
    canvas.slope_y[index][inside] = np.clip(rise_y, -1.2, 1.2)[inside]
    canvas.height[index][inside] = (house.eaves + roof.height)[inside]
    if house.kind == "flat":
        _clutter(canvas, rng, house)


def cover(
    rng: np.random.Generator, material: Material, color: Floats, along: Floats, down: Floats, metre: float
) -> Floats:
    """The colour [H, W, 3] of a roof covering at metres along and down the roof; `metre` in fine pixels."""
    shape = along.shape
    stain = fractal(rng, (shape[0] or 1, shape[1] or 1), 2.2, 3 * metre)
    grain = fractal(rng, shape, 0.4, metre)
    shade = 1 + 0.05 * stain + 0.03 * grain
    match material.texture:
        case "sheets" | "rusty-sheets":
            width = np.float32(rng.uniform(0.8, 1.1))
            number = along / width + 7 * np.floor(down / np.float32(2.4))
            seam = ramp(np.abs(np.mod(along / width, 1) - 0.5), 0.40, 0.5)
            shade = shade * (1 + 0.15 * at(cells(rng), number)) * (1 - 0.2 * seam)
            tone = shade[..., None] * color
            amount = rng.uniform(0.5, 0.95) if material.texture == "rusty-sheets" else rng.uniform(0, 0.35)
            rust = amount * ramp(0.8 * stain + 1.3 * at(cells(rng), number) + 0.3 * grain, -0.4, 1.2)
            return tone + rust[..., None] * (linear((112, 66, 44)) * shade[..., None] - tone)
        case "pantiles":
            course = 0.5 + 0.5 * np.sin(down * np.float32(2 * np.pi / 0.42))
            tile = at(cells(rng), along / np.float32(0.35) + 31 * np.floor(down / np.float32(0.42)))
            shade = shade * (0.90 + 0.14 * course) * (1 + 0.10 * tile)
        case "slab":
            damp = ramp(stain, 0.2, 1.8)
            shade = (1 + 0.11 * stain + 0.05 * grain) * (1 - 0.22 * damp)
        case "tarp":
            fold = np.sin(along * 2.2 + 1.5 * stain) * np.sin(down * 1.7 + stain)
            shade = 1 + 0.10 * fold + 0.03 * grain
        case "ribs":
            shade = shade * (0.92 + 0.12 * (np.sin(along * np.float32(2 * np.pi / 0.5)) > 0))
        case "shingle":
            flake = at(cells(rng), along / np.float32(0.9) + 17 * np.floor(down / np.float32(0.3)))
            shade = shade * (1 + 0.16 * flake)
        case "thatch":
            straw = at(cells(rng), along / np.float32(0.12))
            shade = shade * (1 + 0.18 * straw + 0.08 * grain)
        case "membrane":
            seam = np.abs(np.mod(down / np.float32(3.0), 1) - 0.5) > 0.47
            shade = (1 + 0.03 * stain) * (1 - 0.2 * seam)
        case _:
            raise ValueError(f"no roof texture {material.texture!r}")
    return shade[..., None].astype(np.float32) * color


def _clutter(canvas: Canvas, rng: np.random.Generator, house: House) -> None:
    """Water tanks, stair heads and solar panels on a flat roof."""
    room = min(house.half_u, house.half_v) - 1.0
    for _ in range(int(rng.poisson(1.6)) if room > 1 else 0):
        u, v = rng.uniform(-1, 1) * (house.half_u - 1.2), rng.uniform(-1, 1) * (house.half_v - 1.2)
        x = house.x + u * np.cos(house.angle) - v * np.sin(house.angle)
        y = house.y + u * np.sin(house.angle) + v * np.cos(house.angle)
        kind = rng.choice(3)
        if kind == 0:
            _block(canvas, x, y, house.angle, (0.6, 0.6), house.eaves + 1.3, (34, 36, 40), is_round=True)
        elif kind == 1:
            _block(canvas, x, y, house.angle, (1.1, 0.9), house.eaves + 2.1, (150, 146, 138))
        else:
            _block(canvas, x, y, house.angle, (0.95, 0.7), house.eaves + 0.35, (38, 46, 74))


def _block(
    canvas: Canvas, x: float, y: float, angle: float, half: tuple[float, float], top: float, color: Color,
    *, is_round: bool = False,
) -> None:  # fmt: skip
    index, xs, ys = canvas.patch(x, y, max(half) * 1.5)
    u = (xs - x) * np.cos(angle) + (ys - y) * np.sin(angle)
    v = -(xs - x) * np.sin(angle) + (ys - y) * np.cos(angle)
    inside = np.hypot(u / half[0], v / half[1]) <= 1 if is_round else (np.abs(u) <= half[0]) & (np.abs(v) <= half[1])
    canvas.albedo[index][inside] = linear(color)
    canvas.height[index][inside] = top
    canvas.slope_x[index][inside] = 0
    canvas.slope_y[index][inside] = 0


def paint_walls(canvas: Canvas, town: Town) -> None:
    """Yard walls: thin, a little over head height, so that they mostly show by their shadow."""
    solid = canvas.mask(wall.buffer(0.14, cap_style="flat") for wall in town.walls) & (canvas.height <= 0)
    canvas.height[solid] = 1.7
    canvas.albedo[solid] = linear((168, 158, 144))


def paint_litter(canvas: Canvas, rng: np.random.Generator, town: Town) -> None:
    """Bins, heaps, washing and timber in the yards: small things that are no buildings."""
    for house in town.houses:
        for _ in range(int(rng.poisson(5))):
            away, turn = house.half_u + rng.uniform(0.5, 4.5), rng.uniform(0, 2 * np.pi)
            x, y = house.x + away * np.cos(turn), house.y + away * np.sin(turn)
            column, row = int(x / canvas.step), int(y / canvas.step)
            inside = 0 <= row < canvas.shape[0] and 0 <= column < canvas.shape[1]
            if not inside or canvas.height[row, column] > 0:
                continue
            half = (float(rng.uniform(0.15, 0.8)), float(rng.uniform(0.12, 0.45)))
            grey = rng.uniform(60, 215) + rng.normal(0, 22, 3)
            color = tuple(int(value) for value in np.clip(grey, 20, 240))
            _block(canvas, x, y, float(rng.uniform(0, np.pi)), half, float(rng.uniform(0.1, 1.1)), color)


def paint_car(canvas: Canvas, car: Car) -> None:
    """A body, and a lower dark strip of glass before and behind the cabin."""
    _block(canvas, car.x, car.y, car.angle, (2.1, 0.88), 0.9, car.color)
    _block(canvas, car.x, car.y, car.angle, (1.35, 0.76), 1.25, (26, 30, 36))
    roof = tuple(min(255, channel + 8) for channel in car.color)
    _block(canvas, car.x, car.y, car.angle, (0.85, 0.74), 1.45, (roof[0], roof[1], roof[2]))


def paint_tree(canvas: Canvas, rng: np.random.Generator, tree: Tree, style: Style) -> None:
    """A crown of many leaf clumps, or the fronds of a palm, over whatever lies below."""
    index, xs, ys = canvas.patch(tree.x, tree.y, tree.radius * 1.4)
    if not xs.size:
        return
    dx, dy = xs - np.float32(tree.x), ys - np.float32(tree.y)
    away, turn = np.hypot(dx, dy) / np.float32(tree.radius), np.arctan2(dy, dx)
    clumps = fractal(rng, xs.shape, 2.0, 0.9 / canvas.step)
    leaves = fractal(rng, xs.shape, 0.8, 0.3 / canvas.step)
    if tree.palm:
        fronds = np.abs(np.cos(turn * rng.integers(4, 6) + rng.uniform(0, 6))) ** 2
        edge = 0.28 + 0.72 * fronds + 0.05 * leaves
        dome = tree.height - 1.6 * away**2 + 0.25 * leaves
    else:
        lobes = 0.14 * np.sin(turn * rng.integers(2, 5) + rng.uniform(0, 6)) + 0.10 * clumps
        edge = 0.9 + lobes
        dome = tree.height - 0.75 * tree.radius * (away / 1.1) ** 2 + 0.55 * clumps + 0.30 * leaves
    inside = (away < edge) & (dome > canvas.height[index])
    tint = linear(style.crowns[tree.tint]) * np.float32(rng.uniform(0.8, 1.25))
    color = tint * (1 + 0.28 * leaves + 0.22 * clumps)[..., None]
    canvas.albedo[index][inside] = np.clip(color, 0.006, 0.5)[inside]
    rise_y, rise_x = np.gradient(dome, canvas.step)
    canvas.height[index][inside] = dome[inside]
    canvas.slope_x[index][inside] = np.clip(0.6 * rise_x, -1.1, 1.1)[inside]
    canvas.slope_y[index][inside] = np.clip(0.6 * rise_y, -1.1, 1.1)[inside]
