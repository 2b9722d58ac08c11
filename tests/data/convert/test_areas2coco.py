"""Tiles of chosen ground."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image

from rsprompter_cli.data.coco.georef import read_place
from rsprompter_cli.data.coco.read import read_coco
from rsprompter_cli.data.coco.write import thin_annotations
from rsprompter_cli.data.tiles.areas import Colours, TiledArea, area_windows, tile_areas
from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.crs import to_map, to_pixels
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.geo.vector.write import read_footprints
from tests.make.fits import make_town


def _areas(folder: Path, ground: dict[str, Any], *, gsd: float = 0.5, overlap: float = 0.25) -> list[TiledArea]:
    """Ground given in pixels of a town of 160 x 256 px."""
    path, labels = make_town(folder)
    with open_scene(path) as scene:
        footprints = read_footprints(labels, to_crs_wkt=scene.georef.crs_wkt)
        placed = {split: to_map([part], scene.georef)[0] for split, part in ground.items()}
    names = ["house"] * len(footprints)
    return [
        TiledArea(path, "town", gsd, split, part, footprints.polygons, names, overlap)  # type: ignore[arg-type]
        for split, part in placed.items()
    ]


def test_what_lies_outside_the_ground_is_blank_and_shows_no_object(tmp_path: Path) -> None:
    train, val = shapely.box(0, 0, 150, 160), shapely.box(150, 0, 256, 100)
    areas = _areas(tmp_path, {"train": train, "val": val})
    counts = tile_areas(areas, tmp_path / "set", tile=64, colours=Colours())
    for split, ground in (("train", train), ("val", val)):
        path = tmp_path / "set" / "annotations" / f"instances_{split}.json"
        coco = read_coco(path)
        assert (len(coco.images), len(coco.annotations)) == counts[split][:2]
        assert 0 < counts[split].labels <= len(coco.annotations)
        for image in coco.images:
            assert (image.height, image.width) == (64, 64)
            pixels = np.asarray(Image.open(tmp_path / "set" / "images" / image.file_name))
            with open_scene(areas[0].scene) as scene:
                corner = to_pixels(to_map([shapely.Point(0, 0)], read_place(image, path)), scene.georef)[0]
            own = to_pixels([ground], _shifted(corner.x, corner.y))[0]
            shown = shapely.contains_xy(own, *np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5))
            assert (pixels[shown] > 0).all()
            assert (pixels[~shown] == 0).all()
            for annotation in coco.by_image[image.id]:
                x, y, width, height = annotation.bbox
                assert own.buffer(1).contains(shapely.box(x, y, x + width, y + height))


def _shifted(x: float, y: float) -> Any:
    from rsprompter_cli.structures import Georef

    return Georef((1, 0, x, 0, 1, y), None, "affine")


def test_windows_are_whole_where_the_scene_has_room() -> None:
    windows = area_windows(shapely.box(90, 90, 100, 100), 300, 300, tile=64, overlap=0.25)
    assert [(window.height, window.width) for window in windows] == [(64, 64)]
    at_the_edge = area_windows(shapely.box(290, 0, 300, 10), 300, 300, tile=64, overlap=0.25)
    assert [window.box for window in at_the_edge] == [(236, 0, 300, 64)]
    small = area_windows(shapely.box(0, 0, 40, 30), 30, 40, tile=64, overlap=0.25)
    assert [(window.height, window.width) for window in small] == [(30, 40)]
    two = shapely.union_all([shapely.box(0, 0, 20, 20), shapely.box(280, 280, 300, 300)])
    assert len(area_windows(two, 300, 300, tile=64, overlap=0.0)) == 2


def test_ground_that_is_known_to_be_empty_gives_tiles_and_a_sliver_of_it_none(tmp_path: Path) -> None:
    # Between the squares of the town there is room for windows of 32 px without any at the bottom of its cells only,
    # so the ground below the last row serves.
    path, labels = make_town(tmp_path, height=300)
    with open_scene(path) as scene:
        footprints = read_footprints(labels, to_crs_wkt=scene.georef.crs_wkt)
        wide = to_map([shapely.box(0, 0, 64, 300)], scene.georef)[0]
        thin = to_map([shapely.union_all([shapely.box(0, 0, 64, 150), shapely.box(0, 150, 3, 300)])], scene.georef)[0]
    counted = []
    for name, ground in (("wide", wide), ("thin", thin)):
        area = TiledArea(path, "town", 0.5, "train", ground, footprints.polygons, ["house"] * len(footprints), 0.0)
        counted.append(tile_areas([area], tmp_path / name, tile=64, colours=Colours())["train"])
    (wide_tiles, wide_objects, _), (thin_tiles, thin_objects, _) = counted
    assert wide_objects >= thin_objects > 0
    assert wide_tiles > thin_tiles


def test_nothing_to_see_is_an_error(tmp_path: Path) -> None:
    areas = _areas(tmp_path, {"train": shapely.box(0, 0, 6, 6)})
    with pytest.raises(InputError, match=r"town.tif: no training tile contains a footprint of 16 px") as error:
        tile_areas(areas, tmp_path / "set", tile=64, colours=Colours())
    assert "--gsd" in error.value.hint
    assert not (tmp_path / "set").exists()


def test_thinning_leaves_some_images_with_their_objects(tmp_path: Path) -> None:
    areas = _areas(tmp_path, {"train": shapely.box(0, 0, 256, 160)})
    images, _, _ = tile_areas(areas, tmp_path / "set", tile=64, colours=Colours())["train"]
    path = tmp_path / "set" / "annotations" / "instances_train.json"
    assert thin_annotations(path, images + 1) == images
    assert thin_annotations(path, 3) == 3
    coco = read_coco(path)
    assert len(coco.images) == 3
    assert {annotation.image_id for annotation in coco.annotations} <= {image.id for image in coco.images}
    before = path.read_bytes()
    assert thin_annotations(path, 3) == 3
    assert path.read_bytes() == before


def test_thinning_keeps_objects_that_are_rare(tmp_path: Path) -> None:
    document = {
        "info": {},
        "images": [{"id": number} for number in range(1, 201)],
        "annotations": [{"id": number, "image_id": 50 * number} for number in (1, 2, 3)],
        "categories": [],
    }
    path = tmp_path / "few.json"
    path.write_text(json.dumps(document))
    assert thin_annotations(path, 8) == 8
    left = json.loads(path.read_text())
    assert (len(left["images"]), len(left["annotations"])) == (8, 3)
    # Of many with an object half of what is left shows one at least.
    document["annotations"] = [{"id": number, "image_id": number} for number in range(1, 101)]
    path.write_text(json.dumps(document))
    assert thin_annotations(path, 7) == 7
    assert len(json.loads(path.read_text())["annotations"]) >= 4
