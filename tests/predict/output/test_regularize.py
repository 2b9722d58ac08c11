"""Square corners on their way through a prediction: in every frame, with the other options, inside the scene."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.features import rasterize
from shapely.affinity import rotate
from shapely.geometry import box

from rsprompter_cli.geo.vector.write import read_footprints
from rsprompter_cli.predict.output.postprocess import FoundObject, finish_objects
from rsprompter_cli.predict.scene import predict_scene
from tests.make.rfc7946 import problems
from tests.make.scenes import ORIGIN, UTM, paint, write_scene
from tests.make.stub_model import COLOURS, blob_model


def _painted(height: int, width: int, *polygons: Any) -> np.ndarray:
    pixels = np.full((3, height, width), 90, np.uint8)
    mask = rasterize(polygons, out_shape=(height, width)).astype(bool)
    pixels[:, mask] = np.array(COLOURS["red"], np.uint8)[:, None]
    return pixels


def _found(scene: Path, out: Path, **options: Any) -> list[Any]:
    """The polygons on their way into the file, in pixels."""
    polygons = []

    def watched(*arguments: Any, **more: Any) -> Iterator[FoundObject]:
        for one in finish_objects(*arguments, **more):
            polygons.append(one.polygon)
            yield one

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rsprompter_cli.predict.scene.finish_objects", watched)
        result = predict_scene(scene, out, model=blob_model(), native=True, **options)
    assert result.objects == len(polygons)
    return polygons


def _right_angles(polygon: Any, to_ground: np.ndarray) -> bool:
    walls = np.diff(shapely.get_coordinates(polygon.exterior) @ to_ground, axis=0)
    walls /= np.hypot(*walls.T)[:, None]
    return bool(np.abs((walls * np.roll(walls, 1, axis=0)).sum(axis=1)).max() < 2e-3)


HOUSE = rotate(box(20, 30, 80, 60), 25)


def test_an_object_over_several_windows_gets_four_corners(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", _painted(110, 110, HOUSE))
    (before,) = _found(scene, tmp_path / "before.geojson")
    (after,) = _found(scene, tmp_path / "after.geojson", regularize=True)
    assert len(before.exterior.coords) > 20
    assert len(after.exterior.coords) == 5
    assert after.hausdorff_distance(HOUSE) < 1.5
    assert problems((tmp_path / "after.geojson").read_text()) == []


@pytest.mark.parametrize(
    ("crs", "transform", "to_ground"),
    [
        (UTM, Affine(0.25, 0.1, ORIGIN[0], 0.0, -0.5, ORIGIN[1]), [[0.25, 0.0], [0.1, -0.5]]),  # sheared
        ("EPSG:4326", Affine(5e-6, 0, 10, 0, -5e-6, 60), [[0.279, 0.0], [0.0, -0.5571]]),
    ],
)
def test_corners_are_square_on_the_ground_and_not_in_the_picture(
    tmp_path: Path, crs: str, transform: Affine, to_ground: list[list[float]]
) -> None:
    on_ground = rotate(box(0, 0, 20, 12), 30)
    inside = shapely.transform(on_ground, lambda xy: xy @ np.linalg.inv(to_ground))
    x0, y0, _, _ = inside.bounds
    inside = shapely.transform(inside, lambda xy: xy - (x0 - 10, y0 - 10))
    width, height = (math.ceil(value) + 10 for value in inside.bounds[2:])
    scene = write_scene(tmp_path / "a.tif", _painted(height, width, inside), crs=crs, transform=transform)
    (found,) = _found(scene, tmp_path / "a.geojson", regularize=True)
    assert len(found.exterior.coords) == 5
    assert _right_angles(found, np.array(to_ground))
    assert not _right_angles(found, np.eye(2))


def test_without_georeference_corners_are_square_in_the_picture(tmp_path: Path) -> None:
    picture = write_scene(tmp_path / "a.tif", _painted(110, 110, HOUSE), crs=None)
    for out in ("a.json", "a.png"):
        (found,) = _found(picture, tmp_path / out, regularize=True)
        assert len(found.exterior.coords) == 5
        assert _right_angles(found, np.eye(2))


def test_it_stays_inside_the_scene(tmp_path: Path) -> None:
    cut = rotate(box(-20, 30, 60, 70), 25)
    scene = write_scene(tmp_path / "a.tif", _painted(110, 110, cut))
    (found,) = _found(scene, tmp_path / "a.json", regularize=True)
    assert found.is_valid
    assert box(0, 0, 110, 110).covers(found)
    (annotation,) = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert min(annotation["bbox"]) >= 0


def test_a_hut_keeps_its_bytes_and_the_order_is_square_simplify_area(tmp_path: Path) -> None:
    hut, shed = shapely.Point(30, 30).buffer(16), rotate(box(70, 70, 78, 78), 30)
    scene = write_scene(tmp_path / "a.tif", _painted(110, 110, hut, shed))
    plain = _found(scene, tmp_path / "plain.geojson")
    squared = _found(scene, tmp_path / "squared.geojson", regularize=True)
    assert squared[0].equals_exact(plain[0])
    assert len(squared[1].exterior.coords) == 5
    both = _found(scene, tmp_path / "both.geojson", regularize=True, simplify=0.5, min_area=30)
    assert len(both) == 1  # the shed has 16 m2
    assert len(both[0].exterior.coords) < len(plain[0].exterior.coords)


def test_features_of_a_file_are_those_of_the_objects(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", _painted(110, 110, HOUSE))
    (found,) = _found(scene, tmp_path / "a.gpkg", regularize=True)
    (written,) = read_footprints(tmp_path / "a.gpkg").polygons
    assert shapely.get_num_coordinates(written) == 5
    assert written.area == pytest.approx(found.area * 0.25, rel=1e-6)


def test_nothing_found_stays_nothing(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(60, 60, {}))
    assert _found(scene, tmp_path / "a.geojson", regularize=True) == []
