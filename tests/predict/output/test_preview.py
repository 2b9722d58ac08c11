"""The map and the report beside the output of `rsp predict`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rsprompter_cli.errors import OutputError, UsageError
from rsprompter_cli.predict.output import preview as preview_module
from rsprompter_cli.predict.output.postprocess import FoundObject
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.stats import RunStats, Stage
from tests.make.browser import browser
from tests.make.scenes import paint, write_scene
from tests.make.stub_model import blob_model
from tests.predict.output.test_formats import write_area

OBJECTS = {"red": [(10, 12, 50, 40), (70, 60, 118, 112)], "blue": [(60, 10, 110, 30)]}


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "a.tif", paint(120, 120, OBJECTS))


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def test_the_map_shows_what_the_file_holds(scene: Path, tmp_path: Path) -> None:
    page, out = tmp_path / "map.html", tmp_path / "a.geojson"
    predict_scene(scene, out, model=blob_model(), native=True, preview=str(page))
    data = data_of(page)
    assert [(one["name"], one["count"]) for one in data["classes"]] == [("red", 2), ("blue", 1)]
    assert (data["image"]["width"], data["metres"]) == (120, pytest.approx(0.5, rel=1e-3))
    first = page.read_bytes()
    predict_scene(scene, out, model=blob_model(), native=True, preview=str(page), overwrite=True)
    assert page.read_bytes() == first
    with browser(tmp_path) as opened:
        opened.open(page)
        opened.settle()
        left, top, scale = (float(word) for word in opened.value("document.body.dataset.view").split())
        opened.click((94 - left) * scale, (100 - top) * scale)
        shown = opened.value("document.querySelector('#popup table').innerText")
    feature = json.loads(out.read_text())["features"][2]["properties"]
    assert f"id\t{feature['id']}" in shown
    assert f"{feature['area_m2']:.1f} m²" in shown


def test_the_map_of_an_area_shows_its_surroundings(scene: Path, tmp_path: Path) -> None:
    aoi = str(write_area(tmp_path / "aoi.gpkg", 55, 5, 115, 35))
    predict_scene(
        scene, tmp_path / "a.json", model=blob_model(), native=True, aoi=aoi, preview=str(tmp_path / "m.html")
    )
    data = data_of(tmp_path / "m.html")
    assert [data["image"][name] for name in ("x", "y", "width", "height")] == [49, 0, 71, 41]
    assert len(data["area"]) == 1
    assert sum(one["count"] for one in data["classes"]) == 1


@pytest.mark.parametrize("crs", [None, "EPSG:32633"])
def test_the_map_of_nothing_and_of_a_picture(crs: str | None, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(50, 60, {}), crs=crs)
    predict_scene(scene, tmp_path / "a.json", model=blob_model(), preview=str(tmp_path / "m.html"), native=True)
    data = data_of(tmp_path / "m.html")
    assert (data["metres"] is None, data["grid"] is None) == (crs is None, crs is None)


def test_of_very_many_an_even_share_is_shown(monkeypatch: pytest.MonkeyPatch, scene: Path, tmp_path: Path) -> None:
    import shapely

    from rsprompter_cli.geo.raster.scene import open_scene
    from rsprompter_cli.predict.output.postprocess import OutputOptions

    monkeypatch.setattr(preview_module, "MOST_OBJECTS", 10)
    with open_scene(scene, native=True) as opened:
        preview = preview_module.MapPreview(opened, OutputOptions(), ["red"])
        objects = [FoundObject(shapely.box(i, i, i + 5, i + 5), 0, 0.9, 1.0, None, 20.0) for i in range(35)]
        assert list(preview.watch(objects)) == objects
        preview.on_dropped(3)
        preview.write(tmp_path / "m.html", area=None, out_name="a.gpkg")
    data = data_of(tmp_path / "m.html")
    assert data["about"] == "34 objects in a.gpkg; 1 in 4 is shown"
    assert data["classes"][0]["count"] == 35
    from tests.draw.test_preview import decoded

    ids = decoded(data["columns"]["id"])
    # Place 3 is not in the file: those behind it have one less than their place says.
    assert [sum(ids[: i + 1]) for i in range(len(ids))] == [1, 4, 8, 12, 16, 20, 24, 28, 32]


def test_the_report_adds_up(tmp_path: Path) -> None:
    pixels = paint(300, 120, OBJECTS)
    pixels[:, 200:] = 0
    pixels[:, -1, -1] = 90  # what is empty is no collar
    scene = write_scene(tmp_path / "a.tif", pixels, nodata=0)
    aoi = str(write_area(tmp_path / "aoi.gpkg", 0, 0, 120, 230))
    report = tmp_path / "report.json"
    options = {"aoi": aoi, "aoi_cut": True, "classes": ("red",), "min_area": 400, "overlap": 0.0}
    predict_scene(scene, tmp_path / "a.gpkg", model=blob_model(), native=True, report=str(report), **options)
    told = json.loads(report.read_text())
    counts = told["counts"]
    assert counts["windows"] == 5 * 2
    assert counts["windows_from_journal"] == 0
    assert counts["windows_outside_area"] == 2
    assert counts["windows_without_data"] == 0
    assert counts["windows_predicted"] == 8
    left = counts["joined"] - sum(counts["dropped"].values())
    assert counts["objects"] == left
    assert counts["instances"] >= counts["joined"] > counts["dropped"]["classes"] > 0
    assert counts["bytes_read"] >= 120 * 192 * 3
    assert set(told["seconds"]) == {*(stage.value for stage in Stage), "total"}
    assert all(value >= 0 for value in told["seconds"].values())
    assert any("windows do not overlap" in warning for warning in told["warnings"])
    assert told["settings"]["output"]["classes"] == ["red"]
    assert {"rsprompter_cli", "torch", "gdal", "shapely"} <= set(told["versions"])
    assert told["input"] == str(scene)
    assert (told["score"], told["device"]) == (blob_model().meta.score_threshold, "cpu")
    assert told["precision"] in ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"preview": "map.pdf"}, UsageError, "--preview map.pdf"),
        ({"report": "report.txt"}, UsageError, "--report report.txt"),
        ({"preview": "old.html"}, OutputError, "old.html already exists"),
        ({"report": "no/way/r.json"}, OutputError, "not a folder"),
        ({"report": "out.json"}, OutputError, "--out and --report both name"),
    ],
)
def test_files_beside_the_output_are_claimed_first(
    options: dict[str, str], error: type[Exception], said: str, scene: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.html").write_text("precious")
    (tmp_path / "no").write_text("a file")
    with pytest.raises(error, match=said):
        predict_scene(scene, "out.json", model="nowhere", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "no", "old.html"]


def test_stages_within_stages_are_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("rsprompter_cli.predict.stats.time.perf_counter", lambda: now[0])
    stats = RunStats(started=0.0)

    def numbers() -> Any:
        for number in range(3):
            with stats.stage(Stage.MODEL):
                now[0] += 10
            now[0] += 1
            yield number

    with stats.stage(Stage.WRITING):
        for _ in stats.timed(Stage.JOINING, numbers()):
            now[0] += 2
    seconds = stats.seconds()
    assert (seconds["model"], seconds["joining"], seconds["writing"], seconds["total"]) == (30, 3, 6, 39)
    stats.instances, stats.bytes_read = 3, 78_000_000
    assert stats.describe() == "3 detections before joining, 2.0 MB/s read"
