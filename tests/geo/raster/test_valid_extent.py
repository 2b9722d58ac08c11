"""Where the valid pixels of a file begin and end, in every way a file can say that a pixel is not valid."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.geo.raster import valid_extent
from rsprompter_cli.geo.raster.reader import PixelReader
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.geo.windows import Window
from tests.make.rasters import pattern, write_raster

HEIGHT, WIDTH = 90, 120
BOX = (31, 20, 77, 66)  # x0, y0, x1, y1

LAYOUTS: dict[str, dict[str, Any]] = {
    "lines": {"blockysize": 1},
    "strips": {"blockysize": 16},
    "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 32},
    "one block": {"tiled": True, "blockxsize": 128, "blockysize": 128},
}


def bounds(valid: np.ndarray) -> tuple[int, int, int, int] | None:
    """The box around the true pixels."""
    rows, cols = np.flatnonzero(valid.any(1)), np.flatnonzero(valid.any(0))
    return (int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1) if len(rows) else None


def inside() -> np.ndarray:
    valid = np.zeros((HEIGHT, WIDTH), bool)
    valid[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    return valid


def write_alpha(path: Path, valid: np.ndarray, **layout: Any) -> Path:
    pixels = np.concatenate([pattern(HEIGHT, WIDTH), valid[None].astype(np.uint8) * 255])
    return write_raster(path, pixels, photometric="RGB", alpha="yes", **layout)


def write_nodata(path: Path, valid: np.ndarray, **layout: Any) -> Path:
    return write_raster(path, np.where(valid, pattern(HEIGHT, WIDTH) // 2 + 1, 0), nodata=0, **layout)


def write_mask(path: Path, valid: np.ndarray, **layout: Any) -> Path:
    return write_raster(path, pattern(HEIGHT, WIDTH), mask=valid, **layout)


def write_nan(path: Path, valid: np.ndarray, **layout: Any) -> Path:
    return write_raster(path, np.where(valid, pattern(HEIGHT, WIDTH, dtype="float32"), np.float32("nan")), **layout)


WRITERS = {"alpha": write_alpha, "nodata": write_nodata, "mask": write_mask, "nan": write_nan}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", WRITERS)
def test_the_box_of_every_kind_of_file(tmp_path: Path, kind: str, layout: str) -> None:
    path = WRITERS[kind](tmp_path / "a.tif", inside(), **LAYOUTS[layout])
    with open_scene(path, native=True) as scene:
        assert scene.data_box() == BOX


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, HEIGHT - 1), st.integers(0, WIDTH - 1)), max_size=5),
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from([1, 64, 1 << 20]),
)
def test_the_box_is_that_of_any_pixels(points: list[tuple[int, int]], layout: str, piece: int) -> None:
    valid = np.zeros((HEIGHT, WIDTH), bool)
    for point in points:
        valid[point] = True
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(valid_extent, "_PIECE", piece)
        patch.setattr(valid_extent, "_STEP", 8)
        path = write_alpha(Path(folder) / "a.tif", valid, **LAYOUTS[layout])
        with open_scene(path, native=True) as scene:
            assert scene.data_box() == bounds(valid)


def test_blocks_never_stored_are_a_collar_too(tmp_path: Path) -> None:
    pixels = np.zeros((3, 128, 128), np.uint8)
    pixels[:, 32:64, 64:80] = 9
    path = write_raster(
        tmp_path / "a.tif", pixels, tiled=True, blockxsize=16, blockysize=32, compress="deflate", SPARSE_OK=True
    )
    with open_scene(path, native=True) as scene:
        assert scene.data_box() == (64, 32, 80, 64)


def test_a_file_without_a_word_for_nothing_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raster(tmp_path / "a.tif", pattern(HEIGHT, WIDTH))
    with open_scene(path, native=True) as scene:
        monkeypatch.setattr(PixelReader, "_decode", None)
        assert scene.data_box() == (0, 0, WIDTH, HEIGHT)


def test_only_the_collar_and_what_is_next_to_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    valid = np.zeros((1024, 1024), np.uint8)
    valid[100:900, 100:900] = 255
    pixels = np.concatenate([pattern(1024, 1024), valid[None]])
    path = write_raster(
        tmp_path / "a.tif", pixels, photometric="RGB", alpha="yes", tiled=True, blockxsize=64, blockysize=64
    )
    monkeypatch.setattr(valid_extent, "_STEP", 64)
    monkeypatch.setattr(valid_extent, "_PIECE", 64 * 64)
    decoded = np.zeros((1024, 1024), bool)
    read = PixelReader.read

    def watched(self: PixelReader, top: int, left: int, height: int, width: int, *, cache: int) -> Any:
        decoded[top : top + height, left : left + width] = True
        return read(self, top, left, height, width, cache=cache)

    monkeypatch.setattr(PixelReader, "read", watched)
    with open_scene(path, native=True) as scene:
        assert scene.data_box() == (100, 100, 900, 900)
    assert not decoded[128:896, 128:896].any()


@pytest.mark.parametrize("gsd", [0.25, 0.4, 0.5, 0.7, 1.3])
def test_every_valid_pixel_of_the_working_grid_lies_inside(tmp_path: Path, gsd: float) -> None:
    with open_scene(write_alpha(tmp_path / "a.tif", inside()), gsd=gsd) as scene:
        box, tile = scene.data_box(), scene.read(Window(0, 0, 0, 0, scene.height, scene.width))
        assert box is not None
        assert tile.valid is not None
        found = bounds(tile.valid)
        assert found is not None
        assert box[0] <= found[0] <= box[0] + 2
        assert box[1] <= found[1] <= box[1] + 2
        assert box[2] - 2 <= found[2] <= box[2]
        assert box[3] - 2 <= found[3] <= box[3]


def test_nothing_valid(tmp_path: Path) -> None:
    with open_scene(write_alpha(tmp_path / "a.tif", np.zeros((HEIGHT, WIDTH), bool)), native=True) as scene:
        assert scene.data_box() is None
