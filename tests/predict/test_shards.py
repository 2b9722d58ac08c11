"""Parts of a scene, predicted one by one, become to the byte what one run writes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon

from rsprompter_cli.errors import InputError
from rsprompter_cli.predict.merge import merge_parts
from rsprompter_cli.predict.options import PredictOptions
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.shard import Shard
from rsprompter_cli.predict.shards import open_run, predict_shard
from rsprompter_cli.predict.store.journal import Journal
from tests.make.layers import UTM, write_layer
from tests.make.scenes import ORIGIN, paint, write_scene
from tests.make.stub_model import COLOURS, BlobModel, blob_model


def town(folder: Path, side: int = 300, **profile: Any) -> Path:
    rng = np.random.default_rng(5)
    corners, sizes = rng.integers(0, side - 40, (40, 2)), rng.integers(5, 40, (40, 2))
    boxes = [(int(x), int(y), int(x + w), int(y + h)) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
    return write_scene(folder / "town.tif", paint(side, side, {"red": boxes[::2], "blue": boxes[1::2]}), **profile)


def write_parts(scene: Path, folder: Path, count: int, **options: Any) -> list[Path]:
    """The parts of all shards, the last one first."""
    paths = []
    for number in range(count, 0, -1):
        paths.append(folder / f"{number}.part")
        predict_shard(scene, paths[-1], Shard(number, count), model=blob_model(), native=True, **options)
    return paths


@pytest.mark.parametrize("name", ["a.geojson", "a.fgb", "a.json", "a.gpkg"])
@pytest.mark.parametrize(("count", "batch"), [(1, 1), (4, 1), (7, 5), (50, 1)])
def test_shards_of_any_number_give_the_same_bytes(tmp_path: Path, name: str, count: int, batch: int) -> None:
    scene = town(tmp_path)
    whole, merged = tmp_path / "whole" / name, tmp_path / "merged" / name
    predict_scene(scene, whole, model=blob_model(), native=True)
    parts = write_parts(scene, tmp_path / "parts", count, batch=batch)
    scene.unlink()  # parts know all that merging needs
    result = merge_parts(parts, merged)
    assert result.objects > 10
    assert merged.read_bytes() == whole.read_bytes()


def area(folder: Path) -> Path:
    """Two pieces of ground, the first slanted and with a hole."""
    slanted = Polygon(
        ground([(40, 20), (230, 60), (200, 210), (90, 190)]),
        holes=[ground([(120, 90), (150, 90), (150, 130), (120, 130)])],
    )
    return write_layer(folder / "area.gpkg", [slanted, Polygon(ground([(250, 250), (290, 250), (290, 280)]))], epsg=UTM)


def ground(pixels: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Pixels of 0.5 m in metres of the map."""
    return [(ORIGIN[0] + x / 2, ORIGIN[1] - y / 2) for x, y in pixels]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(("count", "batch"), [(1, 1), (3, 2), (9, 1)])
def test_shards_within_an_area_give_the_same_bytes(tmp_path: Path, cut: bool, count: int, batch: int) -> None:
    scene, around = town(tmp_path), area(tmp_path)
    options = {"aoi": str(around), "aoi_cut": cut}
    everywhere = predict_scene(scene, tmp_path / "everywhere.geojson", model=blob_model(), native=True).objects
    for name in ("a.geojson", "a.fgb", "a.json"):
        whole = tmp_path / "whole" / name
        assert 3 < predict_scene(scene, whole, model=blob_model(), native=True, **options).objects < everywhere
    parts = write_parts(scene, tmp_path / "parts", count, batch=batch, **options)
    scene.unlink()
    around.unlink()  # nor is it asked for again
    for name in ("a.geojson", "a.fgb", "a.json"):
        merge_parts(parts, tmp_path / "merged" / name)
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_parts_of_two_areas_are_not_merged(tmp_path: Path) -> None:
    scene, around = town(tmp_path), area(tmp_path)
    one, two, three = (tmp_path / f"{name}.part" for name in ("one", "two", "three"))
    predict_shard(scene, one, Shard(1, 2), model=blob_model(), native=True, aoi=str(around))
    predict_shard(scene, two, Shard(2, 2), model=blob_model(), native=True, aoi=str(around), aoi_cut=True)
    predict_shard(scene, three, Shard(2, 2), model=blob_model(), native=True)
    for other in (two, three):
        with pytest.raises(InputError, match="from a run with aoi"):
            merge_parts([one, other], tmp_path / "all.gpkg")


