"""A scene is read once, however its file is laid out: what the process reads is counted, byte by byte."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rasterio
import rasterio.shutil
from rasterio.env import get_gdal_config
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from rsprompter_cli.geo.raster import reader
from rsprompter_cli.geo.raster.formats.jpeg2000 import tile_count
from rsprompter_cli.geo.raster.scene import Scene, open_scene
from rsprompter_cli.geo.raster.source import CACHE_BYTES, gdal_env
from rsprompter_cli.geo.windows import Window, make_grid
from tests.make.rasters import pattern, write_raster

HEIGHT, WIDTH, SIDE = 900, 1400, 128
COUNTER = Path("/proc/self/io")
LAYOUTS: dict[str, dict[str, Any]] = {
    "lines": {"compress": "deflate", "blockysize": 1},
    "strips": {"compress": "deflate", "blockysize": 16},
    "strips, band by band": {"compress": "deflate", "blockysize": 16, "interleave": "band"},
    "strips of JPEG": {"compress": "jpeg", "photometric": "ycbcr", "blockysize": 16},
    "one strip": {"compress": "deflate", "blockysize": HEIGHT},
    "one plain strip": {"blockysize": HEIGHT},
    "tiles": {"compress": "deflate", "tiled": True, "blockxsize": 256, "blockysize": 256},
    "high tiles": {"compress": "deflate", "tiled": True, "blockxsize": 256, "blockysize": 896},
    "tiles of JPEG": {"compress": "jpeg", "photometric": "ycbcr", "tiled": True, "blockxsize": 256, "blockysize": 256},
    "COG": {"driver": "COG", "compress": "deflate", "blocksize": 256},
    "PNG": {"driver": "PNG", "zlevel": 1},
    "JPEG": {"driver": "JPEG"},
    "JPEG 2000": {"driver": "JP2OpenJPEG", "blockxsize": 256, "blockysize": 256},
}

counted = pytest.mark.skipif(not COUNTER.exists(), reason="no count of the bytes read here")


@pytest.fixture(autouse=True)
def small_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more cache than what is asked for."""
    monkeypatch.setattr(reader, "CACHE_BYTES", 1 << 18)
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)


