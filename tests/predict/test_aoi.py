"""The area of interest over a scene: which windows it wants, which objects touch it, what is left of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS
from shapely.geometry import mapping

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.crs import reproject, to_map
from rsprompter_cli.geo.raster.scene import Scene, open_scene
from rsprompter_cli.geo.vector.write import VECTOR_SUFFIXES, Feature, write_features
from rsprompter_cli.geo.windows import WindowGrid, make_grid
from rsprompter_cli.predict.aoi import AreaOfInterest, read_area
from rsprompter_cli.structures import Georef
from tests.make.scenes import UTM, paint, write_scene

PIXELS = Georef((1, 0, 0, 0, 1, 0), None, "none")


def opened(folder: Path, side: int = 300, **how: Any) -> Scene:
    return open_scene(write_scene(folder / "a.tif", paint(side, side, {}), **how), native=True)


def area_file(path: Path, scene: Scene, shapes: list[Any], crs: str) -> Path:
    """Polygons in pixels of a scene as a file in a CRS."""
    wkt = CRS.from_user_input(crs).to_wkt()
    moved = reproject(to_map(shapes, scene.georef), scene.georef.crs_wkt or "", wkt)
    write_features(path, [Feature(shape, {}) for shape in moved], wkt, attributes={})
    return path


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
@pytest.mark.parametrize("crs", ["EPSG:4326", UTM, "EPSG:3857"])
def test_an_area_of_any_format_and_system_lies_where_it_was_drawn(suffix: str, crs: str, tmp_path: Path) -> None:
    shape = shapely.Polygon([(20, 30), (220, 50), (200, 250)], [[(150, 100), (180, 110), (170, 140)]])
    with opened(tmp_path) as scene:
        path = area_file(tmp_path / f"aoi{suffix}", scene, [shape], crs)
        found = read_area(path, scene, make_grid(300, 300, size=64), cut=True)
    assert shapely.symmetric_difference(found.polygon, shape).area < 0.005 * shape.area


def test_several_polygons_are_one_area_and_what_lies_off_the_scene_is_left_aside(tmp_path: Path) -> None:
    with opened(tmp_path) as scene:
        shapes = [shapely.box(10, 10, 50, 50), shapely.box(40, 40, 90, 90), shapely.box(-500, -500, -400, -400)]
        found = read_area(
            area_file(tmp_path / "a.gpkg", scene, shapes, UTM), scene, make_grid(300, 300, size=64), cut=True
        )
    assert found.polygon.area == pytest.approx(40 * 40 + 50 * 50 - 100, rel=1e-6)


def test_the_whole_world_is_the_whole_scene(tmp_path: Path) -> None:
    path = tmp_path / "world.geojson"
    world = {"type": "Polygon", "coordinates": [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]]}
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": world}))
    with opened(tmp_path) as scene:
        found = read_area(path, scene, make_grid(300, 300, size=64), cut=False)
    assert found.polygon.area == pytest.approx(300 * 300)


def test_a_scene_over_the_antimeridian(tmp_path: Path) -> None:
    from affine import Affine

    transform = Affine(0.001, 0, 179.9, 0, -0.001, 10)
    east = {
        "type": "Polygon",
        "coordinates": [[[-179.95, 9.8], [-179.85, 9.8], [-179.85, 9.9], [-179.95, 9.9], [-179.95, 9.8]]],
    }
    path = tmp_path / "east.geojson"
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": east}))
    with opened(tmp_path, crs="EPSG:4326", transform=transform) as scene:
        found = read_area(path, scene, make_grid(300, 300, size=64), cut=True)
    assert found.polygon.bounds == pytest.approx((150, 100, 250, 200), abs=1e-3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"type": "FeatureCollection", "features": []}', "contains no polygon"),
        ("", "not a vector file"),
        ('{"type": "Point", "coordinates": [15, 45]}', "is a polygon"),
        ('{"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2], [1, 1]]]}', "does not overlap"),
        ('{"type": "Polygon", "coordinates": [[[500, 600], [501, 600], [501, 601], [500, 600]]]}', "longitude and"),
    ],
)  # fmt: skip
def test_an_area_that_is_none_is_an_error_of_one_line(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "aoi.geojson"
    path.write_text(content)
    with opened(tmp_path) as scene, pytest.raises(InputError, match=said) as caught:
        read_area(path, scene, make_grid(300, 300, size=64), cut=False)
    assert str(path) in str(caught.value)


def test_pixels_of_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "aoi.geojson"
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": mapping(shapely.box(10, 20, 60, 50))}))
    grid = make_grid(300, 300, size=64)
    with open_scene(write_scene(tmp_path / "p.tif", paint(300, 300, {}), crs=None), pixel_coords=True) as scene:
        assert read_area(path, scene, grid, cut=True, pixel_coords=True).polygon.equals(shapely.box(10, 20, 60, 50))
        with pytest.raises(InputError, match="--pixel-coords") as caught:
            read_area(path, scene, grid, cut=True)
        path.write_text(json.dumps(mapping(shapely.box(400, 20, 460, 50))))
        with pytest.raises(InputError, match="pixels 400 to 460"):
            read_area(path, scene, grid, cut=True, pixel_coords=True)
    assert "p.tif: is not georeferenced, so --aoi" in caught.value.message


boxes = st.tuples(*[st.integers(0, 300)] * 4).map(
    lambda c: shapely.box(min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]) + 1, max(c[1], c[3]) + 1)
)


@settings(max_examples=60, deadline=None)
@given(area=boxes, objects=st.lists(boxes, min_size=1, max_size=8), size=st.sampled_from([40, 64, 100]))
def test_the_law_of_touching_cutting_and_reading(area: Any, objects: list[Any], size: int) -> None:
    grid = make_grid(301, 301, size=size)
    for cut in (True, False):
        found = AreaOfInterest(area, grid, cut=cut)
        touching = found.touches(objects)
        assert touching.tolist() == [shapely.intersection(one, area).area > 0 for one in objects]
        wanted = [window for window in grid.windows() if found.wants(window)]
        # Every point of the area is seen by every window that holds it.
        for window in grid.windows():
            meets = shapely.intersection(shapely.box(*window.box), area).area > 0
            assert not meets or window in wanted
            if cut:
                assert meets == (window in wanted)
    inside = AreaOfInterest(area, grid, cut=True)
    left = inside.cut([one for one, touches in zip(objects, touching, strict=True) if touches])
    for one, whole in zip(left, [one for one, touches in zip(objects, touching, strict=True) if touches], strict=True):
        assert shapely.symmetric_difference(one, shapely.intersection(whole, area)).area < 1e-9
        assert one.is_valid


def test_objects_that_go_on_beyond_what_is_read_are_counted() -> None:
    grid: WindowGrid = make_grid(1000, 1000, size=100)
    found = AreaOfInterest(shapely.box(100, 100, 200, 200), grid, cut=False)
    assert found.touches([shapely.box(190, 110, 215, 130)]).all()
    assert found.unfinished == 0
    assert found.touches([shapely.box(190, 110, 600, 130), shapely.box(120, 120, 130, 130)]).all()
    assert found.unfinished == 1
    assert np.asarray(found.touches([shapely.box(200, 100, 220, 120)])).tolist() == [False]
