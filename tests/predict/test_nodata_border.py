"""A collar of nothing around a scene: windows begin where its pixels do, so no polygon and no shard is another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from shapely.geometry import shape

from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from rsprompter_cli.models.load import LoadedModel, load_model
from rsprompter_cli.predict.merge import merge_parts
from rsprompter_cli.predict.options import Reading
from rsprompter_cli.predict.plan import scene_info
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.shard import Shard
from rsprompter_cli.predict.shards import predict_shard
from tests.make.scenes import ORIGIN, UTM, paint, write_scene
from tests.make.stub_model import blob_model
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model

SIZE = 150
OPTIONS: dict[str, Any] = {"native": True, "score": 0.0}
OBJECTS = {"red": [(10, 15, 70, 60), (90, 20, 140, 130)], "blue": [(20, 80, 75, 140)]}


def write_framed(path: Path, collar: int, *, objects: dict[str, Any] = OBJECTS) -> Path:
    """The same ground at the same place, `collar` empty pixels above and left of it and twice as many beyond."""
    opaque = np.full((1, SIZE, SIZE), 255, np.uint8)
    pixels = np.concatenate([paint(SIZE, SIZE, objects), opaque])
    framed = np.pad(pixels, ((0, 0), (collar, 2 * collar), (collar, 2 * collar)))
    place = Affine(0.5, 0, ORIGIN[0] - collar / 2, 0, -0.5, ORIGIN[1] + collar / 2)
    return write_scene(path, framed, transform=place, photometric="RGB", alpha="yes")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A small model with random weights: what it finds depends on where windows fall."""
    folder = tmp_path_factory.mktemp("model") / "best"
    write_checkpoint(folder, tiny_model(num_classes=2).state_dict(), tiny_config(), tiny_meta(num_classes=2))
    return load_model(folder)


def features(path: Path) -> list[tuple[str, float, Any]]:
    """(class, score, polygon), ordered by what does not depend on rounding."""
    found = json.loads(path.read_text())["features"]
    rows = [(one["properties"]["class"], one["properties"]["score"], shape(one["geometry"])) for one in found]
    return sorted(rows, key=lambda row: (row[0], row[1], round(row[2].area, 9)))


@pytest.mark.parametrize("collar", [1, 40, 77])
def test_a_collar_changes_no_polygon(tmp_path: Path, model: LoadedModel, collar: int) -> None:
    plain = predict_scene(write_framed(tmp_path / "a.tif", 0), tmp_path / "a.geojson", model=model, **OPTIONS)
    framed = predict_scene(write_framed(tmp_path / "b.tif", collar), tmp_path / "b.geojson", model=model, **OPTIONS)
    one, other = features(tmp_path / "a.geojson"), features(tmp_path / "b.geojson")
    assert plain.plan.windows == framed.plan.windows
    assert plain.plan.windows > 4
    assert len(one) > 5
    assert [row[:2] for row in one] == [row[:2] for row in other]
    # Seven decimals of a degree.
    assert all(shapely.equals_exact(a[2], b[2], tolerance=2e-7) for a, b in zip(one, other, strict=True))


def test_shards_of_a_scene_with_a_collar(tmp_path: Path, model: LoadedModel) -> None:
    scene = write_framed(tmp_path / "a.tif", 40)
    predict_scene(scene, tmp_path / "a.geojson", model=model, **OPTIONS)
    parts = [tmp_path / f"{number}.part" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        predict_shard(scene, part, Shard(number, 3), model=model, **OPTIONS)
    merge_parts(parts, tmp_path / "b.geojson")
    assert (tmp_path / "b.geojson").read_bytes() == (tmp_path / "a.geojson").read_bytes()


def test_an_area_of_interest_lies_where_it_lay(tmp_path: Path) -> None:
    # The object in the area goes on beyond it, where no window is read without a collar, nor with one.
    corners = [(ORIGIN[0] + x / 2, ORIGIN[1] - y / 2) for x, y in ((20, 90), (30, 90), (30, 100), (20, 100))]
    area = tmp_path / "area.geojson"
    geopandas.GeoDataFrame(geometry=[shapely.Polygon(corners)], crs=UTM).to_file(area)
    found = []
    for collar in (0, 77):
        scene = write_framed(tmp_path / f"{collar}.tif", collar)
        out = tmp_path / f"{collar}.geojson"
        result = predict_scene(scene, out, model=blob_model(), native=True, aoi=str(area))
        found.append((result.plan.windows_in_area, [row[:2] for row in features(out)]))
    assert found[0] == found[1]
    assert [name for name, _ in found[0][1]] == ["blue"]


def test_a_scene_of_nothing_has_the_windows_of_its_size(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", np.zeros((4, 200, 300), np.uint8), photometric="RGB", alpha="yes")
    result = predict_scene(path, tmp_path / "a.geojson", model=blob_model(), native=True)
    assert result.plan.windows == 4 * 6
    assert features(tmp_path / "a.geojson") == []


def test_a_picture_that_goes_through_whole_keeps_its_frame(tmp_path: Path) -> None:
    path = write_scene(
        tmp_path / "a.png", np.pad(paint(40, 40, {}), ((0, 0), (20, 20), (20, 20))), crs=None, driver="PNG", nodata=0
    )
    with Reading().open(path, None) as scene:
        grid = Reading().windows(scene, None)
    assert (len(grid), grid.size, grid.extent) == (1, 80, (0, 0, 80, 80))


def test_info_says_that_a_collar_is_left_out(tmp_path: Path) -> None:
    framed = scene_info(write_framed(tmp_path / "b.tif", 40), Reading(native=True))
    assert framed.as_dict()["extent"] == (40, 40, 190, 190)
    assert dict(framed.rows())["empty collar"] == "skipped; windows cover the 150 x 150 px with data"
    plain = scene_info(write_framed(tmp_path / "a.tif", 0), Reading(native=True))
    assert plain.as_dict()["extent"] == (0, 0, 150, 150)
    assert "empty collar" not in dict(plain.rows())
