"""Settings that the original's configuration states: every kind, taken over a preset that says otherwise."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rsprompter_cli.config import Config, ModelConfig
from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.complete_config import complete_config
from rsprompter_cli.models.load import load_model
from rsprompter_cli.models.original.checkpoint import Imported, import_checkpoint
from rsprompter_cli.models.original.key_tables import Spelling
from rsprompter_cli.models.original.rename import original_tensors
from tests.make.original_configs import Expression, Tree, changed, config_tree, pretty_text, without
from tests.make.original_files import save_like_mmengine
from tests.make.tiny_models import (
    tiny_mask2former_config,
    tiny_model_config,
    tiny_query_config,
    tiny_samdet_config,
    tiny_samseg_maskrcnn_config,
)

CASES: dict[str, ModelConfig] = {
    "rsprompter-anchor": tiny_model_config(),
    "lora": tiny_model_config(encoder="lora", lora={"r": 4, "alpha": 24, "dropout": 0.0}),
    "rsprompter-query": tiny_query_config(),
    "samdet": tiny_samdet_config(),
    "samseg-mask2former": tiny_mask2former_config(),
    "samseg-maskrcnn": tiny_samseg_maskrcnn_config(
        neck={"aggregator": "last", "hidden_channels": 8, "out_channels": 16}
    ),
}
NAMES = ("class0", "class1", "class2")

STATED: dict[str, dict[str, tuple[str, Any, Any]]] = {
    "rsprompter-anchor": {
        "rpn.anchor_scales": ("rpn_head.anchor_generator.scales", [2, 16], [2.0, 16.0]),
        "rpn.nms_iou": ("test_cfg.rpn.nms.iou_threshold", 0.6, 0.6),
        "rpn.nms_pre_train": ("train_cfg.rpn_proposal.nms_pre", 1500, 1500),
        "rpn.nms_pre_test": ("test_cfg.rpn.nms_pre", 700, 700),
        "rpn.max_proposals": ("test_cfg.rpn.max_per_img", 600, 600),
        "rpn.samples": ("train_cfg.rpn.sampler.num", 128, 128),
        "roi.score_threshold": ("test_cfg.rcnn.score_thr", 0.02, 0.02),
        "roi.nms_iou": ("test_cfg.rcnn.nms.iou_threshold", 0.4, 0.4),
        "roi.max_detections": ("test_cfg.rcnn.max_per_img", 70, 70),
        "roi.samples": ("train_cfg.rcnn.sampler.num", 99, 99),
        "neck.layers": ("neck.feature_aggregator.select_layers", [0, 4], [0, 4]),
        "encoder": ("backbone.peft_config", None, "frozen"),
        "decoder": ("decoder_freeze", True, "frozen"),
    },
    "lora": {
        "lora.alpha": ("backbone.peft_config.lora_alpha", 64, 64),
        "lora.dropout": ("backbone.peft_config.lora_dropout", 0.2, 0.2),
    },
    "rsprompter-query": {
        "query.heads": ("", 4, 4),
        "query.norm_groups": ("panoptic_head.pixel_decoder.norm_cfg.num_groups", 2, 2),
        "query.loss_points": ("train_cfg.num_points", 112, 112),
        "query.oversample": ("train_cfg.oversample_ratio", 2, 2.0),
        "query.importance": ("train_cfg.importance_sample_ratio", 0.5, 0.5),
        "query.max_detections": ("test_cfg.max_per_image", 5, 5),
    },
    "samdet": {
        "frozen_stages": ("detector.backbone.frozen_stages", -1, -1),
        "frozen_norms": ("detector.backbone.norm_eval", False, False),
        "rpn.nms_iou": ("detector.test_cfg.rpn.nms.iou_threshold", 0.65, 0.65),
        "roi.score_threshold": ("detector.test_cfg.rcnn.score_thr", 0.1, 0.1),
    },
    "samseg-mask2former": {"query.max_detections": ("test_cfg.max_per_image", 6, 6)},
    "samseg-maskrcnn": {"roi.max_detections": ("test_cfg.rcnn.max_per_img", 7, 7)},
}
"""By case: our key, the original's entry, the value there and ours; all differ from the preset."""


