"""The map page: what travels in it, that it lets nothing in, and what it does in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.affinity import translate

from rsprompter_cli.draw.preview import (
    LARGEST_PICTURE,
    STEP,
    MapColumns,
    MapPicture,
    encode_polygons,
    fewer_vertices,
    map_page,
    object_tones,
    varints,
)
from tests.make.browser import Page, browser

EVIL = "</script><img src=x onerror=\"document.title='taken'\">&amp; {{7*7}} @DATA@"
SIDE = 400


def decoded(text: str) -> list[int]:
    """The numbers of `varints`, one byte after the other."""
    values, value, shift = [], 0, 0
    for byte in base64.b64decode(text):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            values.append(-(value + 1) // 2 if value % 2 else value // 2)
            value = shift = 0
    return values


@given(st.lists(st.integers(-(2**52), 2**52)))
def test_numbers_come_back(values: list[int]) -> None:
    assert decoded(varints(np.array(values, dtype=np.int64))) == values


corner = st.tuples(st.integers(0, 3000), st.integers(0, 3000), st.integers(2, 90), st.integers(2, 90))


@settings(max_examples=50, deadline=None)
@given(corners=st.lists(corner, max_size=6), hole=st.booleans(), apart=st.booleans())
def test_polygons_come_back_to_within_a_step(corners: list[Any], hole: bool, apart: bool) -> None:
    shapes = []
    for x, y, width, height in corners:
        shape: Any = shapely.box(x, y, x + width, y + height + 0.3)
        if hole and width > 4 and height > 4:
            shape = shape.difference(shapely.box(x + 1, y + 1, x + 3, y + 3))
        if apart:
            shape = shapely.union(shape, translate(shape, 4000, 0))
        shapes.append(shape)
    array = np.empty(len(shapes), dtype=object)
    array[:] = shapes
    code = {name: decoded(text) for name, text in encode_polygons(array).items()}
    xy = np.cumsum(np.array(code["xy"], dtype=np.int64).reshape(-1, 2), axis=0) * STEP
    vertices = iter(np.split(xy, np.cumsum(code["sizes"])[:-1]) if code["sizes"] else [])
    assert len(code["rings"]) == len(shapes)
    for shape, count in zip(shapes, code["rings"], strict=True):
        rings = [next(vertices) for _ in range(count)]
        # Those that wind the one way are outlines, the others holes.
        areas = [shapely.LinearRing(ring).is_ccw for ring in rings]
        outlines = shapely.union_all([shapely.Polygon(r) for r, ccw in zip(rings, areas, strict=True) if ccw])
        holes = shapely.union_all([shapely.Polygon(r) for r, ccw in zip(rings, areas, strict=True) if not ccw])
        assert shapely.hausdorff_distance(outlines.difference(holes), shape) <= STEP


def test_fewer_vertices_move_an_outline_by_less_than_a_pixel() -> None:
    round_one = shapely.Point(50, 50).buffer(20, quad_segs=64)
    simple = fewer_vertices(round_one)
    assert len(simple.exterior.coords) < 40
    assert shapely.hausdorff_distance(simple, round_one) < 1
    assert fewer_vertices(shapely.box(0, 0, 0.1, 0.1)).area > 0


def columns(polygons: list[Any], labels: list[int], scores: list[float], **more: Any) -> MapColumns:
    array = np.empty(len(polygons), dtype=object)
    array[:] = polygons
    count = len(polygons)
    return MapColumns(
        array,
        np.arange(1, count + 1),
        np.array(labels, dtype=np.int64),
        np.array(scores, dtype=np.float64),
        shapely.area(array) * 0.25,
        shapely.length(array) * 0.5,
        np.ones(count, dtype=np.int64),
        **more,
    )


GRID = [[(15 + x / 1000, 45 - y / 1000) for x in range(3)] for y in range(3)]


def small_page(title: str = "town.tif", name: str = EVIL) -> str:
    """Two squares of one class, one around the other, and one of another class, over a picture of 400 px."""
    polygons = [shapely.box(100, 100, 200, 200), shapely.box(140, 140, 160, 160), shapely.box(300, 250, 350, 350)]
    pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
    picture = MapPicture(pixels, 0, 0, SIDE, SIDE, grid=GRID, metres=0.5)
    shown = columns(polygons, [0, 0, 1], [0.5, 0.9, 0.7], quality=np.array([0.8, np.nan, 0.6]))
    return map_page(shown, picture, title=title, about="3 objects", classes=[("house", 2), (name, 1)])


def test_nothing_in_the_page_is_markup_but_our_own() -> None:
    page = small_page(title="<b>&\"'</b>")
    assert "<b>" not in page
    assert "onerror=" not in page.split('id="data">')[0]
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert not set("<>&") & set(data[1])
    assert json.loads(data[1])["classes"][1]["name"] == EVIL
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in page.split("</head>")[0]
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=|url\(|https?://|@import|fetch\(|XMLHttp|WebSocket", page.replace(data[1], ""))


def test_the_picture_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1600, 1600, 3)).astype(np.uint8)
    page = map_page(columns([], [], []), MapPicture(noise, 0, 0, 1600, 1600), title="a", about="", classes=[("a", 0)])
    assert len(page) < LARGEST_PICTURE * 4 / 3 + 40_000


@settings(max_examples=50, deadline=None)
@given(corners=st.lists(corner, max_size=12))
def test_neighbours_have_different_tones(corners: list[Any]) -> None:
    shapes = np.empty(len(corners), dtype=object)
    shapes[:] = [shapely.box(x, y, x + width, y + height) for x, y, width, height in corners]
    tones = object_tones(shapes)
    for i in range(len(shapes)):
        for j in range(i):
            assert tones[i] != tones[j] or not shapes[i].intersects(shapes[j])
    assert (object_tones(shapes) == tones).all()


def test_a_row_of_equal_objects_uses_several_tones() -> None:
    shapes = np.empty(40, dtype=object)
    shapes[:] = [shapely.box(20 * i, 0, 20 * i + 18, 18) for i in range(40)]
    tones = object_tones(shapes)
    assert (np.diff(tones) != 0).all()
    assert 4 <= len(set(tones.tolist())) <= 8


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def shown(page: Page) -> int:
    return int(page.value("document.body.dataset.shown"))


def view(page: Page) -> list[float]:
    """Left, top and scale."""
    return [float(word) for word in page.value("document.body.dataset.view").split()]


def on_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    left, top, scale = view(page)
    return (x - left) * scale, (y - top) * scale


def open_small(page: Page, folder: Path, **how: Any) -> None:
    path = folder / "map.html"
    path.write_text(small_page(), encoding="utf-8")
    page.requests.clear()
    page.complaints.clear()
    page.open(path, **how)
    page.settle()


def test_click_legend_and_slider(page: Page, tmp_path: Path) -> None:
    open_small(page, tmp_path)
    assert (shown(page), page.value("document.title")) == (3, "town.tif")
    page.click(*on_screen(page, 150, 150))  # the smaller of the two there
    rows = page.value("document.querySelector('#popup table').innerText")
    lines = [line.split("\t") for line in rows.splitlines()]
    assert lines[:3] == [["id", "2"], ["class", "house"], ["score", "0.90"]]
    assert "quality" not in rows  # it has none
    assert "100.0 m²" in rows
    assert "40.0 m" in rows
    assert "44.999250, 15.000750" in rows
    page.click(*on_screen(page, 320, 300))
    assert EVIL in page.value("document.getElementById('popup').innerText")
    page.value("document.querySelectorAll('#classes input')[1].click()")
    assert shown(page) == 2
    assert page.value("document.getElementById('popup').hidden")
    page.value("{const s = document.getElementById('score'); s.value = 0.8; s.dispatchEvent(new Event('input')); 0}")
    assert shown(page) == 1
    assert "0.80" in page.value("document.getElementById('scoreline').innerText")
    page.click(*on_screen(page, 110, 110))
    assert page.value("document.getElementById('popup').hidden")
    assert page.value("document.querySelectorAll('img, iframe').length") == 0
    assert page.complaints == []


def test_panel_and_buttons_cover_nothing_of_the_picture(page: Page, tmp_path: Path) -> None:
    picture = MapPicture(np.full((600, 1000, 3), 90, np.uint8), 0, 0, 1000, 600)
    html = map_page(columns([], [], []), picture, title="a", about="", classes=[("a", 0)])
    (tmp_path / "wide.html").write_text(html, encoding="utf-8")
    page.open(tmp_path / "wide.html")
    page.settle()
    left, right = on_screen(page, 0, 0)[0], on_screen(page, 1000, 0)[0]
    assert page.value("document.getElementById('panel').getBoundingClientRect().right") <= left
    assert right <= page.value("document.getElementById('zoom').getBoundingClientRect().left")
    assert right - left > 600


@pytest.mark.parametrize("each", [True, False])
def test_objects_of_everything_have_colours_of_their_own(page: Page, tmp_path: Path, each: bool) -> None:
    squares = [shapely.box(x, 100, x + 90, 300) for x in (0, 100, 200, 300)]
    picture = MapPicture(np.full((SIDE, SIDE, 3), 90, np.uint8), 0, 0, SIDE, SIDE)
    text = map_page(
        columns(squares, [0] * 4, [0.9] * 4),
        picture,
        title="a",
        about="",
        classes=[("object", 4)],
        colour_each=each,
    )
    path = tmp_path / "map.html"
    path.write_text(text, encoding="utf-8")
    page.complaints.clear()
    page.open(path)
    page.settle()
    seen = set()
    for square in squares:
        x, y = on_screen(page, *square.centroid.coords[0])
        seen.add(
            tuple(page.value(f"[...document.getElementById('map').getContext('2d').getImageData({x}, {y}, 1, 1).data]"))
        )
    assert len(seen) == (4 if each else 1)
    assert page.value("document.querySelectorAll('#classes li').length") == 1
    assert "Click an object" in page.value("document.getElementById('panel').innerText")
    page.click(*on_screen(page, 50, 200))
    assert "object" in page.value("document.querySelector('#popup table').innerText")
    # The browser remarks that this test reads pixels back.
    assert [one for one in page.complaints if "getImageData" not in one] == []


def test_moving_and_zooming_by_mouse_keys_and_fingers(page: Page, tmp_path: Path) -> None:
    open_small(page, tmp_path)
    before = view(page)
    page.drag(500, 300, 400, 350)
    after = view(page)
    assert (after[0] - before[0]) * before[2] == pytest.approx(100, abs=2)
    assert (after[1] - before[1]) * before[2] == pytest.approx(-50, abs=2)
    page.wheel(500, 300, -200)
    closer = view(page)
    assert closer[2] > 1.5 * after[2]
    # What lies under the cursor stays there.
    assert closer[0] + 500 / closer[2] == pytest.approx(after[0] + 500 / after[2], abs=0.1)
    page.value("document.getElementById('map').focus()")
    page.key("ArrowRight")
    assert view(page)[0] > closer[0]
    page.key("-")
    assert view(page)[2] < closer[2]
    page.key("0")
    assert view(page) == pytest.approx(before, abs=0.1)
    page.key("Escape")
    open_small(page, tmp_path, touch=True, width=390, height=700)
    assert not page.value("document.getElementById('panel').open")
    apart = view(page)
    page.pinch(200, 350, 2.0)
    assert view(page)[2] == pytest.approx(2 * apart[2], rel=0.1)
    assert page.complaints == []


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_can_be_read(page: Page, tmp_path: Path, dark: bool) -> None:
    from PIL import Image

    open_small(page, tmp_path, dark=dark)
    picture = np.asarray(Image.open(page.screenshot(tmp_path / "shot.png")).convert("L")).astype(int)
    bounds = page.value(
        "(r => [r.left, r.top, r.right, r.bottom])(document.getElementById('panel').getBoundingClientRect())"
    )
    left, top, right, bottom = (int(side) for side in bounds)
    panel = picture[top + 4 : bottom - 4, left + 4 : right - 4]
    assert (np.median(panel) < 80) == dark
    assert panel.max() - panel.min() > 170


def test_the_page_asks_nobody_for_anything(page: Page, tmp_path: Path) -> None:
    open_small(page, tmp_path)
    assert {request.split(":")[0] for request in page.requests} == {"file", "data"}
    assert len([request for request in page.requests if request.startswith("file:")]) == 1


def test_fifty_thousand_polygons(page: Page, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, y = random.uniform(0, 20_000, (2, 50_000))
    turn = random.uniform(0, 2 * np.pi, 50_000)[:, None] + np.linspace(0, 2 * np.pi, 9)[:-1]
    outline = np.stack([x[:, None] + 20 * np.cos(turn), y[:, None] + 14 * np.sin(turn)], axis=-1)
    polygons = list(shapely.polygons(outline))
    labels, scores = random.integers(0, 3, 50_000).tolist(), random.uniform(0.4, 1, 50_000).tolist()
    picture = MapPicture(np.full((256, 256, 3), 120, np.uint8), 0, 0, 20_000, 20_000, metres=0.3)
    names = [("a", 0), ("b", 0), ("c", 0)]
    text = map_page(columns(polygons, labels, scores), picture, title="many", about="", classes=names)
    assert len(text) < 4_000_000
    path = tmp_path / "many.html"
    path.write_text(text, encoding="utf-8")
    page.complaints.clear()
    page.open(path)
    page.settle()
    assert shown(page) == int(page.value("document.body.dataset.drawn")) == 50_000
    for _ in range(5):
        page.wheel(600, 350, -300)
    # Only what is in sight is drawn.
    assert 0 < int(page.value("document.body.dataset.drawn")) < 2_000
    assert page.complaints == []
