"""Names in any locale and standard streams in any state: the work is done, or one line says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.make.rasters import pattern, write_raster

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX closes and redirects the streams")

SQUARE = {"type": "Polygon", "coordinates": [[[39.2, -6.1], [39.2001, -6.1], [39.2001, -6.0999], [39.2, -6.1]]]}
LOCALES = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "C.UTF-8": {"LC_ALL": "C.UTF-8"},
    "latin-1": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"},
    "ascii output": {"PYTHONIOENCODING": "ascii"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    feature = {"type": "Feature", "properties": {"class_name": "Gebäude", "score": 0.9}, "geometry": SQUARE}
    text = json.dumps({"type": "FeatureCollection", "features": [feature]}, ensure_ascii=False)
    (tmp_path / "дома.geojson").write_text(text, encoding="utf-8")
    (tmp_path / "a.geojson").write_text(text, encoding="utf-8")
    write_raster(tmp_path / "сцена.tif", pattern(60, 70))
    return tmp_path


def shell(line: str, folder: Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a line of a shell in which `rsp` is this program."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON"))}
    own |= {"PYTHONPATH": str(Path(__file__).parents[2]), **(environment or {})}
    function = f'rsp() {{ "{sys.executable}" -m rsprompter_cli "$@"; }}\n'
    return subprocess.run(
        ["/bin/sh", "-c", function + line], cwd=folder, env=own, capture_output=True, timeout=120, check=False
    )


def check_orderly(done: subprocess.CompletedProcess[bytes]) -> None:
    assert b"internal error" not in done.stderr, done.stderr
    assert b"Traceback" not in done.stderr, done.stderr
    assert b"Exception ignored" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", LOCALES)
def test_names_of_any_script_in_any_locale(name: str, folder: Path) -> None:
    found = shell("rsp filter дома.geojson --out 'große Häuser.geojson' --score 0.5", folder, LOCALES[name])
    check_orderly(found)
    assert found.returncode == 0, found.stderr
    assert json.loads((folder / "große Häuser.geojson").read_text(encoding="utf-8"))["features"]
    listed = shell("rsp info сцена.tif", folder, LOCALES[name])
    check_orderly(listed)
    assert listed.returncode == 0, listed.stderr
    assert (b"\xd1\x81\xd1\x86" in listed.stdout) == (name == "C.UTF-8")


def test_names_that_are_no_utf_8(folder: Path) -> None:
    for suffix, good in ((b".tif", "сцена.tif"), (b".geojson", "a.geojson")):
        (folder / good).rename(Path(os.fsdecode(os.fsencode(folder) + b"/b\xff" + suffix)))
    refused = shell("rsp info $(printf 'b\\377').tif", folder)
    assert (refused.returncode, refused.stdout) == (3, b"")
    assert refused.stderr.count(b"\n") == 1
    assert b"is not valid UTF-8" in refused.stderr
    assert b"rename it" in refused.stderr
    done = shell("rsp filter $(printf 'b\\377').geojson --score 0 --out o.geojson", folder)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "o.geojson").read_text(encoding="utf-8"))["features"]
    # GDAL writes no such name.
    for suffix in ("geojson", "gpkg"):
        out = shell(f"rsp filter $(printf 'b\\377').geojson --score 0 --out $(printf 'c\\377').{suffix}", folder)
        check_orderly(out)
        assert out.returncode in (0, 3, 7), out.stderr


@pytest.mark.parametrize("command", ["filter nowhere.geojson --score 0 --out o.geojson", "info nowhere.tif"])
def test_names_of_255_bytes(command: str, folder: Path) -> None:
    long = "ё" * 120 + ".geojson"
    done = shell(f"rsp filter a.geojson --score 0 --out {long}", folder)
    check_orderly(done)
    assert done.returncode == 0, done.stderr
    assert (folder / long).is_file()
    assert shell(f"rsp {command.replace('nowhere', 'ё' * 400)}", folder).returncode == 3


STREAMS = {
    "stdout closed": (">&-", 0),
    "stderr closed": ("2>&-", 0),
    "stdin closed": ("<&-", 0),
    "all closed": ("<&- >&- 2>&-", 0),
    "stderr full": ("2>/dev/full", 0),
    "stdout full": (">/dev/full", 7),
    "both full": (">/dev/full 2>/dev/full", 7),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", STREAMS)
def test_streams_that_take_nothing(name: str, folder: Path) -> None:
    redirected, code = STREAMS[name]
    for command in ("eval-polygons a.geojson a.geojson --json", "--version", "help predict"):
        done = shell(f"rsp {command} {redirected}", folder)
        check_orderly(done)
        assert done.returncode == code, (command, done.stderr)
        if name == "stdout full":
            assert done.stderr.count(b"\n") == 1
            assert b"No space left on device" in done.stderr
    failed = shell(f"rsp filter nowhere.geojson --score 0 --out o.geojson {redirected}", folder)
    check_orderly(failed)
    assert failed.returncode == 3


def test_a_closed_stream_is_not_taken_by_the_output(folder: Path) -> None:
    done = shell("rsp filter a.geojson --score 0 --out o.geojson <&- >&- 2>&-", folder)
    assert done.returncode == 0
    assert len(json.loads((folder / "o.geojson").read_text(encoding="utf-8"))["features"]) == 1


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    done = shell("rsp help predict | head -1", folder)
    check_orderly(done)
    assert done.stderr == b""
