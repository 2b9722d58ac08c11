"""COCO instances back to the map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shapely
from affine import Affine

from rsprompter_cli.data.convert.coco2vector import convert_coco
from rsprompter_cli.data.tiles.vector2coco import convert_vectors
from rsprompter_cli.errors import InputError, OutputError, UsageError
from rsprompter_cli.geo.vector.write import read_footprints
from tests.data.convert.test_vector2coco import PLACES, TOWN
from tests.make.coco_sets import make_set
from tests.make.labelled import make_labelled_scene


def iou(one: Any, other: Any) -> float:
    return shapely.intersection(one, other).area / shapely.union(one, other).area


@pytest.mark.parametrize("place", PLACES)
def test_there_and_back(tmp_path: Path, place: str) -> None:
    crs, transform, label_crs = PLACES[place]
    pair = make_labelled_scene(tmp_path, "town", TOWN, crs=crs, transform=transform, label_crs=label_crs)
    convert_vectors([pair], tmp_path / "set", tile=128, split="train", min_visible=0)
    report = convert_coco(tmp_path / "set/annotations/instances_train.json", tmp_path / "back.gpkg")
    original = read_footprints(pair[1], to_crs_wkt="EPSG:32633")
    back = read_footprints(tmp_path / "back.gpkg", to_crs_wkt="EPSG:32633")
    assert report.features == len(back) > len(TOWN)
    pieces = shapely.STRtree(back.polygons)
    for footprint in original.polygons:
        found = pieces.query(footprint, predicate="intersects")
        whole = shapely.union_all([back.polygons[i] for i in found])
        # Pixel edges: about half a pixel along an outline of 180 px around 2000 px.
        assert iou(whole, footprint) > 0.95
        assert whole.area == pytest.approx(footprint.area, rel=0.02)


def test_attributes(tmp_path: Path) -> None:
    pair = make_labelled_scene(tmp_path, "town", [shapely.box(10, 10, 50, 40)], classes=["barn"])
    convert_vectors([pair], tmp_path / "set", class_attribute="kind", split="val")
    convert_coco(tmp_path / "set/annotations/instances_val.json", tmp_path / "back.geojson")
    (feature,) = json.loads((tmp_path / "back.geojson").read_text())["features"]
    assert feature["properties"] == {
        "id": 1,
        "class": "barn",
        "score": None,
        # 20 x 15 m on the map; UTM shrinks lengths by 0.9996 at its central meridian.
        "area_m2": pytest.approx(300 / 0.9996**2, abs=0.1),
        "image": "town_0.500m_x0_y0.png",
    }


def test_overlapping_tiles_keep_their_copies(tmp_path: Path) -> None:
    pair = make_labelled_scene(tmp_path, "town", [shapely.box(100, 10, 120, 40)], height=128)
    convert_vectors([pair], tmp_path / "set", tile=128, overlap=0.4, split="train", min_visible=0)
    assert convert_coco(tmp_path / "set/annotations/instances_train.json", tmp_path / "back.fgb").features == 2


def results_for(out: Path) -> tuple[Path, Path]:
    """Detection results made of a set's ground truth, the first with a low score; and the set's file."""
    images = out / "annotations/instances_train.json"
    annotations = json.loads(images.read_text())["annotations"]
    keys = ("image_id", "category_id", "segmentation", "bbox")
    results = [{**{key: a[key] for key in keys}, "score": 0.2 if i == 0 else 0.9} for i, a in enumerate(annotations)]
    path = out.parent / "results.json"
    path.write_text(json.dumps(results))
    return path, images


def test_detection_results(tmp_path: Path) -> None:
    pair = make_labelled_scene(tmp_path, "town", TOWN)
    convert_vectors([pair], tmp_path / "set", split="train")
    results, images = results_for(tmp_path / "set")
    report = convert_coco(results, tmp_path / "back.geojson", images=images, score=0.5)
    assert (report.features, report.left_out) == (3, 1)
    features = json.loads((tmp_path / "back.geojson").read_text())["features"]
    assert [feature["properties"]["score"] for feature in features] == [0.9] * 3
    with pytest.raises(UsageError, match="list of results"):
        convert_coco(results, tmp_path / "other.geojson")
    with pytest.raises(UsageError, match="its own images"):
        convert_coco(images, tmp_path / "other.geojson", images=images)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"image_id": 99}, "image_id 99"),
        ({"category_id": "x"}, "category_id 'x'"),
        ({"segmentation": {"size": [256, 256], "counts": "0"}}, "result 1 RLE counts"),
        ({"score": float("nan")}, "score nan"),
        ({"score": "high"}, "score 'high'"),
    ],
)
def test_faulty_results_are_named(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    pair = make_labelled_scene(tmp_path, "town", TOWN)
    convert_vectors([pair], tmp_path / "set", split="train")
    path, images = results_for(tmp_path / "set")
    results = json.loads(path.read_text())
    path.write_text(json.dumps([{**results[0], **change}, *results[1:]]))
    with pytest.raises(InputError, match=word):
        convert_coco(path, tmp_path / "back.geojson", images=images)
    assert not (tmp_path / "back.geojson").exists()


def test_images_without_georeference(tmp_path: Path) -> None:
    path = make_set(tmp_path / "set")
    with pytest.raises(InputError, match="is not georeferenced") as caught:
        convert_coco(path, tmp_path / "back.geojson")
    assert "--pixel-coords" in caught.value.hint
    assert not (tmp_path / "back.geojson").exists()
    convert_coco(path, tmp_path / "back.geojson", pixel_coords=True)
    features = json.loads((tmp_path / "back.geojson").read_text())["features"]
    annotations = json.loads(path.read_text())["annotations"]
    assert len(features) == len(annotations)
    for feature, annotation in zip(features, annotations, strict=True):
        x, y, width, height = annotation["bbox"]
        bounds = shapely.geometry.shape(feature["geometry"]).bounds
        assert bounds == pytest.approx((x, y, x + width, y + height), abs=1.01)
        assert feature["properties"]["area_m2"] is None


def test_damaged_georeference(tmp_path: Path) -> None:
    path = make_set(tmp_path / "set")
    document = json.loads(path.read_text())
    for georef in ({"transform": [1, 2]}, {"transform": [0, 0, 5, 0, 0, 5], "crs_wkt": "EPSG:4326"}, 7):
        for image in document["images"]:
            image["georef"] = georef
        path.write_text(json.dumps(document))
        with pytest.raises(InputError, match="georef"):
            convert_coco(path, tmp_path / "back.geojson")


def test_scenes_in_two_systems_come_out_in_degrees(tmp_path: Path) -> None:
    one = make_labelled_scene(tmp_path, "one", TOWN)
    two = make_labelled_scene(
        tmp_path, "two", TOWN, crs="EPSG:32634", transform=Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    )
    convert_vectors([one, two], tmp_path / "set", split="train")
    convert_coco(tmp_path / "set/annotations/instances_train.json", tmp_path / "back.gpkg")
    back = read_footprints(tmp_path / "back.gpkg")
    assert {round(polygon.centroid.x) for polygon in back.polygons} == {15, 21}


def test_crowds_are_left_out(tmp_path: Path) -> None:
    path = make_set(tmp_path / "set")
    document = json.loads(path.read_text())
    document["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(document))
    report = convert_coco(path, tmp_path / "back.gpkg", pixel_coords=True)
    assert (report.features, report.left_out) == (len(document["annotations"]) - 1, 1)


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".shp", ".parquet"])
def test_second_run(tmp_path: Path, suffix: str) -> None:
    pair = make_labelled_scene(tmp_path, "town", TOWN)
    convert_vectors([pair], tmp_path / "set", split="train")
    results, images = results_for(tmp_path / "set")
    out = tmp_path / "new" / f"back{suffix}"
    assert convert_coco(results, out, images=images).outcome == "written"
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    assert convert_coco(results, out, images=images).outcome == "unchanged"
    with pytest.raises(OutputError, match="--overwrite"):
        convert_coco(results, out, images=images, score=0.5)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before
    assert convert_coco(results, out, images=images, score=0.5, overwrite=True).features == 3


def test_bad_options(tmp_path: Path) -> None:
    path = make_set(tmp_path / "set")
    with pytest.raises(UsageError, match="extension"):
        convert_coco(path, tmp_path / "back.txt")
    with pytest.raises(UsageError, match="--score"):
        convert_coco(path, tmp_path / "back.gpkg", score=2)
    with pytest.raises(InputError, match="no such file"):
        convert_coco(tmp_path / "none.json", tmp_path / "back.gpkg")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        convert_coco(tmp_path / "bad.json", tmp_path / "back.gpkg")
