"""Weights files of the original: which tensors are the model, with all that stands around them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.io.model_files.original_file import AVERAGED, TRAINED, OriginalFile, read_original_file
from tests.make.original_files import save_like_mmengine

STATE = {"neck.weight": torch.arange(4.0), "norm.num_batches_tracked": torch.tensor(7)}
MEAN = {key: value + 1 for key, value in STATE.items()}


def same(found: OriginalFile, expected: dict[str, Tensor]) -> bool:
    return found.tensors.keys() == expected.keys() and all(
        torch.equal(found.tensors[key], value) for key, value in expected.items()
    )


def prefixed(prefix: str, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in (state or STATE).items()}


def test_a_training_checkpoint_gives_weights_classes_and_how_far_it_got(tmp_path: Path) -> None:
    path = save_like_mmengine(tmp_path / "epoch_12.pth", STATE, classes=["car", "boat"])
    found = read_original_file(path)
    assert same(found, STATE)
    assert (found.weights, found.other) == (TRAINED, None)
    assert found.class_names == ("car", "boat")
    assert found.facts == {
        "epoch": 12,
        "iter": 3400,
        "time": "20240110_200348",
        "experiment_name": "epoch_12",
        "mmengine_version": "0.10.3",
    }


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE},
        {"model": STATE},
        prefixed("module."),
        {"state_dict": prefixed("module.")},
        prefixed("_orig_mod.module."),
        prefixed("module._orig_mod."),
    ],
    ids=["bare", "state_dict", "model", "bare-ddp", "ddp", "compiled-ddp", "ddp-compiled"],
)
def test_every_wrapping_is_read(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    found = read_original_file(path)
    assert same(found, STATE)
    assert (found.weights, found.class_names) == (TRAINED, None)


def test_a_safetensors_file_is_read(tmp_path: Path) -> None:
    save_file(prefixed("module."), tmp_path / "weights.safetensors")
    assert same(read_original_file(tmp_path / "weights.safetensors"), STATE)


def test_mmengine_stores_the_mean_as_the_state_and_the_state_as_the_mean(tmp_path: Path) -> None:
    # Its EMAHook exchanges the two when it saves.
    hook = {"steps": torch.tensor(90), **prefixed("module.")}
    path = save_like_mmengine(tmp_path / "ema.pth", MEAN, ema_state_dict=hook)
    found = read_original_file(path)
    assert same(found, MEAN)
    assert (found.weights, found.other) == (AVERAGED, TRAINED)
    found = read_original_file(path, ema=False)
    assert same(found, STATE)
    assert (found.weights, found.other) == (TRAINED, AVERAGED)


def test_other_programs_store_the_mean_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "ema.pth"
    torch.save({"state_dict": STATE, "ema_state_dict": prefixed("module.", MEAN)}, path)
    assert same(read_original_file(path), MEAN)
    assert same(read_original_file(path, ema=False), STATE)


def test_what_is_not_averaged_comes_from_the_state(tmp_path: Path) -> None:
    path = tmp_path / "ema.pth"
    torch.save({"state_dict": STATE, "ema_state_dict": {"neck.weight": MEAN["neck.weight"]}}, path)
    assert same(read_original_file(path), {**STATE, "neck.weight": MEAN["neck.weight"]})


@pytest.mark.parametrize("counter", ["steps", "n_averaged"])
def test_the_state_of_an_averaged_model_alone(tmp_path: Path, counter: str) -> None:
    path = tmp_path / "ema.pth"
    torch.save({counter: torch.tensor(90), **prefixed("module.", MEAN)}, path)
    found = read_original_file(path)
    assert same(found, MEAN)
    assert found.weights == AVERAGED


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mp_rank_00_model_states.pt", {"module": STATE, "dp_world_size": 8}),
        ("renamed.pt", {"module": STATE, "dp_world_size": 8}),
        ("zero_pp_rank_0_mp_rank_00_model_states.pt", {"module": None, "ds_version": "0.19.8"}),
        ("bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt", {"optimizer_state_dict": {"zero_stage": 3}}),
        ("renamed.pt", {"optimizer_state_dict": {"zero_stage": 3}, "ds_version": "0.19.8"}),
    ],
)
def test_a_deepspeed_file_says_how_to_convert_it(tmp_path: Path, name: str, content: dict[str, object]) -> None:
    path = tmp_path / "global_step12" / name
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"a DeepSpeed file") as caught:
        read_original_file(path)
    assert "zero_to_fp32.py" in caught.value.hint


def test_a_part_of_deepspeeds_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    path.write_bytes(b"whatever")
    with pytest.raises(CheckpointError, match=r"a DeepSpeed file"):
        read_original_file(path)
    with pytest.raises(CheckpointError, match=r"no such file"):
        read_original_file(tmp_path / "mp_rank_00_model_states.pt")


@pytest.mark.parametrize("content", [[1], {}, {"state_dict": {}}, {"state_dict": {"w": "text"}}, {"lr": 0.1}])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"other\.pth: contains no state dict"):
        read_original_file(path)


UNUSUAL = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantised": lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "without data": lambda: torch.empty(3, device="meta"),
}


@pytest.mark.filterwarnings("ignore")  # of making them
@pytest.mark.parametrize("kind", UNUSUAL)
def test_tensors_that_are_no_plain_arrays_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd.pth"
    torch.save({"state_dict": STATE | {"neck.weight": UNUSUAL[kind]()}}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError) as caught:
            read_original_file(path)
    assert f"odd.pth: 1 of 2 tensors are not dense numeric arrays: neck.weight ({kind})" in caught.value.message
    assert ".to_dense()" in caught.value.hint


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("files", "message", "hint"),
    [
        (["model.safetensors", "config.toml", "meta.json"], "which needs no import", "rsp predict"),
        (["mp_rank_00_model_states.pt"], "DeepSpeed", "zero_to_fp32.py"),
        (["epoch_12.pth/mp_rank_00_model_states.pt", "latest"], "DeepSpeed", "zero_to_fp32.py"),
        (["zero_to_fp32.py"], "DeepSpeed", "zero_to_fp32.py"),
        (["state/resume.pt", "last/model.safetensors"], "a run folder of rsp", "last or"),
        (["resume.pt"], "a run folder of rsp", "last or"),
        (["epoch_9.pth", "epoch_12.pth", "log.txt"], "a folder, not a weights file", ": epoch_12.pth, epoch_9.pth"),
        ([], "a folder, not a weights file", "give the file in it"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights"])
def test_a_folder_says_what_to_give_instead(
    tmp_path: Path, name: str, files: list[str], message: str, hint: str
) -> None:
    (tmp_path / name).mkdir()
    touch(*(tmp_path / name / file for file in files))
    with pytest.raises(CheckpointError) as caught:
        read_original_file(tmp_path / name)
    assert f"{name}: a" in caught.value.message
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_the_state_of_a_run_says_where_its_weights_are(tmp_path: Path) -> None:
    path = tmp_path / "run" / "state" / "resume.pt"
    path.parent.mkdir(parents=True)
    torch.save({"format_version": 2, "cursor": {}, "identity": {}, "engine": {}, "random": []}, path)
    with pytest.raises(CheckpointError, match="the training state of an rsp run") as caught:
        read_original_file(path)
    assert str(tmp_path / "run" / "last") in caught.value.hint
