"""Outputs are tried before the work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rsprompter_cli.errors import OutputError, UsageError
from rsprompter_cli.geo.vector.write import VECTOR_SUFFIXES, try_vector_output


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_what_can_be_written_leaves_nothing_behind(tmp_path: Path, suffix: str) -> None:
    for name in ("objects", "a b", "über", "1", "it's", "a.b"):
        try_vector_output(tmp_path / f"{name}{suffix}")
        try_vector_output(tmp_path / "new" / "folder" / f"{name}{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["gpkg_houses", "sqlite_houses", "%41", "a;b"])
def test_names_that_a_geopackage_refuses(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="cannot be written") as caught:
        try_vector_output(tmp_path / f"{name}.gpkg")
    assert caught.value.message.startswith(f"{tmp_path / name}.gpkg: cannot be written: ")
    assert caught.value.hint == "choose another file name, for example objects.gpkg"
    assert "CREATE TABLE" not in caught.value.message
    assert list(tmp_path.iterdir()) == []
    try_vector_output(tmp_path / f"{name}.geojson")


def test_attributes_that_a_format_refuses(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        try_vector_output(tmp_path / "a.gpkg", {"Name": str, "name": str})
    assert "write .geojson" in caught.value.hint
    try_vector_output(tmp_path / "a.geojson", {"Name": str, "name": str})


def test_places_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for suffix in VECTOR_SUFFIXES:
        with pytest.raises(OutputError, match="is not a folder") as caught:
            try_vector_output(tmp_path / "file" / f"a{suffix}")
        assert caught.value.hint == "choose a path in an existing folder"
        with pytest.raises(OutputError, match=r"cannot be written: File name too long"):
            try_vector_output(tmp_path / f"{'x' * 260}{suffix}")
    with pytest.raises(UsageError, match="no vector format"):
        try_vector_output(tmp_path / "a.docx")


FULL = """
import resource, signal, sys
from pathlib import Path
from rsprompter_cli.errors import OutputError
from rsprompter_cli.geo.vector.write import try_vector_output

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
for path in sys.argv[2:]:
    try:
        try_vector_output(Path(path))
    except OutputError as error:
        print("refused:", error)
    else:
        print("taken")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize(("room", "suffixes"), [(0, VECTOR_SUFFIXES), (8192, (".gpkg",))])
def test_without_room_nothing_is_taken(tmp_path: Path, room: int, suffixes: tuple[str, ...]) -> None:
    outputs = [str(tmp_path / f"a{suffix}") for suffix in suffixes]
    command = [sys.executable, "-c", FULL, str(room), *outputs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["refused:"] * len(suffixes), done.stdout
    assert all("room" in line for line in lines)
    assert list(tmp_path.iterdir()) == []
