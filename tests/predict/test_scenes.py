"""Many scenes with one model: a file for each, or one layer; the rest is done when one fails; a stopped run goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import torch
from PIL import Image

from rsprompter_cli.errors import InputError, OutputError, PartlyDoneError, UsageError
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.scenes import ManyPrediction, State, predict_scenes
from rsprompter_cli.predict.store import journal as journals
from rsprompter_cli.predict.store.manifest import WHOLE, Manifest
from rsprompter_cli.structures import Detections, Target
from tests.make.rfc7946 import problems
from tests.make.scenes import paint, write_scene
from tests.make.stub_model import BlobModel, blob_model

BOXES = {"red": [(10, 10, 40, 30), (70, 50, 140, 90)], "blue": [(100, 5, 130, 25)]}


class Stopping(BlobModel):
    """Raises in place of the call number `at`."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def forward(self, images: list[torch.Tensor], targets: list[Target] | None = None) -> list[Detections]:
        if self.seen == self.at:
            raise KeyboardInterrupt
        return super().forward(images, targets)


def stopped_at(calls: int, sources: list[Any], out: Path, **options: Any) -> None:
    loaded = blob_model()
    stopping = type(loaded)(Stopping(calls), loaded.config, loaded.meta)
    stopping.model.__class__.__qualname__ = BlobModel.__qualname__  # to the manifest it is the same model
    with pytest.raises(KeyboardInterrupt):
        predict_scenes(sources, out, model=stopping, native=True, **options)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_FLUSH_SECONDS", 0.0)


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """Three scenes: of two CRSs, and two of one name in folders of their own."""
    folder = tmp_path / "town"
    for place, (name, crs) in enumerate({"north/a": "EPSG:32633", "south/a": "EPSG:32634", "b": "EPSG:32633"}.items()):
        path = folder / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        boxes = {colour: [(x0, y0, x1 + place, y1) for x0, y0, x1, y1 in each] for colour, each in BOXES.items()}
        write_scene(path, paint(100, 150, boxes), crs=crs)
    return folder


def run(sources: Any, out: Path | None, **options: Any) -> ManyPrediction:
    return predict_scenes(sources, out, **{"model": blob_model(), "native": True, **options})


def states(result: ManyPrediction) -> list[str]:
    return [one.state.value for one in result.scenes]


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*"))


