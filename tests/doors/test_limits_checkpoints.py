"""Checkpoint folders from strangers: numbers without end, wrong types, nesting, headers that lie."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from safetensors.torch import save_file

from rsprompter_cli.cli.app import run
from rsprompter_cli.config import list_presets, load_config
from rsprompter_cli.errors import CheckpointError, RspError, UsageError
from rsprompter_cli.io.model_files.checkpoint import BUNDLED_MODEL, read_checkpoint, write_checkpoint
from rsprompter_cli.models.load import load_model, outline_of
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "model", tiny_model().state_dict(), tiny_config(), tiny_meta())
    return tmp_path / "model"


def refusal(folder: Path) -> RspError:
    with pytest.raises(RspError) as caught:
        outline_of(read_checkpoint(folder))
    assert len(str(caught.value)) < 1000
    return caught.value


def change(folder: Path, key: str, value: Any) -> None:
    """Set a dotted key of config.toml."""
    path = folder / "config.toml"
    tree = tomllib.loads(path.read_text(encoding="utf-8"))
    *parts, last = key.split(".")
    node = tree
    for part in parts:
        node = node.setdefault(part, {})
    node[last] = value
    path.write_text(tomli_w.dumps(tree), encoding="utf-8")


@pytest.mark.parametrize("value", [10**30, 2**63, 2**31, 10**9 + 1, -(2**70), 0.5, "x" * 9000, [1] * 3000])
@pytest.mark.parametrize(
    "key",
    [
        "model.sam_arch.num_layers",
        "model.sam_arch.hidden_size",
        "model.sam_arch.decoder.num_layers",
        "model.sam_arch.decoder.iou_head_depth",
        "model.sam_arch.decoder.attention_downsample_rate",
        "model.sam_arch.decoder.num_multimask_outputs",
        "model.roi.fc_channels",
        "model.rpn.nms_pre_train",
        "model.neck.out_channels",
        "model.prompts_per_object",
        "model.mask_chunk",
        "train.epochs",
        "train.workers",
    ],
)
def test_a_number_without_end_names_its_key(folder: Path, key: str, value: Any) -> None:
    change(folder, key, value)
    error = refusal(folder)
    assert error.exit_code == UsageError.exit_code
    assert f"config.toml: {key}" in error.message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model.sam_arch.decoder.attention_downsample_rate", 3, "attention_downsample_rate 3"),
        ("model.sam_arch.decoder.num_heads", 3, "num_heads 3"),
        ("model.sam_arch.decoder.mask_input_channels", 3, "mask_input_channels 3"),
        ("model.sam_arch.num_heads", 5, "num_heads 5"),
        ("model.neck.layers", [10**20], "model.neck.layers"),
        ("model.rpn.anchor_scales", [1e300], "model.rpn.anchor_scales"),
        ("train.lr", 1e300, "train.lr: must be 1000 or less"),
    ],
)
def test_sizes_that_do_not_fit_together(folder: Path, key: str, value: Any, words: str) -> None:
    change(folder, key, value)
    assert words in refusal(folder).message


def test_presets_and_the_bundled_model_are_within_the_bounds() -> None:
    for name in list_presets():
        load_config(name)
    assert read_checkpoint(BUNDLED_MODEL).meta.class_names


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metrics", {"segm_AP": [[]]}),
        ("metrics", [1]),
        ("metrics", {"f1": "high"}),
        ("image_size", "base"),
        ("image_size", 10**18),
        ("image_size", True),
        ("image_size", 1),
        ("class_names", "building"),
        ("class_names", [["building"]]),
        ("class_names", ["\ud800"] * 3),
        ("category_ids", ["1", "2", "3"]),
        ("category_ids", [1]),
        ("category_ids", [1, 2, 1]),
        ("class_names", ["a", "b", "a"]),
        ("gsd_range", [1]),
        ("gsd_range", [2.0, 1.0]),
        ("gsd_range", [0, float("inf")]),
        ("bands", [0]),
        ("bands", {"red": 1}),
        ("scaling", 5),
        ("scaling", "9,1"),
        ("scaling", "nan,1"),
        ("score_threshold", float("nan")),
        ("score_threshold", [0.5]),
        ("sam", {"name": {"a": 1}}),
        ("versions", []),
        ("git_commit", ["x"]),
        ("provenance", "mine"),
        ("provenance", {"seconds_per_window": "long"}),
        ("provenance", {"seconds_per_window": float("inf")}),
        ("provenance", {"a": [{"b": float("nan")}]}),
        ("provenance", {"a": "x" * 200_000}),
        ("format_version", [1] * 5000),
        ("surprise", 1),
    ],
)
def test_fields_of_another_type_are_named(folder: Path, key: str, value: Any) -> None:
    path = folder / "meta.json"
    fields = json.loads(path.read_bytes())
    fields[key] = value
    path.write_text(json.dumps(fields), encoding="utf-8")
    error = refusal(folder)
    assert error.exit_code == 4
    assert "meta.json: damaged: " in error.message
    assert key in error.message or "Unicode" in error.message


@pytest.mark.parametrize("name", ["config.toml", "meta.json"])
@pytest.mark.parametrize("depth", [70, 900, 50_000])
def test_nesting(folder: Path, name: str, depth: int) -> None:
    text = "[" * depth + "]" * depth
    (folder / name).write_text(f"a = {text}" if name == "config.toml" else text, encoding="utf-8")
    error = refusal(folder)
    assert f"{name}: is nested more than 64 deep" in error.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(folder: Path, value: float) -> None:
    """Such a model found nothing, with exit code 0."""
    tensors = read_checkpoint(folder).tensors()
    tensors[min(tensors)].view(-1)[-1] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: numbers that are not finite in ") as caught:
        load_model(folder)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("stated", [2**64 - 1, 2**40, 17 << 20, 10**6, 3, 0])
def test_a_header_that_lies(folder: Path, stated: int) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(stated.to_bytes(8, "little") + content[8:])
    assert "model.safetensors: damaged or not a safetensors file" in refusal(folder).message
    with path.open("r+b") as file:  # as large as it says, of holes
        file.truncate(min(stated, 1 << 40) + 8)
    assert "model.safetensors: damaged or not a safetensors file" in refusal(folder).message


@pytest.mark.parametrize("case", ["ckpt-config-deep", "ckpt-config-endless", "ckpt-meta-deep"])
def test_folders_from_the_field(case: str, shared: Path, capsys: Capture) -> None:
    assert run(["checkpoint", "show", str(shared / "doors" / case / "model")]) in (2, 4)
    error = capsys.readouterr().err
    assert "internal error" not in error
    assert case in error


@pytest.mark.parametrize("name", ["fc_channels", "attention_downsample", "metrics"])
def test_files_from_the_field(name: str, shared: Path, folder: Path, capsys: Capture) -> None:
    source = shared / "doors" / ("ckpt-metrics-list" if name == "metrics" else "ckpt-config-numbers")
    if name == "metrics":
        shutil.copy(source / "meta.json", folder / "meta.json")
    else:
        shutil.copy(source / f"{name}.toml", folder / "config.toml")
    assert run(["checkpoint", "show", str(folder)]) in (2, 4)
    assert "internal error" not in capsys.readouterr().err


def test_a_part_from_the_field(shared: Path, tmp_path: Path, capsys: Capture) -> None:
    part = shutil.copy(shared / "doors" / "journal-deep" / "2.part", tmp_path / "2.part")
    assert run(["merge", str(part), "--out", str(tmp_path / "all.geojson")]) == 3
    assert "is not a part" in capsys.readouterr().err
