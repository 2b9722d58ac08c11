"""Files beside a Shapefile or a raster that are pipes, folders or links: none of them may keep a command waiting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.vector.read import open_layer
from tests.make.layers import house, write_layer
from tests.make.scenes import paint, write_scene

PATIENCE = 90
"""Seconds for a child process; a read of a pipe would never end."""

READ_ALL = """
import sys
from pathlib import Path
from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.vector.read import open_layer
from rsprompter_cli.geo.vector.write import read_footprints
for name in sys.argv[1:]:
    try:
        count = sum(len(batch.geometries) for batch in open_layer(Path(name)).batches())
        assert len(read_footprints(Path(name))) == count
        print(name, count)
    except InputError as error:
        print(name, str(error).splitlines())
"""


def shapefile(folder: Path) -> Path:
    folder.mkdir()
    return write_layer(folder / "a.shp", [house(0, 0), house(20, 0)], kind=["a", "b"])


def with_pipe(folder: Path, suffix: str) -> Path:
    """A Shapefile that has a pipe in place of a part."""
    path = shapefile(folder)
    path.with_suffix(suffix.lower()).unlink(missing_ok=True)
    os.mkfifo(path.with_suffix(suffix))
    return path


def read_all(*paths: Path) -> list[str]:
    """What a child process says of each file."""
    command = [sys.executable, "-c", READ_ALL, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_part_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    suffixes = [".shx", ".dbf", ".prj", ".cpg", ".cst", ".qpj", ".SHX", ".DBF", ".PRJ", ".CPG"]
    paths = [with_pipe(tmp_path / str(number), suffix) for number, suffix in enumerate(suffixes)]
    for path, suffix, line in zip(paths, suffixes, read_all(*paths), strict=True):
        assert f"{path}: its part a{suffix} is not a regular file" in line


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_an_index_that_is_a_pipe_is_not_opened(tmp_path: Path) -> None:
    suffixes = [".qix", ".sbn", ".sbx", ".ind", ".idm", ".QIX", ".SBN", ".shp.xml", ".aux.xml"]
    paths = [with_pipe(tmp_path / str(number), suffix) for number, suffix in enumerate(suffixes)]
    assert read_all(*paths) == [f"{path} 2" for path in paths]


def test_a_part_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    path = shapefile(tmp_path / "a")
    path.with_suffix(".dbf").unlink()
    path.with_suffix(".dbf").mkdir()
    with pytest.raises(InputError, match=r"its part a\.dbf is a folder"):
        open_layer(path)


@pytest.mark.parametrize("upper", [False, True])
def test_parts_may_be_links_and_in_upper_case(tmp_path: Path, upper: bool) -> None:
    real = shapefile(tmp_path / "real")
    folder = tmp_path / "links"
    folder.mkdir()
    for part in real.parent.iterdir():
        name = part.name.upper() if upper and part.suffix != ".shp" else part.name
        (folder / name.replace("A.", "a.")).symlink_to(part)
    layer = open_layer(folder / "a.shp")
    (batch,) = layer.batches()
    assert len(batch.geometries) == 2
    assert layer.crs_wkt is not None
    assert layer.name == "a"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_beside_a_raster_are_not_opened(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(32, 32, {}), crs=None)
    for suffix in (".prj", ".PRJ", ".qpj", ".tfw", ".TFW", ".wld", ".aux.xml", ".tif.aux.xml", ".tif.ovr", ".tif.msk"):
        os.mkfifo(scene.with_name(f"a{suffix}"))
    command = [sys.executable, "-m", "rsprompter_cli", "info", str(scene)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("suffix", "match"),
    [(".shx", "its index a.shx has more entries"), (".prj", "its part a.prj is larger than 1,048,576 bytes")],
)
def test_a_part_that_is_far_too_large_is_not_read(tmp_path: Path, suffix: str, match: str) -> None:
    path = shapefile(tmp_path / "a")
    with path.with_suffix(suffix).open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=match):
        open_layer(path)


def test_an_index_of_nothing(tmp_path: Path) -> None:
    path = shapefile(tmp_path / "a")
    path.with_suffix(".shx").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.shp: cannot be read as a vector file: .*shx"):
        open_layer(path)
