"""Curves, galleries and tables of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsprompter_cli.errors import OutputError
from rsprompter_cli.evaluate.coco import Evaluation, evaluate_model
from rsprompter_cli.evaluate.curves import draw_curves, save_curves
from rsprompter_cli.evaluate.gallery import save_gallery
from rsprompter_cli.evaluate.report import as_tree, class_rows, summary_rows
from tests.evaluate.test_coco import Oracle, _dataset


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    dataset = _dataset(tmp_path / "data")
    return evaluate_model(Oracle(dataset), dataset, batch=2, device=torch.device("cpu"), dtype=torch.float32)


def test_a_curve_is_drawn_where_its_precision_lies() -> None:
    high = np.asarray(draw_curves({"a": [1.0] * 101}), dtype=int)
    low = np.asarray(draw_curves({"a": [0.25] * 101}), dtype=int)
    # Rows of the plot where the curve's colour (far from grey) fills most columns.
    rows = [np.flatnonzero((np.ptp(picture[:, 100:500], axis=2) > 100).mean(axis=1) > 0.9) for picture in (high, low)]
    assert rows[0].mean() == pytest.approx(40, abs=2)
    assert rows[1].mean() == pytest.approx(540 - 125, abs=2)


def test_many_classes_and_none_fit_the_picture(tmp_path: Path) -> None:
    save_curves(tmp_path / "pr.png", {f"class {n}": [0.5] * 101 for n in range(40)} | {"absent": []})
    with Image.open(tmp_path / "pr.png") as picture:
        assert picture.height > 40 * 20
    assert draw_curves({}).height > 500


def test_the_gallery_holds_worst_and_best_once(tmp_path: Path, evaluation: Evaluation) -> None:
    names = save_gallery(tmp_path / "show", evaluation, count=3)
    assert sorted(names) == sorted(path.name for path in (tmp_path / "show").iterdir())
    # Four of five pictures have objects; the empty one has nothing to show.
    assert [name.split("_")[0] for name in names] == ["worst"] * 3 + ["best"]
    assert len({name.split("_", 3)[3] for name in names}) == 4
    with Image.open(tmp_path / "show" / names[0]) as picture:
        assert picture.width >= 2 * 64


def test_a_gallery_replaces_a_gallery_and_nothing_else(tmp_path: Path, evaluation: Evaluation) -> None:
    show = tmp_path / "show"
    save_gallery(show, evaluation, count=3)
    assert len(save_gallery(show, evaluation, count=1)) == len(list(show.iterdir())) == 2
    for foreign in ("notes.txt", "worst_01_0.50_a.tif", "worst.png"):
        (show / foreign).write_text("mine")
        with pytest.raises(OutputError, match=f"contains '{foreign}', which is not an image of a gallery"):
            save_gallery(show, evaluation, count=3)
        assert len(list(show.iterdir())) == 3
        (show / foreign).unlink()
    (show / "worst_01_0.50_folder.png").mkdir()
    with pytest.raises(OutputError, match="folder"):
        save_gallery(show, evaluation, count=3)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is not a folder"):
        save_gallery(tmp_path / "file", evaluation, count=3)
    assert (tmp_path / "file").read_text() == "mine"


def test_tables_and_tree_tell_the_same(evaluation: Evaluation) -> None:
    tree = json.loads(json.dumps(as_tree(evaluation.metrics), allow_nan=False))
    assert tree["segm"]["AP"] == pytest.approx(1.0)
    assert tree["segm"]["AP_large"] is None
    columns, rows = summary_rows(evaluation.metrics)
    assert columns == ["5 images, 12 objects", "mask", "box"]
    assert ["AP", "1.000", "1.000"] in rows
    assert ["AP_large", "-", "-"] in rows
    columns, rows = class_rows(evaluation.metrics)
    assert [row[0] for row in rows] == ["house", "tank"]
    assert columns == ["class: masks", "objects", "detections", "AP", "AP50", "AP75"]
    assert all(len(row) == len(columns) for row in rows)
    boxes, box_rows = class_rows(evaluation.metrics, boxes=True)
    assert boxes[0] == "class: boxes"
    assert [row[3] for row in box_rows] == [f"{one.box['AP']:.3f}" for one in evaluation.metrics.per_class]
    assert tree["per_class"][0]["segm"]["AP50"] == pytest.approx(1.0)
