"""Scenes and footprints to COCO tiles."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from rsprompter_cli.data.coco.read import read_coco
from rsprompter_cli.data.tiles.split import Cut, assign_splits, cut_scene, regions_of
from rsprompter_cli.data.tiles.tiles import MIN_PIXELS, PLAIN_PIXELS, keeps_piece
from rsprompter_cli.data.tiles.vector2coco import convert_vectors
from rsprompter_cli.errors import InputError, OutputError, UsageError
from tests.make.labelled import ROOF, make_labelled_scene, rectangle, write_raw_geojson

TOWN = [
    rectangle(20, 30, 50, 40, 20),
    rectangle(110, 20, 40, 60, -35),  # crosses tile borders at 128
    rectangle(180, 150, 50, 50),
    rectangle(30, 180, 60, 30, 10),
]
PLACES = {
    "utm": ("EPSG:32633", Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), "EPSG:4326"),
    "web mercator, labels in utm": ("EPSG:3857", Affine(0.7, 0, 1_669_000, 0, -0.7, 5_622_000), "EPSG:32633"),
    "turned": ("EPSG:32633", Affine(0.4, 0.3, 500_000, 0.3, -0.4, 5_000_000), "EPSG:3857"),
    "south up, degrees": ("EPSG:4326", Affine(6e-6, 0, 15, 0, 4.5e-6, 45), "EPSG:32633"),
}


def load(out: Path, split: str = "train") -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """The document of a split, and for each image the union of its masks."""
    path = out / "annotations" / f"instances_{split}.json"
    read_coco(path)  # refuses anything faulty
    document = json.loads(path.read_bytes())
    unions = {image["id"]: np.zeros((image["height"], image["width"]), bool) for image in document["images"]}
    for annotation in document["annotations"]:
        unions[annotation["image_id"]] |= coco_mask.decode(annotation["segmentation"]).astype(bool)
    return document, unions


def roofs(out: Path, image: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(out / "images" / image["file_name"]))[..., 0] > (ROOF + 60) // 2


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("gsd", [None, 0.7])
def test_labels_lie_on_the_imagery(tmp_path: Path, place: str, gsd: float | None) -> None:
    crs, transform, label_crs = PLACES[place]
    pair = make_labelled_scene(tmp_path, "town", TOWN, crs=crs, transform=transform, label_crs=label_crs)
    out = tmp_path / "set"
    convert_vectors([pair], out, tile=128, gsd=[gsd] if gsd else [], split="train", min_visible=0)
    document, unions = load(out)
    both = either = 0
    for image in document["images"]:
        seen, labelled = roofs(out, image), unions[image["id"]]
        both, either = both + (seen & labelled).sum(), either + (seen | labelled).sum()
    # Exact at the scene's own pixels but for slivers under MIN_PIXELS; a pixel's shift would give 0.93.
    assert both / either > (0.995 if gsd is None and place == "utm" else 0.97)


def test_a_tile_names_its_place(tmp_path: Path) -> None:
    crs, transform, label_crs = PLACES["turned"]
    pair = make_labelled_scene(tmp_path, "town", TOWN, crs=crs, transform=transform, label_crs=label_crs)
    convert_vectors([pair], tmp_path / "set", tile=128, split="train")
    document, _ = load(tmp_path / "set")
    image = document["images"][3]
    assert image["file_name"] == "town_0.500m_x128_y128.png"
    corner = transform @ (128, 128)
    assert image["georef"]["transform"] == pytest.approx([0.4, 0.3, corner[0], 0.3, -0.4, corner[1]])
    assert image["gsd"] == pytest.approx(0.5, rel=1e-3)
    assert document["info"]["gsd_range"] == [image["gsd"], image["gsd"]]


def test_areas_and_boxes_are_those_of_the_masks(tmp_path: Path) -> None:
    pair = make_labelled_scene(tmp_path, "town", TOWN)
    convert_vectors([pair], tmp_path / "set", tile=100, overlap=0.25, split="train")
    document, _ = load(tmp_path / "set")
    assert [a["id"] for a in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    for annotation in document["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"])
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        width, height = cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1
        assert annotation["bbox"] == [cols[0], rows[0], width, height]
        assert annotation["area"] == mask.sum()


def test_holes_and_parts_are_one_instance(tmp_path: Path) -> None:
    court = shapely.box(20, 20, 80, 80).difference(shapely.box(40, 40, 60, 60))
    pair = make_labelled_scene(tmp_path, "court", [shapely.union(court, shapely.box(90, 20, 110, 40))])
    convert_vectors([pair], tmp_path / "set", tile=256, split="val")
    document, unions = load(tmp_path / "set", "val")
    assert len(document["annotations"]) == 1
    (mask,) = unions.values()
    assert not mask[45:55, 45:55].any()
    assert mask[25, 100]
    assert mask.sum() == 60 * 60 - 20 * 20 + 20 * 20


def test_sliver_rule() -> None:
    assert not keeps_piece(MIN_PIXELS - 1, 1.0, 0.0)
    assert keeps_piece(MIN_PIXELS, 1.0, 0.1)
    assert not keeps_piece(PLAIN_PIXELS - 1, 0.09, 0.1)
    assert keeps_piece(PLAIN_PIXELS, 0.09, 0.1)
    assert keeps_piece(MIN_PIXELS, 0.1, 0.1)


def test_slivers_at_borders_are_dropped_and_counted(tmp_path: Path) -> None:
    pair = make_labelled_scene(tmp_path, "edge", [shapely.box(60, 40, 130, 80), shapely.box(200, 200, 203, 204)])
    report = convert_vectors([pair], tmp_path / "set", tile=128, split="train")
    # Two columns beyond x = 128 are 80 px of 2800; the second footprint has 12 px.
    assert (report.scenes[0].instances, report.scenes[0].dropped) == (1, 2)
    everything = convert_vectors([pair], tmp_path / "all", tile=128, split="train", min_visible=0)
    assert (everything.scenes[0].instances, everything.scenes[0].dropped) == (2, 1)


def test_nodata(tmp_path: Path) -> None:
    scene, labels = make_labelled_scene(tmp_path, "half", [shapely.box(90, 20, 170, 60)], nodata=0)
    import rasterio

    with rasterio.open(scene, "r+") as file:
        pixels = file.read()
        pixels[:, :, 128:] = 0
        file.write(pixels)
    report = convert_vectors([(scene, labels)], tmp_path / "set", tile=100, split="train")
    document, unions = load(tmp_path / "set")
    assert report.scenes[0].skipped_tiles == 3
    assert {image["file_name"].split("_x")[1].split("_")[0] for image in document["images"]} == {"0", "100"}
    for image in document["images"]:
        pixels = np.asarray(Image.open(tmp_path / "set" / "images" / image["file_name"]))
        assert not unions[image["id"]][pixels[..., 0] == 0].any()


def test_a_scene_is_cut_without_common_ground(tmp_path: Path) -> None:
    town = [rectangle(x, y, 20, 20) for x in range(5, 380, 40) for y in range(5, 190, 40)]
    pair = make_labelled_scene(tmp_path, "long", town, height=200, width=400)
    report = convert_vectors([pair], tmp_path / "set", tile=64, overlap=0.25, val=0.2, gsd=[0.5, 0.8])
    spans: dict[str, list[tuple[float, float]]] = {"train": [], "val": []}
    for split in spans:
        for image in load(tmp_path / "set", split)[0]["images"]:
            left = image["georef"]["transform"][2]
            spans[split].append((left, left + image["georef"]["transform"][0] * image["width"]))
    # Half a coarse pixel of rounding between the two resolutions.
    assert max(end for _, end in spans["train"]) <= min(start for start, _ in spans["val"]) + 0.8
    by_split = {scene.split: scene.instances for scene in report.scenes if scene.gsd < 0.6}
    assert 0.1 < by_split["val"] / sum(by_split.values()) < 0.3


@given(
    st.lists(st.tuples(st.floats(0, 300), st.floats(0, 500)), max_size=30),
    st.floats(0.01, 0.99),
    st.integers(16, 300),
)
@settings(max_examples=100, deadline=None)
def test_cut_leaves_both_sides(points: list[tuple[float, float]], share: float, tile: int) -> None:
    centres = np.array(points, float).reshape(-1, 2)
    cut = cut_scene(centres, 500, 300, share, tile)
    assert cut is not None
    (_, train), (_, val) = regions_of(500, 300, cut)
    assert train[:2] == (0, 0)
    assert val[2:] == (300, 500)
    assert train[3] == val[1]
    assert train[3] >= tile // 2
    assert val[3] - val[1] >= tile // 2


def test_a_small_scene_is_not_cut() -> None:
    assert cut_scene(np.zeros((0, 2)), 50, 60, 0.2, 64) is None


def test_cut_is_the_same_ground_at_any_resolution() -> None:
    cut = Cut(1, 0.75)
    assert regions_of(100, 400, cut)[1][1] == (300, 0, 400, 100)
    assert regions_of(50, 200, cut)[1][1] == (150, 0, 200, 50)


def test_splits_of_scenes() -> None:
    scenes = [Path("a/one.tif"), Path("b/two.tif"), Path("c/two.tif")]
    assert assign_splits(scenes, split=None, val_scenes=(), val=None) == [0.2, 0.2, 0.2]
    assert assign_splits(scenes, split=None, val_scenes=(), val=0) == ["train"] * 3
    assert assign_splits(scenes, split="val", val_scenes=(), val=None) == ["val"] * 3
    assert assign_splits(scenes, split=None, val_scenes=["one"], val=None) == ["val", "train", "train"]
    assert assign_splits(scenes, split=None, val_scenes=["b/two.tif"], val=None) == ["train", "val", "train"]
    for wrong in (["two"], ["three"], ["one", "b/two.tif", "c/two.tif"]):
        with pytest.raises(UsageError, match="--val-scene"):
            assign_splits(scenes, split=None, val_scenes=wrong, val=None)
    with pytest.raises(UsageError, match="mutually exclusive"):
        assign_splits(scenes, split="train", val_scenes=["one"], val=None)
    with pytest.raises(UsageError, match="--val 1"):
        assign_splits(scenes, split=None, val_scenes=(), val=1)


def test_whole_scenes_to_each_split_with_common_categories(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("rsprompter_cli").propagate = True
    one = make_labelled_scene(tmp_path, "one", TOWN, classes=["house", "shed", "house", None])
    far = Affine(0.5, 0, 510_000, 0, -0.5, 5_000_000)
    two = make_labelled_scene(tmp_path, "two", TOWN[:1], classes=["tower"], transform=far)
    report = convert_vectors([one, two], tmp_path / "set", class_attribute="kind", val_scenes=["two"])
    assert report.classes == ["building", "house", "shed", "tower"]
    train, val = load(tmp_path / "set")[0], load(tmp_path / "set", "val")[0]
    assert train["categories"] == val["categories"]
    assert [a["category_id"] for a in val["annotations"]] == [4]
    assert sorted(a["category_id"] for a in train["annotations"]) == [1, 2, 2, 3]
    assert not any("overlap on the ground" in message for message in caplog.messages)
    convert_vectors([one, (one[0], one[1])], tmp_path / "same", split="train")
    assert len(load(tmp_path / "same")[0]["images"]) == 2
    three = make_labelled_scene(tmp_path, "three", TOWN)
    convert_vectors([one, three], tmp_path / "leak", val_scenes=["three"])
    assert any("overlap on the ground" in message for message in caplog.messages)


def test_missing_class_column(tmp_path: Path) -> None:
    pair = make_labelled_scene(tmp_path, "town", TOWN, classes=["house"] * 4)
    with pytest.raises(UsageError, match="roof"):
        convert_vectors([pair], tmp_path / "set", class_attribute="roof")


def test_several_resolutions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("rsprompter_cli").propagate = True
    pair = make_labelled_scene(tmp_path, "town", TOWN)
    report = convert_vectors([pair], tmp_path / "set", tile=64, gsd=[0.5, 1.0, 0.2], split="train")
    assert [round(scene.gsd, 2) for scene in report.scenes] == [0.5, 1.0]
    assert any("is not tiled at 0.2 m" in message for message in caplog.messages)
    low, high = load(tmp_path / "set")[0]["info"]["gsd_range"]
    assert (low, high) == (pytest.approx(0.5, rel=1e-2), pytest.approx(1.0, rel=1e-2))
    with pytest.raises(UsageError, match="same tiles"):
        convert_vectors([pair], tmp_path / "twice", gsd=[0.5, 0.501], split="train")


def test_labels_elsewhere(tmp_path: Path) -> None:
    scene, _ = make_labelled_scene(tmp_path, "here", TOWN)
    far = Affine(0.5, 0, 600_000, 0, -0.5, 5_100_000)
    _, elsewhere = make_labelled_scene(tmp_path, "there", TOWN, transform=far)
    with pytest.raises(InputError, match=r"none of its 4 .*longitude 16\..*longitude 15\.0") as caught:
        convert_vectors([(scene, elsewhere)], tmp_path / "set")
    assert "wrong coordinate reference system" in caught.value.hint
    assert not (tmp_path / "set").exists()
    ring = [(45.1525, 15.0), (45.1535, 15.0), (45.1525, 15.001), (45.1525, 15.0)]
    swapped = write_raw_geojson(tmp_path / "swapped.geojson", [ring])
    with pytest.raises(InputError) as caught:
        convert_vectors([(scene, swapped)], tmp_path / "set")
    assert "swapped" in caught.value.hint


def test_a_layer_that_hardly_touches_the_scene_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("rsprompter_cli").propagate = True
    town = [rectangle(20, 20, 30, 30)] + [rectangle(1000 + 40 * i, 20, 30, 30) for i in range(11)]
    pair = make_labelled_scene(tmp_path, "town", town)
    report = convert_vectors([pair], tmp_path / "set", split="train")
    assert report.scenes[0].on_scene == 1
    assert any("only 1 of its 12 footprints" in message for message in caplog.messages)


def test_invalid_footprints_are_repaired(tmp_path: Path) -> None:
    scene, labels = make_labelled_scene(tmp_path, "town", [rectangle(50, 50, 100, 100)], label_suffix=".geojson")
    ring = json.loads(labels.read_text())["features"][0]["geometry"]["coordinates"][0]
    bow_tie = [ring[0], ring[1], ring[3], ring[2], ring[0]]
    report = convert_vectors(
        [(scene, write_raw_geojson(tmp_path / "bow.geojson", [bow_tie]))], tmp_path / "set", split="train"
    )
    assert (report.scenes[0].repaired, report.scenes[0].instances) == (1, 1)


def test_second_run_and_foreign_files(tmp_path: Path) -> None:
    pair = make_labelled_scene(tmp_path, "town", TOWN)
    out = tmp_path / "set"
    assert convert_vectors([pair], out, tile=128, split="train").outcome == "written"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert convert_vectors([pair], out, tile=128, split="train").outcome == "unchanged"
    with pytest.raises(OutputError, match="other content"):
        convert_vectors([pair], out, tile=64, split="train")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert convert_vectors([pair], out, tile=64, split="train", overwrite=True).outcome == "written"
    assert not any(path.exists() for path in before if "y128" in path.name and "x192" in path.name)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        convert_vectors([pair], out, tile=64, split="train", overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".set*"))


def test_empty_tiles(tmp_path: Path) -> None:
    pair = make_labelled_scene(tmp_path, "town", TOWN[:1])
    kept = convert_vectors([pair], tmp_path / "kept", tile=128, split="train")
    lean = convert_vectors([pair], tmp_path / "lean", tile=128, split="train", skip_empty=True)
    val = convert_vectors([pair], tmp_path / "val", tile=128, split="val", skip_empty=True)
    assert (kept.splits, lean.splits, val.splits) == ({"train": (4, 1)}, {"train": (1, 1)}, {"val": (4, 1)})


def test_tiles_with_little_data(tmp_path: Path) -> None:
    """The left 80 columns are nodata: of tiles of 128 px, that is 5/8 of each on the left."""
    scene, labels = make_labelled_scene(tmp_path, "town", [*TOWN, rectangle(150, 40, 60, 60)], nodata=0)
    import rasterio

    with rasterio.open(scene, "r+") as file:
        pixels = file.read()
        pixels[:, :, :80] = 0
        file.write(pixels)
    for least, split, tiles, left_out in [(0.3, "train", 4, 0), (0.4, "train", 2, 2), (0.4, "val", 4, 0)]:
        report = convert_vectors([(scene, labels)], tmp_path / f"{split}{least}", tile=128, split=split, min_data=least)
        assert report.splits[split][0] == tiles
        assert report.scenes[0].skipped_tiles == left_out


def test_unusable_inputs_and_options(tmp_path: Path) -> None:
    scene, labels = make_labelled_scene(tmp_path, "town", TOWN)
    for options, word in [
        ({"tile": 8}, "--tile"),
        ({"gsd": [0.5], "native": True}, "mutually exclusive"),
        ({"gsd": [-1.0]}, "--gsd"),
        ({"min_visible": 2.0}, "--min-visible"),
        ({"min_data": 1.5}, "--min-data"),
        ({"overlap": 0.6}, "overlap"),
    ]:
        with pytest.raises(UsageError, match=word):
            convert_vectors([(scene, labels)], tmp_path / "set", **options)  # type: ignore[arg-type]
    from tests.make.scenes import write_scene

    nowhere = write_scene(tmp_path / "nowhere.tif", np.zeros((3, 64, 64), np.uint8), crs=None)
    with pytest.raises(InputError, match="is not georeferenced"):
        convert_vectors([(nowhere, labels)], tmp_path / "set")
    with pytest.raises(UsageError, match="no scene"):
        convert_vectors([], tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_real_scene(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "buildings"
    pair = (folder / "kampala_b.tif", folder / "kampala_b.geojson")
    report = convert_vectors([pair], tmp_path / "set", tile=256, split="val")
    document, unions = load(tmp_path / "set", "val")
    assert report.scenes[0].on_scene == 92
    assert len(document["annotations"]) > 92
    # Roofs of that scene are brighter than the lanes between them.
    inside, outside = [], []
    for image in document["images"]:
        grey = np.asarray(Image.open(tmp_path / "set" / "images" / image["file_name"])).mean(axis=2)
        inside.append(grey[unions[image["id"]]].mean())
        outside.append(grey[~unions[image["id"]]].mean())
    assert np.mean(inside) > np.mean(outside) + 10


def test_a_footprint_given_twice_is_one_instance_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    twice = [*TOWN, TOWN[0], rectangle(20.05, 30, 50, 40, 20), TOWN[1]]
    once = convert_vectors([make_labelled_scene(tmp_path, "town", TOWN)], tmp_path / "once", tile=128, split="train")
    assert "copies" not in caplog.text
    pair = make_labelled_scene(tmp_path, "town", twice)
    again = convert_vectors([pair], tmp_path / "twice", tile=128, split="train")
    assert "town.gpkg: 3 of 7 footprints are copies of others and are skipped" in caplog.text
    assert (again.splits, again.scenes[0].footprints, again.scenes[0].on_scene) == (once.splits, 7, 4)
    # Of another class it is another object.
    other = make_labelled_scene(tmp_path, "town", [*TOWN, TOWN[0]], classes=["house"] * 4 + ["roof"])
    both = convert_vectors([other], tmp_path / "both", tile=128, split="train", class_attribute="kind")
    assert both.scenes[0].on_scene == 5