def test_a_file_for_each_scene_as_if_predicted_alone(town: Path, tmp_path: Path) -> None:
    result = run([f"{town}/**/*.tif"], tmp_path / "out")
    assert states(result) == ["done"] * 3
    names = [one.out.name for one in result.scenes if one.out is not None]
    assert names == ["b.geojson", "north_a.geojson", "south_a.geojson"]
    for one in result.scenes:
        assert one.out is not None
        alone = tmp_path / "alone" / one.out.name
        predict_scene(one.source, alone, model=blob_model(), native=True)
        assert alone.read_bytes() == one.out.read_bytes()
    assert result.objects == 9
    assert hidden(tmp_path / "out") == [".scenes.geojson.ledger"]


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".parquet", ".fgb", ".shp", ".geojsonl"])
def test_one_layer_of_scenes_of_two_coordinate_systems(
    town: Path, tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    scenes = [town / "b.tif", town / "north", town / "south"]
    out = tmp_path / f"all{suffix}"
    result = run(scenes, out)
    assert result.objects == 9
    assert ("2 coordinate reference systems, so the output is in EPSG:4326" in caplog.text) == ("geojson" not in suffix)
    layer = geopandas.read_file(out) if suffix != ".parquet" else geopandas.read_parquet(out)
    assert layer.crs.to_epsg() == 4326 or suffix == ".shp"
    assert sorted(layer["id"]) == list(range(1, 10))
    layer = layer.sort_values("id")
    sources = [str(town / "b.tif"), str(town / "north" / "a.tif"), str(town / "south" / "a.tif")]
    assert layer["source"].tolist() == [source for source in sources for _ in range(3)]
    if suffix == ".geojson":
        assert problems(out.read_text()) == []
        for source in sources:
            alone = tmp_path / "alone.geojson"
            predict_scene(source, alone, model=blob_model(), native=True, overwrite=True)
            expected = geopandas.read_file(alone)
            got = layer[layer["source"] == source]
            assert [one.equals(two) for one, two in zip(got.geometry, expected.geometry, strict=True)] == [True] * 3
            assert got["area_m2"].tolist() == expected["area_m2"].tolist()
    assert hidden(tmp_path) == []


def test_one_layer_stays_in_the_crs_that_all_scenes_have_or_that_is_asked_for(town: Path, tmp_path: Path) -> None:
    scenes = [town / "b.tif", town / "north/a.tif"]
    run(scenes, tmp_path / "same.gpkg")
    assert geopandas.read_file(tmp_path / "same.gpkg").crs.to_epsg() == 32633
    run([*scenes, town / "south/a.tif"], tmp_path / "asked.gpkg", crs="EPSG:3857")
    assert geopandas.read_file(tmp_path / "asked.gpkg").crs.to_epsg() == 3857


@pytest.mark.parametrize("name", ["all.geojson", "all.gpkg", "all.json", "folder"])
def test_a_scene_that_fails_leaves_the_others_and_is_tried_again(
    town: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = town / "bad.tif"
    broken.write_bytes(b"II*\x00 not a tiff")
    scenes = [town / "b.tif", broken, town / "gone.tif", town / "north"]
    out = tmp_path / name
    result = run(scenes, out, report=str(tmp_path / "report.json"))
    assert states(result) == ["done", "failed", "failed", "done"]
    assert [one.reason.split(":")[0] for one in result.failed] == [str(broken), str(town / "gone.tif")]
    assert all("\n" not in one.reason for one in result.failed)
    with pytest.raises(PartlyDoneError, match=r"2 of 4 scenes failed: .*bad.tif, .*gone.tif"):
        result.check()
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["state"] for one in report["scenes"]] == states(result)
    assert report["counts"]["objects"] == 6

    broken.unlink()
    write_scene(broken, paint(100, 150, BOXES))
    (town / "gone.tif").write_bytes(broken.read_bytes())
    loaded = blob_model()
    # The report of the run that is taken up is replaced, as no other file is.
    again = predict_scenes(scenes, out, model=loaded, native=True, report=str(tmp_path / "report.json"))
    assert states(again) == ["kept", "done", "done", "kept"]
    assert again.objects == 12
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["state"] for one in report["scenes"]] == states(again)
    (tmp_path / "report.json").write_text(json.dumps({**report, "output": "other"}))
    if name != "folder":
        out.unlink()  # of a run that is done, and so refused before the report is
    with pytest.raises(OutputError, match=r"report.json already exists"):
        predict_scenes(scenes, out, model=loaded, native=True, report=str(tmp_path / "report.json"))
    (tmp_path / "report.json").unlink()
    assert isinstance(loaded.model, BlobModel)
    assert loaded.model.seen == 2 * again.scenes[1].windows
    if name != "folder":
        assert hidden(tmp_path) == []


