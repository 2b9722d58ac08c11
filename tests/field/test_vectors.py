"""Vector files as other programs write them: layers, encodings and class values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsprompter_cli.cli.app import run


@pytest.fixture
def field(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of small failing cases; outputs go into an empty folder."""
    monkeypatch.chdir(tmp_path)
    return shared / "field"


def test_a_geopackage_of_two_layers(field: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, truth = str(field / "gpkg_several_layers/labels.gpkg"), str(field / "gpkg_several_layers/truth.geojson")
    assert run(["eval-polygons", labels, truth]) == 2
    error = capsys.readouterr().err
    assert "has 2 layers: 'parcels' (Polygon, 19 features), 'buildings' (Polygon, 19 features)" in error
    assert "--layer" in error
    assert run(["eval-polygons", labels, truth, "--layer", "buildings", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["f1"] == 1.0
    for command in (["filter", labels, "--score", "0.1"], ["convert", "vector2coco", "none.tif", labels]):
        assert run([*command, "--out", "out.geojson"]) != 0
    assert not Path("out.geojson").exists()


def test_the_classes_of_a_set_are_those_that_its_check_reads(field: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = field / "class_values_blank"
    files = [str(case / "scene.tif"), str(case / "labels.gpkg")]
    assert run(["convert", "vector2coco", *files, "--class-column", "kind", "--out", "set"]) == 0
    assert "'Building', 'building' differ only in case or spaces" in capsys.readouterr().err
    assert run(["data", "check", "set"]) == 0
    document = json.loads(Path("set/annotations/instances_train.json").read_text())
    assert [category["name"] for category in document["categories"]] == ["Building", "building"]
    capsys.readouterr()
    assert run(["fit", *files, "--class-column", "kind", "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["classes"] == {"Building": 3, "building": 16}
    assert "no value in 'kind' for 9 labels, counted as building" in captured.err


@pytest.mark.parametrize("name", ["pred", "utf8"])
def test_shapefiles_without_cpg(field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    for file in (field / "shapefile_no_cpg").glob(f"{name}.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shape = f"{name}.shp"
    assert run(["filter", shape, "--classes", "Gebäude", "--out", "a.geojson"]) == 0
    features = json.loads(Path("a.geojson").read_text(encoding="utf-8"))["features"]
    assert {feature["properties"]["class"] for feature in features} == {"Gebäude"}
    assert run(["qgis-style", shape, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["colours"]) == ["Gebäude"]
    assert run(["eval-polygons", shape, "a.geojson", "--json"]) == 0
    assert [one["class"] for one in json.loads(capsys.readouterr().out)["by_class"]] == ["Gebäude"]
    scene = str(field / "class_values_blank/scene.tif")
    assert run(["convert", "vector2coco", scene, shape, "--class-column", "class", "--out", "set"]) == 0
    document = json.loads(Path("set/annotations/instances_train.json").read_text(encoding="utf-8"))
    assert [category["name"] for category in document["categories"]] == ["Gebäude"]
