"""Where things stand: roads, rows and yards of houses, plots, walls, trees and cars."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from shapely import STRtree
from shapely.geometry import LineString, Point, Polygon, box

from scene_render.roofs import House
from scene_render.style import Style


@dataclass(frozen=True)
class Road:
    """A centre line, its width in metres, and whether it is paved."""

    line: LineString
    width: float
    paved: bool


@dataclass(frozen=True)
class Tree:
    """A crown: centre, radius and height of its top, metres; a palm has fronds instead of a ball."""

    x: float
    y: float
    radius: float
    height: float
    palm: bool
    tint: int


@dataclass(frozen=True)
class Car:
    """Centre, direction and colour (sRGB)."""

    x: float
    y: float
    angle: float
    color: tuple[int, int, int]


@dataclass
class Town:
    """Everything that stands in a scene of width x height metres."""

    width: float
    height: float
    roads: list[Road] = field(default_factory=list)
    houses: list[House] = field(default_factory=list)
    plots: list[Polygon] = field(default_factory=list)
    walls: list[LineString] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    cars: list[Car] = field(default_factory=list)


def plan_town(rng: np.random.Generator, style: Style, width: float, height: float) -> Town:
    """A town of the given size in metres: about one building for each 550 square metres."""
    town = Town(width, height)
    town.roads = _roads(rng, width, height)
    builder = _Builder(rng, style, town)
    wanted = max(4, round(width * height / 550))
    for road in town.roads:
        builder.line_street(road, wanted)
    builder.fill_yards(wanted)
    _plots_and_walls(rng, town)
    _plant(rng, style, town)
    _park(rng, town)
    return town


def _roads(rng: np.random.Generator, width: float, height: float) -> list[Road]:
    reach = width + height
    middle = np.array([width * rng.uniform(0.35, 0.65), height * rng.uniform(0.4, 0.6)])
    turn = rng.uniform(-0.35, 0.35)
    along = np.array([np.cos(turn), np.sin(turn)])
    across = np.array([-along[1], along[0]])
    roads = [Road(_bend(rng, middle, along, reach), rng.uniform(6.0, 7.5), True)]
    spacing = rng.uniform(62, 80)
    count = int(width / spacing) + 1
    for number in range(-count // 2, count // 2 + 1):
        foot = middle + along * (number + rng.uniform(-0.15, 0.15)) * spacing
        lean = across + along * rng.uniform(-0.2, 0.2)
        roads.append(Road(_bend(rng, foot, lean / np.hypot(*lean), reach), rng.uniform(3.0, 4.5), rng.random() < 0.15))
    for side in (-1, 1):
        foot = middle + across * side * rng.uniform(0.28, 0.36) * height
        roads.append(Road(_bend(rng, foot, along, reach), rng.uniform(2.6, 3.6), False))
    frame = box(-10, -10, width + 10, height + 10)
    return [road for road in roads if road.line.intersects(frame)]


def _bend(rng: np.random.Generator, foot: np.ndarray, along: np.ndarray, reach: float) -> LineString:
    steps = np.arange(-reach, reach, 4.0)
    across = np.array([-along[1], along[0]])
    waves = [(rng.uniform(1.0, 4.0), rng.uniform(60, 170), rng.uniform(0, 6.28)) for _ in range(3)]
    swing = sum(size * np.sin(steps / length * 6.28 + phase) for size, length, phase in waves)
    return LineString(foot + steps[:, None] * along + np.asarray(swing)[:, None] * across)


_FLAT_SHARE = {
    "concrete": 2.2,
    "grey metal": 0.5,
    "rust tin": 0.5,
    "blue tarp": 0.5,
    "terracotta": 0.0,
    "red paint": 0.2,
}
"""How much likelier each covering is on a flat roof: tiles need a slope."""


class _Builder:
    """Places houses one after another, never over a road or another house."""

    def __init__(self, rng: np.random.Generator, style: Style, town: Town) -> None:
        self.rng, self.style, self.town = rng, style, town
        self.outlines: list[Polygon] = []
        self.lanes = STRtree([road.line.buffer(road.width / 2 + 0.8) for road in town.roads])

    def line_street(self, road: Road, wanted: int) -> None:
        """Rows of touching houses and single houses on both sides of a road."""
        rng = self.rng
        for side in (-1, 1):
            place = rng.uniform(0, 10)
            while place < road.line.length and len(self.outlines) < 0.72 * wanted:
                row = rng.integers(3, 6) if road.paved and rng.random() < 0.5 else 1
                place += self._row(road, side, place, int(row)) + rng.uniform(1.5, 13.0)

    def _row(self, road: Road, side: int, place: float, count: int) -> float:
        """A row of `count` houses that share their walls; returns the length of street it took."""
        rng = self.rng
        first, ahead = road.line.interpolate(place), road.line.interpolate(place + 3)
        angle = float(np.arctan2(ahead.y - first.y, ahead.x - first.x)) + rng.normal(0, 0.04)
        depth = rng.uniform(3.2, 5.6)
        back = side * (road.width / 2 + rng.uniform(1.2, 4.5) + depth)
        taken = 0.0
        for _ in range(count):
            house = self._house(angle, half_v=depth, row=count > 1)
            length = house.half_u
            x = first.x + (taken + length) * np.cos(angle) - back * np.sin(angle)
            y = first.y + (taken + length) * np.sin(angle) + back * np.cos(angle)
            self._try(replace(house, x=float(x), y=float(y)), gap=-0.02 if count > 1 else 0.8)
            taken += 2 * length
        return taken

    def fill_yards(self, wanted: int) -> None:
        """Houses and sheds behind the streets, in the direction of their nearest neighbour."""
        rng, town = self.rng, self.town
        for _ in range(60 * wanted):
            if len(self.outlines) >= wanted:
                return
            x, y = rng.uniform(-2, town.width + 2), rng.uniform(-2, town.height + 2)
            near = min(town.houses, key=lambda house: (house.x - x) ** 2 + (house.y - y) ** 2, default=None)
            angle = (near.angle if near else 0.0) + rng.choice([0, np.pi / 2]) + rng.normal(0, 0.06)
            small = rng.random() < 0.35
            house = self._house(float(angle), half_v=rng.uniform(1.3, 2.2) if small else None, small=small)
            self._try(replace(house, x=x, y=y), gap=0.3 if small else 1.2)

    def _house(self, angle: float, half_v: float | None = None, *, row: bool = False, small: bool = False) -> House:
        rng, style = self.rng, self.style
        kinds = list(style.roofs)
        simple = [kind for kind in kinds if kind in ("flat", "gable", "hip", "shed", "pyramid", "barrel", "mansard")]
        usable = simple if row or small else kinds
        weight = np.array([style.roofs[kind] for kind in usable])
        kind = usable[int(rng.choice(len(usable), p=weight / weight.sum()))]
        if kind in ("tank", "cone"):
            half_u = half_v = float(rng.uniform(2.4, 4.8))
        elif kind in ("courtyard", "ring-shed"):
            half_u, half_v = float(rng.uniform(7.5, 11)), float(rng.uniform(6.5, 8.5))
        elif kind in ("ell", "tee", "cross"):
            half_u, half_v = float(rng.uniform(5.5, 9)), float(rng.uniform(4.5, 6.5))
        else:
            half_v = half_v or float(rng.uniform(2.6, 5.6))
            half_u = half_v * float(rng.uniform(0.75, 1.2) if row else rng.uniform(1.0, 1.9))
        flat = kind in ("flat", "tank", "barrel", "sawtooth")
        eaves = rng.uniform(2.0, 2.6) if small else rng.choice([2.8, 3.1, 3.4, 5.8], p=[0.35, 0.3, 0.2, 0.15])
        return House(
            kind=kind, x=0.0, y=0.0, angle=angle, half_u=half_u, half_v=half_v,
            eaves=float(eaves + (0.6 if flat else 0.0)), slope=float(rng.uniform(0.28, 0.6)),
            material=self._material(kind), seed=int(rng.integers(2**31)),
        )  # fmt: skip

    def _material(self, kind: str) -> str:
        names = [material.name for material, _ in self.style.materials]
        weight = np.array([share for _, share in self.style.materials])
        if kind in ("flat", "tank"):
            weight = weight * np.array([_FLAT_SHARE.get(name, 1.0) for name in names])
        if kind in ("hip", "ell", "tee", "courtyard"):
            weight = weight * np.array([0.1 if name == "concrete" else 1.0 for name in names])
        if kind == "cone":
            weight = weight * np.array([4.0 if name == "thatch" else 1.0 for name in names])
        return names[int(self.rng.choice(len(names), p=weight / weight.sum()))]

    def _try(self, house: House, gap: float) -> bool:
        outline = house.outline
        frame = box(0, 0, self.town.width, self.town.height)
        # A house of which only a rim shows would be a sliver in the ground truth.
        if outline.intersection(frame).area < 0.4 * outline.area:
            return False
        if len(self.lanes.query(outline, predicate="intersects")):
            return False
        room = Polygon(outline.exterior).buffer(gap, join_style="mitre")
        if any(room.intersects(other) and room.intersection(other).area > 1e-6 for other in self.outlines):
            return False
        self.town.houses.append(house)
        self.outlines.append(Polygon(outline.exterior))  # a courtyard stays empty
        return True


def _plots_and_walls(rng: np.random.Generator, town: Town) -> None:
    solid = [house.outline for house in town.houses] + [road.line.buffer(road.width / 2) for road in town.roads]
    tree = STRtree(solid)
    for _ in range(int(town.width * town.height / 260)):
        x, y = rng.uniform(0, town.width), rng.uniform(0, town.height)
        near = min(town.houses, key=lambda house: (house.x - x) ** 2 + (house.y - y) ** 2)
        size = (rng.uniform(4, 10), rng.uniform(3, 7))
        plot = replace(near, kind="gable", x=x, y=y, half_u=size[0], half_v=size[1]).outline
        if len(tree.query(plot.buffer(1.0), predicate="intersects")) == 0:
            town.plots.append(plot)
            solid.append(plot)
            tree = STRtree(solid)
    roads = STRtree([road.line.buffer(road.width / 2 + 0.3) for road in town.roads])
    houses = STRtree([house.outline for house in town.houses])
    for house in town.houses:
        if rng.random() < 0.4 and house.half_v > 2.5:
            margin = rng.uniform(2.0, 5.0)
            yard = replace(house, kind="gable", half_u=house.half_u + margin, half_v=house.half_v + margin).outline
            if len(roads.query(yard, predicate="intersects")) == 0 and len(houses.query(yard.boundary)) == 1:
                town.walls.append(LineString(list(yard.exterior.coords)[: int(rng.integers(3, 6))]))


def _plant(rng: np.random.Generator, style: Style, town: Town) -> None:
    roads = STRtree([road.line.buffer(road.width / 2) for road in town.roads])
    houses = STRtree([house.outline for house in town.houses])
    groves = [(rng.uniform(0, town.width), rng.uniform(0, town.height)) for _ in range(max(2, int(town.width / 28)))]
    for _ in range(int(town.width * town.height / 190)):
        if rng.random() < 0.5:
            grove = groves[int(rng.integers(len(groves)))]
            x, y = rng.normal(grove[0], 8), rng.normal(grove[1], 8)
        else:
            x, y = rng.uniform(0, town.width), rng.uniform(0, town.height)
        palm = bool(rng.random() < style.palms)
        shrub = rng.random() < 0.45
        radius = rng.uniform(1.6, 2.6) if palm else rng.uniform(0.5, 1.3) if shrub else rng.uniform(1.6, 4.2)
        # A stem needs ground; the crown may hang over a roof, but not swallow it.
        if len(houses.query(Point(x, y).buffer(0.45 * radius), predicate="intersects")):
            continue
        if len(roads.query(Point(x, y).buffer(0.4 * radius), predicate="intersects")):
            continue
        height = radius * rng.uniform(0.8, 1.3) if shrub and not palm else rng.uniform(4.0, 8.5)
        town.trees.append(Tree(x, y, radius, height, palm, int(rng.integers(len(style.crowns)))))


def _park(rng: np.random.Generator, town: Town) -> None:
    colors = [(214, 214, 212), (60, 62, 66), (150, 152, 156), (130, 44, 42), (58, 78, 120), (186, 170, 130)]
    for road in town.roads:
        for _ in range(int(rng.poisson(14.0 if road.paved else 4.0))):
            place = rng.uniform(0, road.line.length - 4)
            here, ahead = road.line.interpolate(place), road.line.interpolate(place + 2)
            angle = float(np.arctan2(ahead.y - here.y, ahead.x - here.x))
            off = rng.choice([-1, 1]) * road.width * 0.27
            car = Car(
                here.x - off * np.sin(angle),
                here.y + off * np.cos(angle),
                angle + rng.normal(0, 0.03),
                colors[int(rng.integers(len(colors)))],
            )
            if all((car.x - other.x) ** 2 + (car.y - other.y) ** 2 > 36 for other in town.cars):
                town.cars.append(car)
