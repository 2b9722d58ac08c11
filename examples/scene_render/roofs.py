"""Roof surfaces: for points in a house's own frame, where it is, how high, and how its covering runs.

u runs along the house, v across it, metres from its centre. Each kind returns the same four
arrays; heights are metres above the eaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from shapely import affinity
from shapely.geometry import Point, Polygon, box
from shapely.ops import unary_union

Floats = NDArray[np.float32]


class Surface(NamedTuple):
    """inside: bool; height: metres above the eaves; along, down: metres on the roof, for textures."""

    inside: NDArray[np.bool_]
    height: Floats
    along: Floats
    down: Floats


@dataclass(frozen=True)
class Part:
    """A rectangle of a compound house: centre and half sizes in the house frame, metres."""

    u: float
    v: float
    half_u: float
    half_v: float

    @property
    def outline(self) -> Polygon:
        return box(self.u - self.half_u, self.v - self.half_v, self.u + self.half_u, self.v + self.half_v)


@dataclass(frozen=True)
class House:
    """One building.

    x, y: centre, metres; angle: direction of its length, radians; half_u, half_v: half sizes;
    eaves: height of the walls; slope: rise per metre of the roof; seed: of its covering.
    """

    kind: str
    x: float
    y: float
    angle: float
    half_u: float
    half_v: float
    eaves: float
    slope: float
    material: str
    seed: int

    @property
    def outline(self) -> Polygon:
        """The roof outline in scene metres."""
        polygon = _local_outline(self)
        cos, sin = float(np.cos(self.angle)), float(np.sin(self.angle))
        return affinity.affine_transform(polygon, (cos, -sin, sin, cos, self.x, self.y))


def parts_of(house: House) -> list[Part]:
    """The rectangles a compound house is made of."""
    a, b = house.half_u, house.half_v
    whole = Part(0, 0, a, b)
    wing = min(0.45 * a, 0.8 * b)
    if house.kind == "ell":
        return [Part(0, -b / 2, a, b / 2), Part(a - wing, 0.0, wing, b)]
    if house.kind == "tee":
        return [Part(0, -b / 2, a, b / 2), Part(0, 0.0, wing, b)]
    if house.kind == "cross":
        return [Part(0, 0, a, 0.5 * b), Part(0, 0, 0.4 * a, b)]
    return [whole]


def _courtyard(house: House) -> Part:
    width = 0.5 * min(house.half_u, house.half_v)
    return Part(0, 0, house.half_u - width, house.half_v - width)


def _is_round(house: House) -> bool:
    return house.kind in ("tank", "cone")


def _local_outline(house: House) -> Polygon:
    if _is_round(house):
        return Point(0, 0).buffer(house.half_u, quad_segs=12)
    outline = unary_union([part.outline for part in parts_of(house)])
    if house.kind in ("courtyard", "ring-shed"):
        outline = outline.difference(_courtyard(house).outline)
    return outline


def surface(house: House, u: Floats, v: Floats) -> Surface:
    """The roof at the points (u, v) of the house frame; outside the house it is extended."""
    if _is_round(house):
        return _round(house, u, v)
    if house.kind in ("courtyard", "ring-shed"):
        return _ring(house, u, v)
    if house.kind in ("ell", "tee", "cross"):
        return _compound(house, u, v)
    to_side, to_end = house.half_v - np.abs(v), house.half_u - np.abs(u)
    inside = (to_side >= 0) & (to_end >= 0)
    hipped = to_end < to_side
    faces = (np.where(hipped, v, u), np.where(hipped, to_end, to_side))
    match house.kind:
        case "gable":
            return Surface(inside, house.slope * to_side, u, to_side)
        case "hip":
            return Surface(inside, house.slope * np.minimum(to_side, to_end), *faces)
        case "shed":
            return Surface(inside, 0.5 * house.slope * (v + house.half_v), u, v)
        case "pyramid":
            steep = np.minimum(to_side / house.half_v, to_end / house.half_u)
            return Surface(inside, house.slope * house.half_v * steep, *faces)
        case "mansard":
            nearest = np.minimum(to_side, to_end)
            return Surface(inside, np.minimum(1.6 * nearest, 1.4 + 0.25 * nearest), *faces)
        case "barrel":
            across = np.sqrt(np.clip(1 - (v / house.half_v) ** 2, 0, 1))
            return Surface(inside, 0.5 * house.half_v * across, u, v)
        case "sawtooth":
            return Surface(inside, house.slope * np.mod(u + house.half_u, 4.0), v, np.mod(u, 4.0))
        case "flat":
            parapet = (np.minimum(to_side, to_end) < 0.25) & inside
            return Surface(inside, np.where(parapet, 0.55, 0.0).astype(np.float32), u, v)
    raise ValueError(f"no roof kind {house.kind!r}")


def _round(house: House, u: Floats, v: Floats) -> Surface:
    radius = np.hypot(u, v)
    turn = np.arctan2(v, u) * house.half_u
    if house.kind == "cone":
        return Surface(radius <= house.half_u, 0.6 * (house.half_u - radius), turn, radius)
    rim = np.where(radius > house.half_u - 0.2, 0.25, 0.0)
    return Surface(radius <= house.half_u, (rim + 0.12 * (house.half_u - radius)).astype(np.float32), turn, radius)


def _ring(house: House, u: Floats, v: Floats) -> Surface:
    court = _courtyard(house)
    outer = np.minimum(house.half_u - np.abs(u), house.half_v - np.abs(v))
    inner = np.maximum(np.abs(u) - court.half_u, np.abs(v) - court.half_v)
    inside = (outer >= 0) & (inner >= 0)
    along = np.where(house.half_u - np.abs(u) < house.half_v - np.abs(v), v, u)
    rise = inner if house.kind == "ring-shed" else np.minimum(outer, inner)
    return Surface(inside, house.slope * rise, along, outer)


def _compound(house: House, u: Floats, v: Floats) -> Surface:
    """Gables over each rectangle; where they meet the higher one shows, which makes the valleys."""
    height = np.full(u.shape, -9.0, np.float32)
    inside = np.zeros(u.shape, bool)
    along, down = np.zeros_like(u), np.zeros_like(u)
    for part in parts_of(house):
        du, dv = u - part.u, v - part.v
        to_u, to_v = part.half_u - np.abs(du), part.half_v - np.abs(dv)
        here = (to_u >= 0) & (to_v >= 0)
        lengthwise = part.half_u >= part.half_v
        across = to_v if lengthwise else to_u
        rise = np.where(here, house.slope * across, -9.0)
        higher = rise > height
        height = np.where(higher, rise, height)
        along = np.where(higher, du if lengthwise else dv, along)
        down = np.where(higher, across, down)
        inside |= here
    return Surface(inside, np.where(inside, height, 0).astype(np.float32), along, down)
