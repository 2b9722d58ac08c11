"""Asking a SAM that sees exactly: where masks land, what is asked again, what has no answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.models.zero_shot.prompted import PromptedSam
from rsprompter_cli.predict.prompts.segment import Answers, answer_prompts
from rsprompter_cli.predict.prompts.windows import Miss, Prompt, make_prompt
from tests.make.asked import SightedSam
from tests.make.scenes import paint, write_scene

RED = {"red": [(30, 40, 60, 55), (150, 20, 190, 70), (5, 5, 9, 9)]}


def _ask(path: Path, geometries: Sequence[Any], sam: SightedSam | None = None, **options: Any) -> Answers:
    with open_scene(path, native=True) as scene:
        asked = [make_prompt(one, row, (scene.height, scene.width)) for row, one in enumerate(geometries)]
        assert all(isinstance(one, Prompt) for one in asked)
        return answer_prompts(cast(PromptedSam, sam or SightedSam()), scene, cast(list[Prompt], asked), **options)


def _iou(a: Any, b: Any) -> float:
    return float(shapely.intersection(a, b).area / shapely.union(a, b).area)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene.tif", paint(100, 200, RED))


def test_boxes_and_points_find_what_they_lie_on(scene: Path) -> None:
    boxes = [shapely.box(*box) for box in RED["red"]]
    done: list[tuple[int, int]] = []
    answers = _ask(scene, [*boxes, shapely.Point(45, 50)], progress=lambda *at: done.append(at))
    for row, truth in enumerate([*boxes, boxes[0]]):
        # A contour cuts the four corners, by half a pixel each at most.
        assert shapely.symmetric_difference(answers.found[row].polygon, truth).area <= 2
        assert answers.found[row].score == pytest.approx(0.9)
    assert answers.misses == {}
    assert done[-1] == (4, 4)


def test_neighbours_are_encoded_once(scene: Path) -> None:
    sam = SightedSam()
    answers = _ask(scene, [shapely.box(30, 40, 60, 55), shapely.Point(45, 50), shapely.box(32, 42, 58, 53)], sam)
    assert answers.windows == len(sam.seen) == 1


def test_a_box_larger_than_a_window_is_read_coarser(tmp_path: Path) -> None:
    truth = shapely.box(100, 60, 420, 300)
    path = write_scene(tmp_path / "large.tif", paint(400, 500, {"red": [(100, 60, 420, 300)]}))
    sam = SightedSam()
    answers = _ask(path, [truth, shapely.box(0, 0, 500, 400)], sam)
    assert all(max(size) <= 64 for size in sam.seen)
    # 8 px of the scene are one of the window.
    assert _iou(answers.found[0].polygon, truth) > 0.95
    assert _iou(answers.found[1].polygon, truth) > 0.95


def test_the_object_of_a_point_is_asked_again_until_no_window_cuts_it(tmp_path: Path) -> None:
    truth = shapely.box(20, 20, 250, 60)
    path = write_scene(tmp_path / "long.tif", paint(100, 300, {"red": [(20, 20, 250, 60)]}))
    sam = SightedSam()
    answers = _ask(path, [shapely.Point(30, 30), shapely.Point(280, 90)], sam)
    # Seen in pixels of 8.
    assert _iou(answers.found[0].polygon, truth) > 0.85
    # The ground goes all around: in the end one window shows the whole scene, (100, 300) at an eighth.
    assert sam.seen[-1] == (12, 38)
    assert answers.found[1].score == pytest.approx(0.3)
    assert _iou(answers.found[1].polygon, shapely.box(0, 0, 300, 100).difference(truth)) > 0.9


def test_a_box_is_not_asked_again(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "long.tif", paint(100, 300, {"red": [(20, 20, 250, 60)]}))
    answers = _ask(path, [shapely.box(100, 30, 130, 50)])
    assert answers.windows == 1
    assert answers.found[0].polygon.bounds == pytest.approx((100, 30, 130, 50))


def test_one_part_or_all(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "two.tif", paint(60, 60, {"red": [(5, 5, 15, 15), (30, 30, 50, 50)]}))
    prompts = [shapely.box(0, 0, 60, 60), shapely.MultiPoint([(10, 10), (40, 40)]), shapely.Point(10, 10)]
    one = _ask(path, prompts).found
    assert [one[row].polygon.geom_type for row in range(3)] == ["Polygon"] * 3
    assert one[0].polygon.centroid.x == pytest.approx(40)
    assert one[2].polygon.centroid.x == pytest.approx(10)
    both = _ask(path, prompts, keep_parts=True).found
    assert [len(shapely.get_parts(both[row].polygon)) for row in range(3)] == [2, 2, 1]


def test_nodata_is_reported_and_never_shown(tmp_path: Path) -> None:
    pixels = paint(64, 256, {"red": [(10, 10, 30, 30), (100, 10, 128, 30), (200, 10, 220, 30)]})
    pixels[:, :, 128:] = 0
    path = write_scene(tmp_path / "half.tif", pixels, nodata=0)
    sam = SightedSam()
    far, edge, beyond = shapely.box(200, 10, 220, 30), shapely.box(100, 8, 140, 32), shapely.Point(130, 20)
    answers = _ask(path, [shapely.box(10, 10, 30, 30), far, edge, beyond], sam)
    assert answers.misses == {1: Miss.NODATA, 3: Miss.NODATA}
    assert answers.windows == len(sam.seen) == 2
    assert answers.found[2].polygon.bounds[2] <= 128


def test_an_empty_mask_is_reported(scene: Path) -> None:
    answers = _ask(scene, [shapely.box(70, 80, 90, 95), shapely.box(30, 40, 60, 55)])
    assert answers.misses == {0: Miss.EMPTY}
    assert list(answers.found) == [1]


def test_a_scene_smaller_than_a_window(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "small.tif", paint(20, 30, {"red": [(5, 5, 25, 15)]}))
    sam = SightedSam(image_size=1024)
    answers = _ask(path, [shapely.Point(10, 10), shapely.box(0, 0, 30, 20)], sam)
    assert sam.seen == [(20, 30)]
    assert answers.found[0].polygon.bounds == (5, 5, 25, 15)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_rectangle_anywhere_on_any_scene_comes_back(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    height, width = data.draw(st.integers(20, 200)), data.draw(st.integers(20, 200))
    x0, y0 = data.draw(st.integers(0, width - 10)), data.draw(st.integers(0, height - 10))
    x1, y1 = data.draw(st.integers(x0 + 10, width)), data.draw(st.integers(y0 + 10, height))
    point = shapely.Point(data.draw(st.floats(x0 + 0.5, x1 - 0.5)), data.draw(st.floats(y0 + 0.5, y1 - 0.5)))
    truth = shapely.box(x0, y0, x1, y1)
    path = write_scene(tmp_path_factory.mktemp("any") / "scene.tif", paint(height, width, {"red": [(x0, y0, x1, y1)]}))
    answers = _ask(path, [truth, point])
    # The coarsest grid of such a scene has pixels of 4.
    assert shapely.hausdorff_distance(answers.found[0].polygon.envelope, truth) <= 8
    if 1 in answers.found and answers.found[1].score > 0.5:
        assert shapely.hausdorff_distance(answers.found[1].polygon.envelope, truth) <= 8
