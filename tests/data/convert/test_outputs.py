"""What all converters promise of their outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsprompter_cli.data.output_folder import write_by_path
from rsprompter_cli.errors import OutputError


def shapefile(path: Path) -> int:
    for suffix in (".shp", ".dbf", ".shx"):
        path.with_suffix(suffix).write_text("new" + suffix)
    return 1


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("companion", ["a.dbf", "a.prj", "a.qix"])
def test_a_companion_is_not_replaced_or_removed_unasked(tmp_path: Path, companion: str) -> None:
    (tmp_path / companion).write_text("precious")
    with pytest.raises(OutputError, match=f"{companion} already exists"):
        write_by_path(tmp_path / "a.shp", shapefile, overwrite=False)
    assert contents(tmp_path) == {companion: "precious"}
    assert write_by_path(tmp_path / "a.shp", shapefile, overwrite=True) == (1, "written")
    assert contents(tmp_path) == {"a.shp": "new.shp", "a.dbf": "new.dbf", "a.shx": "new.shx"}
    assert write_by_path(tmp_path / "a.shp", shapefile, overwrite=False) == (1, "unchanged")


def test_namesakes_of_a_single_file_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.dbf").write_text("precious")
    write_by_path(tmp_path / "a.gpkg", lambda path: path.write_text("new"), overwrite=False)
    assert contents(tmp_path) == {"a.dbf": "precious", "a.gpkg": "new"}


@pytest.mark.parametrize("step", ["tempfile.TemporaryDirectory", "pathlib.Path.mkdir", "os.replace"])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(step, refuse)
        with pytest.raises(OutputError, match=r"a\.gpkg: cannot be written: Permission denied"):
            write_by_path(tmp_path / "a.gpkg", lambda path: path.write_text("new"), overwrite=False)
    assert contents(tmp_path) == {}
