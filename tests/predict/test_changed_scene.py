"""A scene that is changed while it is read, and links in the place of what a run keeps beside its output."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rsprompter_cli import predict_scene
from rsprompter_cli.errors import ChangedInputError, InputError, OutputError
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.io.lock import OutputLock
from rsprompter_cli.predict.store.journal import Journal, journal_path
from rsprompter_cli.predict.store.parts import open_parts, parts_of
from tests.make.scenes import paint, write_scene
from tests.make.stub_model import blob_model


def scene_of(path: Path, shift: int) -> Path:
    """Three squares, far from each other."""
    squares = [(x + shift, 40, x + shift + 20, 60) for x in (40, 200, 400)]
    return write_scene(path, paint(120, 480, {"red": squares}))


@pytest.mark.parametrize("how", ["in place", "by another file"])
def test_the_run_ends_in_one_line_and_keeps_what_was_right(how: str, tmp_path: Path) -> None:
    scene, other = scene_of(tmp_path / "a.tif", 0), scene_of(tmp_path / "b.tif", 9)
    out = tmp_path / "out.geojson"

    def change(done: int, _all: int) -> None:
        if done == 2:
            if how == "in place":
                scene.write_bytes(other.read_bytes())
            else:
                os.replace(other, scene)

    with pytest.raises(ChangedInputError, match=r"a\.tif: was changed while it was read"):
        predict_scene(scene, out, model=blob_model(), native=True, progress=change)
    assert not out.exists()
    assert parts_of(out).windows_done() > 0
    # The next run is of another scene, and says so; --overwrite starts over.
    with pytest.raises(OutputError, match="belongs to a run with"):
        predict_scene(scene, out, model=blob_model(), native=True)
    predict_scene(scene, out, model=blob_model(), native=True, overwrite=True)
    assert out.is_file()


def test_a_block_that_read_a_changed_scene_fails(tmp_path: Path) -> None:
    scene = scene_of(tmp_path / "a.tif", 0)

    def touch(error: Exception | None) -> None:
        with open_scene(scene, native=True) as opened:
            opened.preview(100)
            os.utime(scene)
            if error is not None:
                raise error

    with pytest.raises(InputError, match="was changed while it was read"):
        touch(None)
    with pytest.raises(KeyError):
        touch(KeyError("the first error counts"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such links for everyone")
def test_links_are_not_followed(tmp_path: Path) -> None:
    precious, out = tmp_path / "precious.txt", tmp_path / "out.geojson"
    precious.write_text("mine")
    journal_path(out).symlink_to(precious)
    with pytest.raises(OutputError, match="is a symbolic link"):
        Journal(out, {"input": {}}, overwrite=True)
    journal_path(out).unlink()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "0-9").write_text("mine too")
    parts_of(out).folder.symlink_to(tmp_path / "folder")
    with pytest.raises(OutputError, match="is a symbolic link"):
        parts_of(out).stored()
    for overwrite in (False, True):
        with (
            pytest.raises(OutputError, match="is a symbolic link"),
            open_parts(out, {"input": {}, "settings": {}}, overwrite=overwrite, address=False),
        ):
            pass
    assert (tmp_path / "folder" / "0-9").read_text() == "mine too"
    (tmp_path / ".out.geojson.lock").symlink_to(precious)
    with pytest.raises(OutputError, match="is a symbolic link"):
        OutputLock(out, shown=out)
    assert precious.read_text() == "mine"
