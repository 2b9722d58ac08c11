"""Error maps of comparisons: on imagery and on an empty sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from PIL import Image

from rsprompter_cli.draw.error_map import MISSED, RIGHT, WRONG
from rsprompter_cli.errors import InputError
from rsprompter_cli.evaluate.error_map import save_error_map
from rsprompter_cli.evaluate.polygons import evaluate_polygons
from rsprompter_cli.geo.vector.write import write_features
from tests.make.layers import house, write_layer
from tests.make.scenes import ORIGIN, paint, write_scene

GREY = 90


def files(folder: Path) -> tuple[Path, Path]:
    """A house that is found, one that is nowhere and one that is missed; 10 m each, 20 m apart."""
    pred = write_layer(folder / "pred.geojson", [house(10, -30), house(30, -30)])
    return pred, write_layer(folder / "truth.gpkg", [house(10, -30), house(50, -30)], epsg=3857)


def is_hatched(patch: np.ndarray, ground: int) -> bool:
    """Whether a part of a picture has lines of the colour of what was missed on the ground."""
    return bool((patch == MISSED).all(axis=2).any() and (patch == ground).all(axis=2).any())


def near(pixel: np.ndarray, colour: tuple[int, int, int], ground: int) -> bool:
    return bool(np.abs(pixel - (0.55 * ground + 0.45 * np.array(colour))).max() <= 3)


@pytest.mark.parametrize("degrees", [0, 30])
def test_polygons_lie_on_their_place_in_the_imagery(tmp_path: Path, degrees: float) -> None:
    turned = Affine.translation(*ORIGIN) @ Affine.rotation(degrees) @ Affine.scale(0.5, -0.5)
    scene = write_scene(tmp_path / "scene.tif", paint(160, 300, {}), transform=turned)
    save_error_map(tmp_path / "map.png", evaluate_polygons(*files(tmp_path)), scene=scene)
    picture = np.asarray(Image.open(tmp_path / "map.png"))
    assert picture.shape[1] == 300 * 4  # a small picture is enlarged
    for x, colour in ((15, RIGHT), (35, WRONG), (55, MISSED)):
        column, row = ~turned @ (ORIGIN[0] + x, ORIGIN[1] - 25)
        if 0 <= row < 160:
            y, x = int(4 * row), int(4 * column)
            patch = picture[y - 8 : y + 8, x - 8 : x + 8]
            assert is_hatched(patch, GREY) if colour == MISSED else near(picture[y, x], colour, GREY)


def test_without_imagery_north_is_up_and_all_is_shown(tmp_path: Path) -> None:
    save_error_map(tmp_path / "map.png", evaluate_polygons(*files(tmp_path)))
    picture = np.asarray(Image.open(tmp_path / "map.png"))
    assert picture.shape[1] == 2048
    middle = picture[2048 * 10 // 50 // 2 + 60]
    found = [next(k for k, pixel in enumerate(middle) if near(pixel, one, 245)) for one in (RIGHT, WRONG)]
    found.append(next(k for k, pixel in enumerate(middle) if tuple(pixel) == MISSED))
    assert found == sorted(found)


def test_nothing_to_draw_is_a_sheet_with_a_legend(tmp_path: Path) -> None:
    write_features(tmp_path / "none.geojson", [], None)
    nothing = evaluate_polygons(tmp_path / "none.geojson", tmp_path / "none.geojson")
    save_error_map(tmp_path / "map.png", nothing)
    assert Image.open(tmp_path / "map.png").size[0] == 1024
    scene = write_scene(tmp_path / "scene.tif", paint(60, 60, {}))
    save_error_map(tmp_path / "scene.png", nothing, scene=scene)
    assert (np.asarray(Image.open(tmp_path / "scene.png"))[:1000] == GREY).all()


def test_imagery_of_another_place_or_none_is_refused(tmp_path: Path) -> None:
    evaluation = evaluate_polygons(*files(tmp_path))
    far = write_scene(tmp_path / "far.tif", paint(60, 60, {}), transform=Affine(0.5, 0, 700_000, 0, -0.5, 5_000_000))
    with pytest.raises(InputError, match=r"far\.tif: contains no polygons of either layer"):
        save_error_map(tmp_path / "map.png", evaluation, scene=far)
    bare = write_scene(tmp_path / "bare.tif", paint(60, 60, {}), crs=None)
    with pytest.raises(InputError, match=r"bare\.tif: is not georeferenced"):
        save_error_map(tmp_path / "map.png", evaluation, scene=bare)
    assert not (tmp_path / "map.png").exists()


def test_the_area_of_interest_is_outlined(tmp_path: Path) -> None:
    area = write_layer(tmp_path / "aoi.geojson", [house(0, -50, 45, 60)])
    evaluation = evaluate_polygons(*files(tmp_path), aoi=area)
    save_error_map(tmp_path / "map.png", evaluation)
    picture = np.asarray(Image.open(tmp_path / "map.png"))
    assert not (picture[: picture.shape[0] - 100] == MISSED).all(axis=2).any()
    assert (picture[picture.shape[0] // 2, :200] == (40, 40, 40)).all(axis=1).any()
