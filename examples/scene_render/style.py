"""What a town is made of: roof kinds, roof materials, grounds and light.

EXAMPLE_STYLE belongs to the example scene that `rsp` is shown on. TRAIN_STYLE is for synthetic
training scenes. The two share no roof kind, no roof texture, no ground texture and no seed, so
that a model trained on synthetic scenes has never seen what the example is made of.
"""

from __future__ import annotations

from dataclasses import dataclass

Color = tuple[int, int, int]
"""sRGB, 0..255."""


@dataclass(frozen=True)
class Material:
    """A roof covering: its mean colour, how much it varies from house to house, and its texture."""

    name: str
    color: Color
    spread: float
    texture: str


@dataclass(frozen=True)
class Ground:
    """Colours of the bare ground and what grows on it, and the fall-off of its noise spectrum."""

    grass: tuple[Color, ...]
    soil: tuple[Color, ...]
    roughness: float
    road: Color
    track: Color


@dataclass(frozen=True)
class Style:
    """One family of towns.

    roofs: weight of each roof kind (see `roofs.py`); materials: weight of each covering;
    seeds: the seeds this style may be rendered with; sun: range of elevation, degrees.
    """

    name: str
    seeds: range
    roofs: dict[str, float]
    materials: tuple[tuple[Material, float], ...]
    ground: Ground
    crowns: tuple[Color, ...]
    palms: float
    sun: tuple[float, float]


EXAMPLE_STYLE = Style(
    name="example",
    seeds=range(0, 1000),
    roofs={"flat": 0.24, "gable": 0.34, "hip": 0.20, "ell": 0.09, "tee": 0.06, "courtyard": 0.04, "tank": 0.03},
    materials=(
        (Material("rust tin", (139, 92, 70), 0.16, "rusty-sheets"), 0.26),
        (Material("grey metal", (172, 176, 178), 0.10, "sheets"), 0.28),
        (Material("concrete", (158, 153, 143), 0.12, "slab"), 0.16),
        (Material("terracotta", (160, 104, 80), 0.14, "pantiles"), 0.17),
        (Material("blue tarp", (66, 106, 158), 0.12, "tarp"), 0.05),
        (Material("red paint", (138, 74, 68), 0.16, "sheets"), 0.08),
    ),
    ground=Ground(
        grass=((92, 104, 58), (74, 92, 48), (122, 122, 74)),
        soil=((168, 136, 104), (146, 116, 88), (184, 158, 126)),
        roughness=2.1,
        road=(116, 114, 112),
        track=(174, 148, 118),
    ),
    crowns=((78, 98, 52), (92, 114, 58), (64, 86, 50), (108, 124, 70)),
    palms=0.22,
    sun=(44.0, 52.0),
)

TRAIN_STYLE = Style(
    name="train",
    seeds=range(1000, 1_000_000_000),
    roofs={
        "shed": 0.22,
        "pyramid": 0.18,
        "mansard": 0.16,
        "barrel": 0.10,
        "sawtooth": 0.06,
        "cross": 0.10,
        "ring-shed": 0.10,
        "cone": 0.08,
    },
    materials=(
        (Material("green ribs", (88, 112, 92), 0.18, "ribs"), 0.22),
        (Material("shingle", (98, 92, 90), 0.22, "shingle"), 0.26),
        (Material("thatch", (142, 122, 88), 0.14, "thatch"), 0.16),
        (Material("membrane", (206, 204, 198), 0.12, "membrane"), 0.22),
        (Material("slate", (84, 90, 102), 0.14, "shingle"), 0.14),
    ),
    ground=Ground(
        grass=((112, 118, 64), (98, 112, 70), (138, 134, 92)),
        soil=((178, 124, 88), (196, 168, 132), (140, 122, 102)),
        roughness=1.6,
        road=(132, 130, 126),
        track=(186, 150, 112),
    ),
    crowns=((84, 108, 58), (104, 120, 70), (70, 94, 58)),
    palms=0.0,
    sun=(32.0, 70.0),
)