def state_of(case: str) -> dict[str, Tensor]:
    """The original's tensors of a tiny model."""
    model = CASES[case]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build_model(model, num_classes=3).state_dict()
    lora = case == "lora"
    return dict(original_tensors(state, kind=model.kind, spelling=Spelling(lora, lora, lora), origin="a test"))


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    return {case: state_of(case) for case in CASES}


def tree_of(case: str) -> Tree:
    return copy.deepcopy(config_tree(complete_config(CASES[case])))


def stated_tree(case: str) -> Tree:
    """The configuration of a model with the settings of `STATED`."""
    tree = tree_of(case)
    for key, (path, value, _) in STATED[case].items():
        if key == "query.heads":
            for part in ("pixel_decoder.encoder.layer_cfg.self_attn_cfg", "transformer_decoder.layer_cfg.self_attn_cfg",
                         "transformer_decoder.layer_cfg.cross_attn_cfg"):  # fmt: skip
                changed(tree, f"model.panoptic_head.{part}.num_heads", value)
        else:
            changed(tree, f"model.{path}", value)
    return tree


def take(
    tmp_path: Path, state: dict[str, Tensor], case: str, cfg: Any, *, chosen: tuple[str, ...] = (), **more: Any
) -> Imported:
    path = save_like_mmengine(tmp_path / "epoch_12.pth", state, cfg=cfg, **({"classes": NAMES} | more))
    return import_checkpoint(
        path, tmp_path / "out", Config(name="tiny", model=CASES[case]), chosen=chosen, overwrite=True
    )


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_like_the_preset_is_understood_whole(
    case: str, states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    report = take(tmp_path, states[case], case, pretty_text(tree_of(case))).report
    assert report.where == "meta.cfg"
    assert (report.problem, list(report.unread), dict(report.differences), list(report.built_in)) == ("", [], {}, [])
    assert [one.key for one in report.assumed] == []
    assert [one.words() for one in report.settings if one.changed] == []


@pytest.mark.parametrize("case", CASES)
def test_what_no_tensor_shows_is_taken_over_the_preset(
    case: str, states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    state = dict(states[case])
    if case == "rsprompter-query":
        # Attention at other points needs other tensors.
        for name in ("sampling_offsets", "attention_weights"):
            for key in [key for key in state if f".{name}." in key]:
                state[key] = torch.cat([state[key]] * (4 // CASES[case].query.heads))  # type: ignore[union-attr]
    done = take(tmp_path, state, case, pretty_text(stated_tree(case)))
    settings = {one.key: one for one in done.report.settings}
    model = done.config.model.model_dump(mode="json")
    for key, (path, _, ours) in STATED[case].items():
        value: Any = model
        for part in key.split("."):
            value = value[part]
        assert value == ours, key
        assert (settings[key].value, settings[key].source) == (ours, "configuration"), key
        assert settings[key].changed or key in ("encoder",), key
        assert settings[key].entry == path or not path
    meta = read_checkpoint(tmp_path / "out").meta.provenance
    assert meta["original_settings"].items() >= {key: ours for key, (_, _, ours) in STATED[case].items()}.items()
    assert meta["assumed_settings"] == {}
    load_model(tmp_path / "out")


def test_without_a_configuration_everything_that_no_tensor_shows_is_assumed(
    states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    path = tmp_path / "bare.pth"
    for case, expected in {
        "lora": {"lora.alpha", "lora.dropout", "rpn.anchor_scales", "roi.score_threshold", "decoder"},
        "rsprompter-query": {"query.heads", "query.points", "query.norm_groups", "query.loss_points", "neck.layers"},
        "samdet": {"frozen_stages", "rpn.nms_iou", "roi.max_detections"},
    }.items():
        torch.save(states[case], path)
        config = Config(name="tiny", model=CASES[case])
        report = import_checkpoint(path, tmp_path / case, config, class_names=NAMES).report
        assert report.where == ""
        assumed = {one.key for one in report.assumed}
        assert expected <= assumed
        assert not assumed & {"query.queries", "query.channels", "image_size", "lora.r", "prompts_per_object"}
        assert {"pixel mean", "pixel std"} <= set(report.built_in)
        stored = json.loads((tmp_path / case / "meta.json").read_text())["provenance"]
        assert expected <= set(stored["assumed_settings"])
        assert stored["original_configuration"]["found_in"] is None


def test_set_comes_before_the_configuration(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    text = pretty_text(stated_tree("lora"))
    done = take(tmp_path, states["lora"], "lora", text, chosen=("model.lora.alpha", "train.lr"))
    sources = {one.key: (one.value, one.source) for one in done.report.settings}
    assert sources["lora.alpha"] == (24, "--set")
    assert sources["lora.dropout"] == (0.2, "configuration")
    done = take(tmp_path, states["lora"], "lora", text, chosen=("model.lora",))
    sources = {one.key: (one.value, one.source) for one in done.report.settings}
    assert sources["lora.dropout"] == (0.0, "--set")


def test_adapters_come_from_the_configuration_where_the_preset_has_none(
    states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    path = save_like_mmengine(
        tmp_path / "lora.pth", states["lora"], classes=NAMES, cfg=pretty_text(without(tree_of("lora"), "crop_size"))
    )
    done = import_checkpoint(path, tmp_path / "out", Config(name="tiny", model=tiny_model_config()))
    assert done.config.model.encoder == "lora"  # type: ignore[union-attr]
    assert done.config.model.lora.model_dump() == {"r": 4, "alpha": 24, "dropout": 0.0}  # type: ignore[union-attr]


def test_what_the_originals_code_takes_where_an_entry_is_missing(
    states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    tree = changed(tree_of("lora"), "model.backbone.peft_config", {"r": 4})
    model = take(tmp_path, states["lora"], "lora", pretty_text(tree)).config.model
    assert model.lora.model_dump() == {"r": 4, "alpha": 32, "dropout": 0.05}  # type: ignore[union-attr]
    tree = without(tree_of("rsprompter-anchor"), "model.backbone.peft_config")
    done = take(tmp_path, states["rsprompter-anchor"], "rsprompter-anchor", pretty_text(tree))
    assert done.config.model.encoder == "full"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("case", "path", "value", "told"),
    [
        (
            "rsprompter-query",
            "panoptic_head.num_queries",
            70,
            "sets model.query.queries to 70 in model.panoptic",
        ),
        ("lora", "backbone.peft_config.r", 8, "tensors have adapters (LoRA) of rank 4"),
        ("lora", "backbone.peft_config", None, "states none in model.backbone.peft_config"),
        ("samdet", "detector.roi_head.bbox_head.num_classes", 10, "its tensors are those of 3 classes"),
        ("samseg-maskrcnn", "roi_head.bbox_head.fc_out_channels", 1024, "its tensors to 32"),
        ("samseg-maskrcnn", "neck.feature_aggregator.type", "RSFeatureAggregator", "its tensors to last"),
        ("rsprompter-anchor", "roi_head.mask_head.per_pointset_point", 4, "its tensors to 5"),
        ("rsprompter-anchor", "data_preprocessor.batch_augments.0.size", (512, 512), "its tensors to 64"),
        (
            "rsprompter-anchor",
            "type",
            "mmdet.SAMSegMaskRCNN",
            "describes a samseg-maskrcnn, its tensors are those of a",
        ),
        # Models that cannot be built.
        ("rsprompter-anchor", "data_preprocessor.mean", [0, 0, 0], "[123.675, 116.28, 103.53]"),
        ("rsprompter-anchor", "data_preprocessor.bgr_to_rgb", False, "bgr_to_rgb = False"),
        ("rsprompter-anchor", "rpn_head.anchor_generator.ratios", [1.0], "anchor_generator.ratios = [1.0]"),
        ("rsprompter-anchor", "test_cfg.rcnn.nms.type", "soft_nms", "nms.type = 'soft_nms'"),
        ("lora", "backbone.peft_config.target_modules", ["qkv", "proj"], "target_modules = ['qkv', 'proj']"),
        ("rsprompter-query", "panoptic_head.positional_encoding.normalize", False, "positional_encoding.normalize"),
        # Values that contradict each other, or that no setting takes.
        ("rsprompter-query", "panoptic_head.positional_encoding.num_feats", 5, "model.query.channels to 16"),
        ("rsprompter-query", "panoptic_head.transformer_decoder.layer_cfg.self_attn_cfg.num_heads", 1, "query.heads"),
        ("rsprompter-anchor", "test_cfg.rcnn.max_per_img", -1, "max_per_img = -1, which is not a whole number from 0"),
        (
            "rsprompter-anchor",
            "test_cfg.rcnn.score_thr",
            1.5,
            "score_thr = 1.5, which model.roi.score",
        ),
        ("rsprompter-anchor", "test_cfg.rcnn.score_thr", "0.5", "score_thr = '0.5', which is not a number"),
        ("rsprompter-anchor", "test_cfg.rcnn.score_thr", True, "score_thr = True, which is not a number"),
        (
            "rsprompter-anchor",
            "test_cfg.rpn.nms_pre",
            10**17,
            "nms_pre = 100000000000000000, which is not",
        ),
        ("rsprompter-anchor", "rpn_head.anchor_generator.scales", [], "anchor_generator.scales = []"),
    ],
)
def test_contradictions_are_one_line(
    case: str, path: str, value: Any, told: str, states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        take(tmp_path, states[case], case, pretty_text(changed(tree_of(case), f"model.{path}", value)))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_the_ways_out_of_contradictions_lead_out(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    tree = changed(tree_of("rsprompter-query"), "model.panoptic_head.num_queries", 70)
    with pytest.raises(CheckpointError, match=r"--set model.query.queries=8"):
        take(tmp_path, states["rsprompter-query"], "rsprompter-query", pretty_text(tree))
    done = take(
        tmp_path, states["rsprompter-query"], "rsprompter-query", pretty_text(tree), chosen=("model.query.queries",)
    )
    assert done.config.model.query.queries == 8  # type: ignore[union-attr]
    tree = changed(tree_of("samdet"), "model.detector.test_cfg.rcnn.max_per_img", -1)
    take(tmp_path, states["samdet"], "samdet", pretty_text(tree), chosen=("model.roi.max_detections",))


def test_other_training_is_listed(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    tree = tree_of("rsprompter-query")
    changed(tree, "model.panoptic_head.loss_dice.loss_weight", 2.0)
    changed(tree, "model.panoptic_head.loss_cls.class_weight", [1.0, 1.0, 1.0, 0.5])
    report = take(tmp_path, states["rsprompter-query"], "rsprompter-query", pretty_text(tree)).report
    assert report.differences == {
        "panoptic_head.loss_dice.loss_weight": "2.0, rsp trains with 5.0",
        "panoptic_head.loss_cls.class_weight": "[1.0, 1.0, 1.0, 0.5], rsp trains with [1.0, 1.0, 1.0, 0.1]",
    }
    tree = changed(tree_of("samdet"), "model.detector.train_cfg.rpn_proposal.max_per_img", 2000)
    report = take(tmp_path, states["samdet"], "samdet", pretty_text(tree)).report
    assert report.differences == {"detector.train_cfg.rpn_proposal.max_per_img": "2000, rsp trains with 30"}


def test_entries_that_are_not_understood_are_assumed_and_listed(
    states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    tree = tree_of("lora")
    evil = Expression(f"__import__('os').system('touch {marker}')")
    changed(tree, "model.backbone.peft_config.lora_alpha", evil)
    changed(tree, "model.rpn_head.anchor_generator.scales", Expression("[x for x in (4, 8)]"))
    changed(tree, "model.test_cfg.rcnn.score_thr", Expression("(lambda: 0.5)()"))
    changed(tree, "model.test_cfg.rpn.nms_pre", Expression("9" * 5000))
    changed(tree, "model.roi_head.with_more", 3)
    changed(tree, "model.backbone.peft_config.alpha_pattern", {"qkv": 3})
    report = take(tmp_path, states["lora"], "lora", pretty_text(tree)).report
    assert {one.key for one in report.assumed} == {
        "lora.alpha", "rpn.anchor_scales", "roi.score_threshold", "rpn.nms_pre_test",
    }  # fmt: skip
    assert {"backbone.peft_config.lora_alpha", "roi_head.with_more", "backbone.peft_config.alpha_pattern.qkv"} <= set(
        report.unread
    )
    assert not marker.exists()


HOSTILE = {
    "code": "import os\nos.system('touch {marker}')\nopen('{marker}', 'w')\n",
    "deep": "model = " + "[" * 100_000,
    "deep and closed": "model = " + "dict(a=" * 500 + "1" + ")" * 500,
    "minus": "model = " + "-" * 100_000 + "1",
    "sums": "model = " + "1+" * 100_000 + "1",
    "huge": "model = " + "9" * 1_000_000,
    "power": "model = 10 ** 10 ** 10\n",
    "long": "model = '" + "x" * 2_000_001 + "'",
    "many": "model = [" + "1," * 200_000 + "]",
    "copies": "model = [0] * 10 ** 9\nother = [0] * 1000000000",
    "doubling": "model = [1]\n" + "model = model + model\n" * 60,
    "laughs": "a0 = [1]\n" + "".join(f"a{n} = [a{n - 1}, a{n - 1}]\n" for n in range(1, 500)) + "model = dict(a=a499)",
    "formatted": 'model = f\'{{open("{marker}", "w")}}\'',
    "nul": "model = dict(\0)",
    "empty": " ",
    "no Python": "model = dict(a='",
    "unbalanced": "model = )",
    "recursive": "model = dict(a=model)",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_configuration_is_listed_and_nothing_is_taken(
    case: str, states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    done = take(tmp_path, states["samdet"], "samdet", HOSTILE[case].replace("{marker}", str(marker)))
    assert not marker.exists()
    assert done.report.problem or done.report.unread or case == "empty"
    assert {"rpn.nms_iou", "roi.score_threshold", "frozen_stages"} <= {one.key for one in done.report.assumed}


def test_tables_of_a_pickle_may_be_deep_and_hold_themselves(
    states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    tree = tree_of("samdet")
    tree["model"]["again"] = tree["model"]
    tree["model"]["detector"]["test_cfg"]["rcnn"]["score_thr"] = 10**500
    with pytest.raises(CheckpointError, match="a number of many digits"):
        take(tmp_path, states["samdet"], "samdet", tree)
    tree["model"]["detector"]["test_cfg"]["rcnn"]["score_thr"] = 0.3
    tree["model"]["\x1b[2J"] = 5
    done = take(tmp_path, states["samdet"], "samdet", tree)
    assert done.config.model.roi.score_threshold == 0.3  # type: ignore[union-attr]
    assert "?" in done.report.unread


def test_every_place_and_form_of_a_configuration(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    tree = changed(tree_of("samdet"), "model.detector.test_cfg.rcnn.score_thr", 0.3)
    text = pretty_text(tree)
    state = states["samdet"]
    printed = f"Config (path: configs/x.py): {tree!r}"
    for cfg in (text, tree, json.dumps(tree), printed):
        assert take(tmp_path, state, "samdet", cfg).config.model.roi.score_threshold == 0.3  # type: ignore[union-attr]
    hub = {"runtime_info": {"cfg": text, "dataset_meta": {"classes": ["a", "b", "c"]}}}
    path = tmp_path / "hub.pth"
    torch.save({"state_dict": state, "message_hub": hub}, path)
    done = import_checkpoint(path, tmp_path / "hub", Config(name="tiny", model=CASES["samdet"]))
    assert done.config.model.roi.score_threshold == 0.3  # type: ignore[union-attr]
    assert (done.report.where, done.meta.class_names) == ("message_hub.runtime_info.cfg", ("a", "b", "c"))
    torch.save({"state_dict": state, "meta": {"config": text, "CLASSES": ("a", "b", "c")}}, path)
    done = import_checkpoint(path, tmp_path / "old", Config(name="tiny", model=CASES["samdet"]))
    assert (done.report.where, done.config.model.roi.score_threshold) == ("meta.config", 0.3)  # type: ignore[union-attr]


def test_class_names_of_the_configuration(states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    tree = changed(tree_of("samdet"), "train_dataloader.dataset.metainfo", {"classes": ("x", "y", "z")})
    done = take(tmp_path, states["samdet"], "samdet", pretty_text(tree), classes=None)
    assert (done.meta.class_names, done.classes_from) == (("x", "y", "z"), "the file's configuration")


def test_the_preprocessor_of_the_whole_configuration_is_the_models(
    states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    tree = tree_of("samdet")
    tree["data_preprocessor"] = tree["model"].pop("data_preprocessor")
    assert list(take(tmp_path, states["samdet"], "samdet", pretty_text(tree)).report.built_in) == []
    changed(tree, "data_preprocessor.std", [1, 1, 1])
    with pytest.raises(CheckpointError, match=r"data_preprocessor.std = \[1, 1, 1\]"):
        take(tmp_path, states["samdet"], "samdet", pretty_text(tree))
