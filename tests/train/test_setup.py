"""What a run starts from, and what its checkpoints say of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rsprompter_cli.errors import CheckpointError, InputError, TrainingError
from rsprompter_cli.evaluate.coco import Evaluation
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint, write_checkpoint
from rsprompter_cli.io.model_files.sam_folder import write_sam_folder
from rsprompter_cli.models.load import load_model
from rsprompter_cli.train import evaluation as evaluation_module
from rsprompter_cli.train import initial_weights, loop
from rsprompter_cli.train.initial_weights import class_keys
from rsprompter_cli.train.loggers import Speed, read_log
from rsprompter_cli.train.setup import prepare
from rsprompter_cli.train.state import Cursor, RunState, require_same_run
from tests.make.coco_sets import CLASSES, make_set, read_document, write_document
from tests.make.tiny_models import TINY_VIT, tiny_config, tiny_meta, tiny_model, tiny_model_config
from tests.train.runs import equal, make_data, run, tensors


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data", train=4)


def _checkpoint(folder: Path, class_names: tuple[str, ...]) -> Path:
    model = tiny_model(num_classes=len(class_names), seed=5)
    meta = tiny_meta(num_classes=len(class_names), class_names=class_names, sam={"name": "base", "sha256": "ab"})
    write_checkpoint(folder, model.state_dict(), tiny_config(), meta)
    return folder


def _prepare(data: Path, **keywords: Any) -> Any:
    return prepare(tiny_config(), data, **({"load_from": None, "random_sam": False} | keywords))


def test_the_checkpoint_tells_all_that_is_known(data: Path, tmp_path: Path) -> None:
    document = read_document(data)
    document["info"] = {"gsd_range": [0.1, 0.3], "attribution": "(c) Somebody"}
    write_document(data, document)
    result = run(data, tmp_path / "run", {"epochs": 2, "eval_every": 1})
    assert result.best is not None
    stored = read_checkpoint(result.best)
    meta = stored.meta
    assert meta.class_names == CLASSES
    assert meta.category_ids == (10, 20)
    assert meta.image_size == stored.config.model.image_size == 64
    assert meta.gsd_range == (0.1, 0.3)
    assert meta.sam == {"name": "base", "weights": "random"}
    assert {"segm_AP", "bbox_AP50", "f1"} <= meta.metrics.keys()
    assert {"torch", "transformers", "rsprompter_cli", "python"} <= meta.versions.keys()
    facts = meta.provenance
    assert facts["train"]["images"] == 4
    assert facts["train"]["info"]["attribution"] == "(c) Somebody"
    assert len(facts["val"]["sha256"]) == 64
    # The folder is enough: the model loads without the configuration or the SAM it came from.
    load_model(result.best)
    records = read_log(tmp_path / "run")
    assert [record["kind"] for record in records] == ["start", "step", "evaluation", "step", "evaluation", "end"]
    assert {"loss", "losses", "lr", "images_per_s", "memory_mb", "eta_s", "gradient_norm"} <= records[1].keys()
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_the_best_by_mask_ap_is_kept_with_its_threshold(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, scores = evaluation_module.evaluate_results, iter([0.2, 0.5, 0.3])

    def evaluate(*arguments: Any, **keywords: Any) -> Evaluation:
        evaluation = original(*arguments, **keywords)
        score = next(scores)
        mask = {**evaluation.metrics.mask, "AP": score}
        return replace(evaluation, metrics=replace(evaluation.metrics, mask=mask, score_threshold=score + 0.1))

    monkeypatch.setattr(evaluation_module, "evaluate_results", evaluate)
    result = run(data, tmp_path / "run", {"epochs": 3, "eval_every": 1})
    assert result.best_score == 0.5
    best, last = (read_checkpoint(result.folder / name).meta for name in ("best", "last"))
    assert (best.metrics["segm_AP"], best.score_threshold, best.provenance["epochs"]) == (0.5, 0.6, 2)
    assert (last.metrics["segm_AP"], last.score_threshold, last.provenance["epochs"]) == (0.3, 0.4, 3)
    assert not equal(tensors(result.folder / "best"), tensors(result.last))


@pytest.mark.parametrize("value", [[0.3, 0.1], "0.3", [0, 1], [1], [float("inf"), float("inf")]])
def test_an_odd_ground_resolution_is_refused(data: Path, value: Any) -> None:
    document = read_document(data)
    document["info"] = {"gsd_range": value}
    write_document(data, document)
    with pytest.raises(InputError, match="gsd_range"):
        _prepare(data, random_sam=True)


def test_without_sam_weights_the_error_names_the_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError) as caught:
        _prepare(data)
    assert "rsp download-sam base" in str(caught.value)


def test_sam_weights_come_from_their_folder_and_name_themselves(data: Path, tmp_path: Path) -> None:
    from transformers import SamConfig, SamModel

    from rsprompter_cli.io.model_files.sam_folder import SAM_CONFIG_FILE, config_from_arch

    fields = config_from_arch(TINY_VIT)
    torch.manual_seed(3)
    sam = SamModel(SamConfig(**{key: value for key, value in fields.items() if key.endswith("_config")}))
    folder = tmp_path / "sam"
    source = {"origin": "me/tiny", "file": "x.safetensors", "file_sha256": "0" * 64, "commit": "c" * 40}
    write_sam_folder(folder, dict(sam.state_dict()), TINY_VIT, source)
    assert json.loads((folder / SAM_CONFIG_FILE).read_text())
    config = tiny_config(sam=str(folder), sam_arch=None)
    setup = prepare(config, data, load_from=None, random_sam=False)
    assert torch.equal(
        setup.model.state_dict()["encoder.vit.patch_embed.projection.weight"],
        sam.state_dict()["vision_encoder.patch_embed.projection.weight"],
    )
    assert setup.meta.sam["origin"] == "me/tiny"
    assert setup.meta.sam["commit"] == "c" * 40
    assert len(setup.meta.sam["sha256"]) == 64
    assert setup.config.model.sam_arch == TINY_VIT


def test_load_from_starts_from_those_weights(data: Path, tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "old", CLASSES)
    setup = _prepare(data, load_from=folder)
    state = setup.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in tensors(folder).items())
    assert setup.meta.sam == {"name": "base", "sha256": "ab"}
    assert setup.meta.provenance["load_from"] == str(folder)


@pytest.mark.parametrize("names", [("ship", "tree", "car"), ("tank", "house")])
def test_other_classes_start_anew_and_are_told_in_one_line(
    data: Path, tmp_path: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _checkpoint(tmp_path / "old", names)
    lines: list[str] = []
    monkeypatch.setattr(initial_weights._log, "warning", lambda text, *values: lines.append(text % values))
    setup = _prepare(data, load_from=folder)
    (line,) = lines
    assert line.endswith(
        f"has other classes ({', '.join(names)}): newly initialized: box_head.classes, box_head.offsets"
    )
    state, old = setup.model.state_dict(), tensors(folder)
    fresh = class_keys(tiny_model_config(), 2)
    assert fresh == {
        "box_head.classes.weight",
        "box_head.classes.bias",
        "box_head.offsets.weight",
        "box_head.offsets.bias",
    }
    assert not torch.equal(state["box_head.classes.weight"][:2], old["box_head.classes.weight"][:2])
    assert all(torch.equal(value, state[key]) for key, value in old.items() if key not in fresh)


def test_a_checkpoint_of_another_size_is_refused_with_the_keys(data: Path, tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "old", CLASSES)
    config = tiny_config(neck={"hidden_channels": 4, "out_channels": 16})
    with pytest.raises(CheckpointError, match=r"neck\.aggregator"):
        prepare(config, data, load_from=folder, random_sam=False)


def test_data_without_objects_or_with_other_validation_classes_is_refused_before_any_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsprompter_cli.train.setup.build_model", None)
    empty = make_data(tmp_path / "empty")
    document = read_document(empty)
    write_document(empty, document | {"annotations": []})
    with pytest.raises(InputError, match="no usable object"):
        _prepare(empty, random_sam=True)
    odd = tmp_path / "odd"
    make_set(odd, split="train")
    make_set(odd, split="val", classes=("house", "tree"))
    with pytest.raises(InputError, match="only in the file: tree; only in the model: tank"):
        _prepare(odd, random_sam=True)


def test_nothing_to_train_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def frozen(*arguments: Any, **keywords: Any) -> Any:
        setup = prepare(*arguments, **keywords)
        setup.model.requires_grad_(False)
        return setup

    monkeypatch.setattr(loop, "prepare", frozen)
    with pytest.raises(TrainingError, match="no parameter"):
        run(data, tmp_path / "run")


def test_speed_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("rsprompter_cli.train.loggers.time.monotonic", lambda: clock[0])
    speed = Speed()
    assert speed.images_per_second() == 0
    for _ in range(3):
        clock[0] += 2
        speed.count(4)
    assert speed.images_per_second() == 2
    clock[0] += 1000
    speed.restart()
    clock[0] += 1
    speed.count(3)
    assert speed.images_per_second() == 3


def _annotated(data: Path, **train: Any) -> Any:
    config = tiny_config(train={"boxes": "annotations", **train})
    return prepare(config, data, load_from=None, random_sam=True)


def test_a_run_trains_on_the_boxes_that_its_configuration_names(data: Path) -> None:
    document = read_document(data)
    for one in document["annotations"]:
        one["bbox"][0] += 0.5
    write_document(data, document)
    still = {"augment": {"flip": 0.0, "scale": [1.0, 1.0]}}
    bounds = prepare(tiny_config(train=still), data, load_from=None, random_sam=True).train_data[0][1].boxes
    boxes = _annotated(data, **still).train_data[0][1].boxes
    assert bounds.shape == boxes.shape
    assert bool((bounds == bounds.round()).all())
    assert bool((boxes[:, 0] != boxes[:, 0].round()).any())


def test_boxes_that_are_corners_are_refused_where_they_are_trained_on(data: Path) -> None:
    document = read_document(data)
    for one in document["annotations"]:
        x, y, w, h = one["bbox"]
        # Wide masks near the corner, so that no box leaves the picture.
        one["segmentation"] = [[x + 9, y + 9, x + 9 + w, y + 9, x + 9 + w, y + 9 + h, x + 9, y + 9 + h]]
        one["bbox"] = [x + 9, y + 9, x + 9 + w, y + 9 + h]
    for image in document["images"]:
        image["width"] *= 4
        image["height"] *= 4
    write_document(data, document)
    with pytest.raises(InputError, match=r"match their masks only as x1, y1, x2, y2") as caught:
        _annotated(data)
    assert "train.boxes=masks" in caught.value.hint


def test_boxes_apart_from_their_masks_are_counted(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    document = read_document(data)
    document["annotations"][0]["bbox"] = [0, 0, 3, 3]
    write_document(data, document)
    with caplog.at_level("WARNING"):
        _annotated(data)
    assert f"1 of {len(document['annotations'])} boxes does not match its mask" in caplog.text
    caplog.clear()
    document["annotations"][1]["bbox"] = [0, 0, 3, 3]
    write_document(data, document)
    with caplog.at_level("WARNING"):
        _annotated(data)
        assert f"2 of {len(document['annotations'])} boxes do not match their masks" in caplog.text
        caplog.clear()
        prepare(tiny_config(), data, load_from=None, random_sam=True)
    assert "not match" not in caplog.text


@pytest.mark.parametrize("bbox", [None, [1, 1, 0, 5], [1, 1, 5, -2], [500, 1, 5, 5]])
def test_broken_boxes_are_refused_before_a_model_is_built(data: Path, bbox: list[int] | None) -> None:
    document = read_document(data)
    if bbox is None:
        del document["annotations"][0]["bbox"]
    else:
        document["annotations"][0]["bbox"] = bbox
    write_document(data, document)
    with pytest.raises(InputError, match=r"annotation 1 .*bbox"):
        _annotated(data)


def test_a_state_from_before_the_settings_says_what_they_were(tmp_path: Path) -> None:
    given = {"train.boxes": "'masks'", "train.augment.eight_bit": "True", "train.lr": "0.1"}
    state = RunState(Cursor(), {"train.lr": "0.1"}, {}, [])
    require_same_run(tmp_path, state, given)
    with pytest.raises(TrainingError, match=r"train\.augment\.eight_bit was True, is False"):
        require_same_run(tmp_path, state, given | {"train.augment.eight_bit": "False"})
    with pytest.raises(TrainingError, match=r"model\.rpn\.anchor_area was 'square', is 'original'"):
        require_same_run(tmp_path, state, given | {"model.rpn.anchor_area": "'original'"})