@pytest.mark.parametrize("name", ["all.geojson", "all.fgb", "all.json", "folder"])
def test_a_stopped_run_goes_on_and_gives_the_same_bytes(town: Path, tmp_path: Path, name: str) -> None:
    scenes = [f"{town}/**/*.tif"]
    whole = tmp_path / "whole" / name
    windows = sum(one.windows for one in run(scenes, whole).scenes)
    out = tmp_path / "stopped" / name
    for calls in (1, windows // 2, 2):
        stopped_at(calls, scenes, out)
        assert not out.is_file()
    loaded = blob_model()
    result = predict_scenes(scenes, out, model=loaded, native=True)
    assert result.objects == 9
    assert isinstance(loaded.model, BlobModel)
    assert loaded.model.seen == windows - windows // 2 - 3
    compared = [out] if out.is_file() else sorted(out.glob("*.geojson"))
    assert compared
    for path in compared:
        assert path.read_bytes() == (whole if out.is_file() else whole / path.name).read_bytes()


def test_what_failed_and_fails_again_is_said_again(town: Path, tmp_path: Path) -> None:
    scenes, out = [town / "b.tif", town / "gone.tif"], tmp_path / "all.gpkg"
    run(scenes, out)
    before = out.read_bytes()
    assert states(run(scenes, out)) == ["kept", "failed"]
    assert out.read_bytes() == before
    out.unlink()
    assert states(run(scenes, out)) == ["kept", "failed"]
    assert out.read_bytes() == before
    out.write_text("mine")
    with pytest.raises(OutputError, match=r"all\.gpkg already exists"):
        run(scenes, out)
    with pytest.raises(OutputError, match="was started by a run with score"):
        run(scenes, out, score=0.7)
    assert out.read_text() == "mine"
    assert states(run(scenes, out, overwrite=True)) == ["kept", "failed"]
    assert out.read_bytes() == before


@pytest.mark.parametrize("moment", ["after a scene", "after the merged file", "before the end", "in the tidying"])
@pytest.mark.parametrize("name", ["all.geojson", "all.json", "folder"])
def test_a_kill_between_two_steps_leaves_a_state_to_go_on_from(
    town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, name: str
) -> None:
    scenes, whole, out = [f"{town}/**/*.tif"], tmp_path / "whole" / name, tmp_path / "out" / name
    run(scenes, whole)
    finish = Manifest.finish

    def stop_after(manifest: Manifest, scene: str, *others: Any) -> None:
        if (scene == WHOLE) == (moment == "after the merged file"):
            raise KeyboardInterrupt
        finish(manifest, scene, *others)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment.startswith("after"):
            patch.setattr(Manifest, "finish", stop_after)
        elif moment == "before the end":
            patch.setattr(Manifest, "end", stop)
        else:
            patch.setattr(shutil, "rmtree", stop)
        if name == "folder" and moment in ("after the merged file", "in the tidying"):
            run(scenes, out)
        else:
            with pytest.raises(KeyboardInterrupt):
                run(scenes, out)
    assert run(scenes, out).objects == 9
    for path in [whole] if whole.is_file() else sorted(whole.glob("*.geojson")):
        assert (out if out.is_file() else out / path.name).read_bytes() == path.read_bytes()
    assert hidden(out.parent) == ([".scenes.geojson.ledger"] if name == "folder" else [])


def test_the_same_command_again_keeps_all_and_does_what_is_new(town: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run([town], out)
    write_scene(town / "c.tif", paint(100, 150, BOXES))
    before = (out / "b.geojson").stat().st_mtime_ns
    assert states(run([town], out)) == ["kept", "done"]
    assert (out / "b.geojson").stat().st_mtime_ns == before
    (out / "b.geojson").unlink()
    assert states(run([town], out)) == ["done", "kept"]
    assert states(run([town], out, overwrite=True)) == ["done", "done"]


def test_what_this_run_did_not_make_is_not_replaced(town: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.geojson").write_text("mine")
    with pytest.raises(OutputError, match=r"b\.geojson already exists"):
        run([town], out)
    (out / "b.geojson").unlink()
    run([town], out)
    (out / "b.geojson").write_text("edited")
    others: list[dict[str, Any]] = [{}, {"score": 0.7}]
    for options in others:
        with pytest.raises(OutputError, match=r"b\.geojson already exists"):
            run([town], out, **options)
    assert (out / "b.geojson").read_text() == "edited"


def test_other_settings_do_not_go_on_with_a_stopped_run(town: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "out", tmp_path / "all.gpkg"):
        stopped_at(1, [town / "b.tif", town / "north"], out)
        with pytest.raises(OutputError, match=r"simplify 0\.0 instead of 1\.0"):
            run([town / "b.tif", town / "north"], out, simplify=1.0)
        assert states(run([town / "b.tif", town / "north"], out, simplify=1.0, overwrite=True)) == ["done"] * 2


def test_two_runs_at_once_on_one_folder_are_refused(town: Path, tmp_path: Path) -> None:
    class Nested(BlobModel):
        def forward(self, images: list[torch.Tensor], targets: list[Target] | None = None) -> list[Detections]:
            with pytest.raises(OutputError, match="another run is using it"):
                run([town], tmp_path / "out")
            return super().forward(images, targets)

    loaded = blob_model()
    assert run([town], tmp_path / "out", model=type(loaded)(Nested(), loaded.config, loaded.meta)).objects == 3


def test_an_area_leaves_scenes_out_that_it_does_not_touch(town: Path, tmp_path: Path) -> None:
    area = tmp_path / "area.geojson"
    predict_scene(town / "b.tif", area, model=blob_model(), native=True)
    result = run([town / "south", town / "b.tif"], tmp_path / "all.gpkg", aoi=str(area))
    assert states(result) == ["outside", "done"]
    result.check()
    with pytest.raises(InputError, match="overlaps none of 1 scene"):
        run([town / "south"], tmp_path / "none.gpkg", aoi=str(area))


def test_a_dry_run_tells_every_plan_and_writes_nothing(town: Path, tmp_path: Path) -> None:
    result = run([f"{town}/**/*.tif", town / "gone.tif"], tmp_path / "out", dry_run=True)
    assert states(result) == ["done", "done", "done", "failed"]
    assert "3 scenes: 18 windows" in result.summary()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["town"]


def test_what_means_nothing_for_many_is_one_line(town: Path, tmp_path: Path) -> None:
    for out, options, said in (
        ("all.gpkg", {"preview": "m.html"}, "--preview: a map shows one scene"),
        ("all.png", {}, "--out FOLDER --format png"),
        ("out", {"format": "docx"}, "--format docx: unknown"),
        ("all.geojson", {"crs": "EPSG:3857"}, "RFC 7946"),
        ("out", {"crs": "EPSG:3857"}, "RFC 7946"),
        ("out", {"classes": ("bule",)}, "--classes bule"),
    ):
        with pytest.raises(UsageError, match=said):
            run([town], tmp_path / out, **options)
    with pytest.raises(OutputError, match=r"contains the input .*: an overlay written there"):
        run([town], town, format="png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["town"]


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for place in range(count):
        pixels = np.moveaxis(paint(60, 64, {"red": [(5 + place, 5, 30, 30)], "blue": [(40, 40, 50, 50)]}), 0, -1)
        Image.fromarray(pixels).save(folder / f"p{place}.{'png' if place % 2 else 'jpg'}", quality=100)
    return folder


def test_a_folder_of_pictures_becomes_one_coco_file_and_an_overlay_each(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pics", 4)
    pictures(tmp_path / "pics/more", 1)
    result = run([folder, folder / "more"], tmp_path / "found.json")
    coco = json.loads((tmp_path / "found.json").read_text())
    assert [one["file_name"] for one in coco["images"]] == ["p0.jpg", "p1.png", "p2.jpg", "p3.png", "more/p0.jpg"]
    assert [one["id"] for one in coco["images"]] == [1, 2, 3, 4, 5]
    assert [one["id"] for one in coco["annotations"]] == list(range(1, 11))
    assert [one["image_id"] for one in coco["annotations"]] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [one["id"] for one in coco["categories"]] == [1, 7]
    assert result.objects == 10
    from pycocotools.coco import COCO

    assert len(COCO(str(tmp_path / "found.json")).getAnnIds()) == 10

    drawn = run([folder], tmp_path / "seen", format="png")
    assert [one.out.name for one in drawn.scenes if one.out] == ["p0.png", "p1.png", "p2.png", "p3.png"]
    with Image.open(tmp_path / "seen" / "p0.png") as picture:
        assert picture.size == (64, 60)


def test_pictures_have_no_place_on_earth_for_a_layer(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pics", 2)
    result = run([folder], tmp_path / "all.geojson")
    assert states(result) == ["failed"] * 2
    assert not (tmp_path / "all.geojson").exists()
    result = run([folder], tmp_path / "all.gpkg", pixel_coords=True)
    assert result.objects == 4
    assert all(one.state is State.DONE for one in result.scenes)
