"""What raster files leave open, from the command line: pages, bands, CRS, nodata, resolution."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from PIL import Image

from rsprompter_cli.cli.app import run
from rsprompter_cli.data.coco.read import read_coco
from tests.geo.raster.test_tiff_pages import scenery, thumbnail, write_pages
from tests.geo.test_scene_crs import LOCAL, MOON
from tests.make.rasters import pattern, write_raster


def info(capsys, *arguments) -> dict:
    assert run(["info", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def table(capsys, *arguments) -> str:
    assert run(["info", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_info_tells_the_page(tmp_path, capsys):
    scene = scenery(256)
    path = write_pages(tmp_path / "a.tif", thumbnail(scene, 64), scene)
    assert "2 of 2 (select another with --page)" in table(capsys, path)
    facts = info(capsys, path, "--page", "1")
    assert (facts["page"], facts["pages"], facts["width"]) == (1, 2, 64)


@pytest.mark.parametrize("command", ["info", "predict"])
def test_pages_that_differ_are_refused_in_one_line(tmp_path, capsys, command):
    path = write_pages(tmp_path / "a.tif", scenery(128), scenery(128, seed=1))
    more = ["--out", str(tmp_path / "a.json")] if command == "predict" else []
    assert run([command, str(path), *more]) == 3
    err = capsys.readouterr().err
    assert "a.tif: contains 2 different pages: page 1 (128 x 128 px, 3 bands), page 2" in err
    assert "--page" in err
    assert err.count("\n") == 1
    assert run([command, str(path), "--page", "2", *(["--dry-run"] if more else [])]) == 0
    assert run([command, str(path), "--page", "4", *more]) == 2


def test_info_tells_bands_and_why(tmp_path, capsys):
    path = write_raster(tmp_path / "a.tif", pattern(90, 90, 4), photometric="MINISBLACK")
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("Blue", "Green", "Red", "NIR")
    facts = info(capsys, path)
    assert facts["bands_read"] == [3, 2, 1]
    assert "(Blue, Green, Red, NIR), read 3,2,1 (their names are Red, Green, Blue)" in table(capsys, path)
    assert info(capsys, path, "--bands", "1,2,3")["bands_read"] == [1, 2, 3]


def test_info_tells_nodata_and_crs(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(300, 3000, (3, 200, 200)).astype(np.uint16)
    pixels[:, :60] = 0
    path = write_raster(tmp_path / "a.tif", pixels, crs=None)
    found = table(capsys, path)
    assert "0, undeclared, fills 30% of the file from its border: treated as nodata" in found
    assert "CRS none" in found
    told = table(capsys, path, "--nodata", "65535", "--scene-crs", "EPSG:32631")
    assert "65535, from --nodata" in told
    assert "CRS EPSG:32631 from --scene-crs" in told
    assert info(capsys, path, "--scene-crs", "EPSG:32631")["plan"]["gsd"] is not None


@pytest.mark.parametrize("wkt", [MOON, LOCAL])
def test_systems_off_the_earth_are_refused_alike(tmp_path, capsys, wkt):
    path = write_raster(tmp_path / "a.tif", pattern(90, 90), crs=wkt)
    facts = info(capsys, path)
    assert facts["plan"] is None
    assert run(["predict", str(path), "--out", str(tmp_path / "a.geojson")]) == 3
    err = capsys.readouterr().err.splitlines()[-1]
    assert facts["refusal"].startswith(f"{path}: has a coordinate reference system that does not refer to the earth")
    assert facts["refusal"] in err
    assert run(["predict", str(path), "--out", str(tmp_path / "a.geojson"), "--pixel-coords", "--dry-run"]) == 0


def test_a_drone_mosaic_is_read_at_what_the_model_knows(tmp_path, capsys):
    path = write_raster(
        tmp_path / "a.tif", pattern(900, 700), transform=rasterio.Affine(0.02, 0, 500_000, 0, -0.02, 5_000_000)
    )
    assert run(["info", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert facts["refusal"] is None
    assert 0.1 < facts["plan"]["gsd"][0] < 0.31
    assert "are resampled to" in err


def labels(tmp_path, crs="EPSG:32631"):
    features = []
    for place in range(4):
        x, y = 500_010 + 25 * place, 5_000_000 - 30
        ring = [[x, y], [x + 12, y], [x + 12, y - 12], [x, y - 12], [x, y]]
        features.append({"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}})
    document = {"type": "FeatureCollection", "features": features}
    document["crs"] = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}
    path = tmp_path / "labels.geojson"
    path.write_text(json.dumps(document))
    return path


def test_sets_are_cut_from_what_the_user_states(tmp_path, capsys):
    pixels = pattern(256, 256, 4)
    pixels[:, :, 200:] = 7
    path = write_raster(tmp_path / "a.tif", pixels, crs=None, photometric="MINISBLACK")
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("blue", "green", "red", "nir")
    out = tmp_path / "set"
    command = ["convert", "vector2coco", str(path), str(labels(tmp_path)), "--out", str(out), "--native"]
    assert run(command) == 3
    assert "has no coordinate reference system" in capsys.readouterr().err
    more = ["--scene-crs", "EPSG:32631", "--nodata", "7", "--tile", "256", "--split", "train"]
    assert run([*command, *more]) == 0
    entry = read_coco(out / "annotations" / "instances_train.json")
    assert len(entry.annotations) == 4
    (picture,) = (out / "images").iterdir()
    written = np.asarray(Image.open(picture))
    assert np.array_equal(written[:, :200], np.moveaxis(pixels[[2, 1, 0]], 0, -1)[:, :200])
    assert not written[:, 200:].any()


def test_fit_plans_with_what_the_user_states(tmp_path, capsys):
    path = write_raster(tmp_path / "a.tif", pattern(256, 256), crs=None)
    command = ["fit", str(path), str(labels(tmp_path)), "--dry-run", "--json"]
    assert run(command) == 3
    assert "--scene-crs EPSG:N" in capsys.readouterr().err
    run([*command, "--scene-crs", "EPSG:32631"])
    assert "has no coordinate reference system" not in capsys.readouterr().err
    assert run([*command, "--scene-crs", "EPSG:2154x"]) == 2


def test_imagery_of_an_error_map_takes_them_too(tmp_path, capsys):
    path = write_raster(tmp_path / "a.tif", pattern(256, 256), crs=None)
    truth = labels(tmp_path)
    command = ["eval-polygons", str(truth), str(truth), "--map", str(tmp_path / "map.png")]
    assert run([*command, "--scene-crs", "EPSG:32631"]) == 2
    assert "--scene" in capsys.readouterr().err
    assert run([*command, "--scene", str(path)]) == 3
    assert "--scene-crs EPSG:N" in capsys.readouterr().err
    assert run([*command, "--scene", str(path), "--scene-crs", "EPSG:32631"]) == 0
    assert (tmp_path / "map.png").is_file()


def test_what_is_stated_is_part_of_a_run(tmp_path):
    from rsprompter_cli.predict.options import PredictOptions
    from rsprompter_cli.predict.store.fingerprint import scene_identity

    path = write_raster(tmp_path / "a.tif", pattern(90, 90), crs=None)
    seen = set()
    for changes in ({}, {"scene_crs": "EPSG:32631"}, {"nodata": 3.0}, {"page": 1}):
        options = PredictOptions().changed(**changes)
        with options.reading.open(path, None) as scene:
            grid = options.reading.windows(scene, None)
            seen.add(json.dumps(scene_identity(path, scene, grid, options, score=0.5)["settings"], sort_keys=True))
    assert len(seen) == 4