def write_layout(path: Path, layout: dict[str, Any]) -> Path:
    """Noise, as GDAL copies it into a format."""
    samples = pattern(HEIGHT, WIDTH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile() as memory:
            with memory.open(driver="GTiff", height=HEIGHT, width=WIDTH, count=3, dtype="uint8") as raster:
                raster.write(samples)
            with memory.open() as raster, rasterio.Env(GDAL_PAM_ENABLED="NO"):
                rasterio.shutil.copy(raster, str(path), **{"driver": "GTiff", **layout})
    return path


def bytes_read(work: Callable[[], object]) -> int:
    """What this process reads from files meanwhile."""

    def so_far() -> int:
        return int(COUNTER.read_text(encoding="ascii").split()[1])

    before = so_far()
    work()
    return so_far() - before


def read_windows(scene: Scene, size: int = SIDE) -> None:
    for window in make_grid(scene.height, scene.width, size=size).windows():
        scene.read(window)


@counted
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_byte_is_read_once(tmp_path: Path, layout: str) -> None:
    path = write_layout(tmp_path / "scene", LAYOUTS[layout])
    once = path.stat().st_size
    if layout == "JPEG 2000":  # its library reads a megabyte for every small tile
        with open_scene(path, native=True, pixel_coords=True) as scene:
            once = bytes_read(lambda: scene.read(Window(0, 0, 0, 0, HEIGHT, WIDTH)))
    with open_scene(path, native=True, pixel_coords=True) as scene:
        assert bytes_read(lambda: read_windows(scene)) < 1.1 * once + 100_000


@counted
@pytest.mark.parametrize("gsd", [0.3, 1.1])
def test_every_byte_is_read_once_on_another_grid(tmp_path: Path, gsd: float) -> None:
    path = write_raster(tmp_path / "a.tif", pattern(HEIGHT, WIDTH), compress="deflate", blockysize=16)
    with open_scene(path, gsd=gsd) as scene:
        assert bytes_read(lambda: read_windows(scene)) < 1.1 * path.stat().st_size + 100_000


@counted
@pytest.mark.parametrize("layout", ["strips", "PNG"])
def test_percentiles_do_not_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """Of a scene too large to be read whole, a few windows in rows."""
    path = write_layout(tmp_path / "scene", LAYOUTS[layout])
    monkeypatch.setattr("rsprompter_cli.geo.raster.radiometry.sampling.SAMPLE_SIDE", 100)
    with open_scene(path, native=True, pixel_coords=True, scale="percentile") as scene:
        assert bytes_read(lambda: scene.scaling) < 1.1 * path.stat().st_size + 100_000


@counted
def test_strips_behind_a_virtual_raster(tmp_path: Path) -> None:
    path = write_layout(tmp_path / "scene.tif", LAYOUTS["strips"])
    vrt = tmp_path / "scene.vrt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as raster:
            rasterio.shutil.copy(raster, str(vrt), driver="VRT")
    with open_scene(vrt, native=True, pixel_coords=True, allow_vrt=True) as scene:
        assert bytes_read(lambda: read_windows(scene)) < 1.1 * path.stat().st_size + 100_000


def test_jpeg_2000_in_one_tile_says_how_to_read_it_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rsprompter_cli.geo.raster.formats.jpeg2000._MANY_BLOCKS", 1)
    tiled = write_layout(tmp_path / "tiled.jp2", LAYOUTS["JPEG 2000"])
    whole = write_layout(
        tmp_path / "whole.jp2", {"driver": "JP2OpenJPEG", "blockxsize": WIDTH, "blockysize": HEIGHT, "quality": 5}
    )
    assert (tile_count(tiled), tile_count(whole)) == (4 * 6, 1)
    for path, said in ((tiled, False), (whole, True)):
        caplog.clear()
        with open_scene(path, native=True, pixel_coords=True):
            assert ("in a single tile" in caplog.text) == said
    (tmp_path / "cut.jp2").write_bytes(whole.read_bytes()[:90])
    assert tile_count(tmp_path / "cut.jp2") is None


@counted
def test_the_users_own_cache_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it costs shows that the others do better."""
    path = write_layout(tmp_path / "scene.tif", LAYOUTS["strips"])
    with rasterio.Env(GDAL_CACHEMAX=200_000), open_scene(path, native=True, pixel_coords=True) as scene:
        monkeypatch.setenv("GDAL_CACHEMAX", "200000")
        assert bytes_read(lambda: read_windows(scene)) > 5 * path.stat().st_size
        with gdal_env(cache=1 << 30):
            assert get_gdal_config("GDAL_CACHEMAX") == 200_000


def test_what_is_kept_grows_with_the_width_and_not_with_the_height(tmp_path: Path) -> None:
    def kept(height: int, width: int, **layout: Any) -> int:
        path = tmp_path / "a.tif"
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": height, "width": width}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "w", sparse_ok=True, compress="deflate", bigtiff="yes", **profile, **layout):
                pass
        with open_scene(path, native=True, pixel_coords=True, max_block=1 << 40) as scene:
            return scene.cached_bytes(1024) - reader.CACHE_BYTES

    for layout in ({"blockysize": 16}, {"tiled": True, "blockxsize": 512, "blockysize": 512}):
        low = kept(10_000, 20_000, **layout)
        assert kept(40_000, 20_000, **layout) == low
        assert kept(10_000, 40_000, **layout) == pytest.approx(2 * low, rel=0.05)
        assert 1024 * 20_000 * 3 < low < 2048 * 20_480 * 4
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512}
    assert kept(10_000, 1_000_000, **tiles) == reader._MOST_KEPT
    assert 4e9 < kept(10_000, 1_000_000, blockysize=16) < reader._MOST_KEPT_WIDE
    assert kept(2_000, 100_000_000, blockysize=1) == reader._MOST_KEPT_WIDE


def test_a_scene_in_one_window_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(reader, "gdal_env", lambda source, *, cache: asked.append(cache) or gdal_env(source))
    path = write_raster(tmp_path / "a.tif", pattern(700, 400), compress="deflate", blockysize=8)
    with open_scene(path) as scene:
        scene.preview(100)
        scene.read(Window(0, 0, 0, 0, 700, 400))
        assert max(asked) < reader.CACHE_BYTES + 3 * 8 * 400 * 4
        scene.read(Window(0, 0, 0, 0, 300, 300))
        assert asked[-1] > reader.CACHE_BYTES + 300 * 400 * 3


def test_the_default_is_bounded_by_the_job_not_by_the_machine() -> None:
    with gdal_env():
        assert get_gdal_config("GDAL_CACHEMAX") == CACHE_BYTES