def test_shards_that_the_area_does_not_touch_read_nothing(tmp_path: Path) -> None:
    corner = [Polygon(ground([(0, 0), (40, 0), (40, 40), (0, 40)]))]
    options = {"native": True, "aoi": str(write_layer(tmp_path / "area.gpkg", corner, epsg=UTM))}
    scene, parts, seen = town(tmp_path), [], []
    for number in (1, 2, 3):
        parts.append(tmp_path / f"{number}.part")
        loaded = blob_model()
        predict_shard(scene, parts[-1], Shard(number, 3), model=loaded, **options)
        assert isinstance(loaded.model, BlobModel)
        seen.append(loaded.model.seen)
    assert seen[0] > 0
    assert seen[1:] == [0, 0]
    whole = tmp_path / "whole" / "a.geojson"
    predict_scene(scene, whole, model=blob_model(), **options)
    merge_parts(parts, tmp_path / "merged" / "a.geojson")
    assert (tmp_path / "merged" / "a.geojson").read_bytes() == whole.read_bytes()


def test_a_part_that_was_stopped_at_its_last_step_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = paint(300, 300, {"red": [(10, 10, 60, 60)]})
    scene = write_scene(tmp_path / "s.tif", pixels, tiled=True, blockxsize=64, blockysize=64, sparse_ok=True)
    for shard in (Shard(1, 2), Shard(2, 2), Shard(3, 50), Shard(30, 50)):
        name = str(shard).replace("/", "_")
        whole, stopped = tmp_path / f"{name}.part", tmp_path / f"{name}.stopped"
        predict_shard(scene, whole, shard, model=blob_model(), native=True)
        with monkeypatch.context() as patch:

            def stop(journal: Journal) -> None:
                journal.flush()
                raise KeyboardInterrupt

            patch.setattr(Journal, "complete", stop)
            with pytest.raises(KeyboardInterrupt):
                predict_shard(scene, stopped, shard, model=blob_model(), native=True)
        predict_shard(scene, stopped, shard, model=blob_model(), native=True)
        assert stopped.read_bytes() == whole.read_bytes()


side = st.one_of(st.integers(17, 64), st.integers(65, 200))  # one row or column of windows, or several
blob = st.tuples(
    st.sampled_from(sorted(COLOURS)), st.integers(0, 190), st.integers(0, 190), st.integers(1, 90), st.integers(1, 90)
)
scenes = given(
    height=side,
    width=side,
    blobs=st.lists(blob, max_size=12),
    count=st.integers(1, 14),
    batches=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    overlap=st.sampled_from([0.0, 0.1, 0.25, 0.45]),
    order=st.randoms(use_true_random=False),
)


def whole_and_merged(
    height: int,
    width: int,
    blobs: list[Any],
    count: int,
    batches: tuple[int, int],
    overlap: float,
    order: Any,
) -> list[tuple[bytes, bytes]]:
    """What one run over a scene writes and what its merged parts give, in two formats."""
    by_colour: dict[str, list[tuple[int, int, int, int]]] = {colour: [] for colour in COLOURS}
    for colour, x, y, w, h in blobs:
        by_colour[colour].append((x, y, x + w, y + h))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = write_scene(folder / "s.tif", paint(height, width, by_colour))
        options = PredictOptions().changed(native=True, overlap=overlap)
        for suffix in ("geojson", "json"):
            predict_scene(
                scene, folder / "whole" / f"a.{suffix}", options.changed(batch=batches[0]), model=blob_model()
            )
        numbers = list(range(1, count + 1))
        order.shuffle(numbers)
        with open_run(scene, options.changed(batch=batches[1]), blob_model()) as run:
            for number in numbers:
                run.write_part(Shard(number, count), folder / "parts" / f"{number}.part")
        written = []
        for suffix in ("geojson", "json"):
            merge_parts([folder / "parts"], folder / "merged" / f"a.{suffix}")
            whole, merged = (folder / one / f"a.{suffix}" for one in ("whole", "merged"))
            written.append((whole.read_bytes(), merged.read_bytes()))
        return written


@settings(max_examples=15, deadline=None)
@scenes
def test_merged_parts_are_the_bytes_of_one_run(**values: Any) -> None:
    assert all(whole == merged for whole, merged in whole_and_merged(**values))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@scenes
def test_merged_parts_are_the_bytes_of_one_run_over_many_scenes(**values: Any) -> None:
    assert all(whole == merged for whole, merged in whole_and_merged(**values))
