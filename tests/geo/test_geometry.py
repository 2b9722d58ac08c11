"""Uniting the polygons of a file takes bounded time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import shapely

from rsprompter_cli.cli.app import run
from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.vector.formats.wkb import union_of
from rsprompter_cli.geo.vector.write import Feature, write_features
from tests.make.scenes import paint, write_scene


def lattice(count: int, step: float = 1.0) -> list[shapely.Polygon]:
    """Thin strips across others: the edges of each cross those of all others."""
    side = count * step
    rows = [shapely.box(0, step * i, side, step * (i + 0.5)) for i in range(count)]
    return rows + [shapely.box(step * i, 0, step * (i + 0.5), side) for i in range(count)]


def test_polygons_side_by_side_and_a_few_crossings_are_united() -> None:
    tiles = [shapely.box(x, y, x + 1, y + 1) for x in range(60) for y in range(60)]
    assert union_of(tiles, Path("a.gpkg")).area == 3600
    assert union_of(lattice(20), Path("a.gpkg")).area == 20 * 20 * 0.75


@pytest.mark.parametrize("count", [300, 5000])
def test_a_lattice_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=r"a\.gpkg: .*takes too long to unite"):
        union_of(lattice(count), Path("a.gpkg"))


def test_stacked_polygons_are_refused() -> None:
    with pytest.raises(InputError, match="on top of one another"):
        union_of([shapely.box(0, 0, 1 + i / 1e6, 1) for i in range(20_000)], Path("a.gpkg"))


def test_an_area_of_interest_is_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scene(tmp_path / "scene.tif", paint(64, 64, {}))
    strips = [Feature(one, {"id": None}) for one in lattice(400, step=1e-5)]
    write_features(tmp_path / "aoi.gpkg", strips, "EPSG:4326", attributes={"id": int})
    truth = [Feature(shapely.box(0, 0, 1e-4, 1e-4), {"id": None})]
    write_features(tmp_path / "a.gpkg", truth, "EPSG:4326", attributes={"id": int})
    folder = str(tmp_path)
    assert run(["eval-polygons", f"{folder}/a.gpkg", f"{folder}/a.gpkg", "--aoi", f"{folder}/aoi.gpkg"]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "aoi.gpkg: its polygons cross one another over 200,000 times" in error
