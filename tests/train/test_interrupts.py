"""What ends a run before its time: numbers that break, no memory, a full disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from rsprompter_cli.config import valid_keys
from rsprompter_cli.errors import InputError, OutputError, ResourceError, TrainingError
from rsprompter_cli.io.model_files import checkpoint as checkpoint_module
from rsprompter_cli.models.complete_config import complete_config
from rsprompter_cli.models.load import load_model
from rsprompter_cli.train import run as run_module
from rsprompter_cli.train.distributed.ddp import Engine
from rsprompter_cli.train.interrupts import explain_out_of_memory
from rsprompter_cli.train.run import StepReport
from tests.make.tiny_models import TINY_CONFIGS, tiny_model_config
from tests.train.runs import equal, make_data, run, tensors

OPTIONS = {"epochs": 3, "batch_size": 2, "eval_every": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("guard"))


def _break_forward(monkeypatch: pytest.MonkeyPatch, at: int, change: Any) -> None:
    """Let the `at`-th forward pass of the run go wrong."""
    original, count = Engine.forward, iter(range(1, 1000))

    def forward(self: Engine, batch: Any, **keywords: Any) -> Any:
        losses = original(self, batch, **keywords)
        return change(losses) if next(count) == at else losses

    monkeypatch.setattr(Engine, "forward", forward)


def test_a_loss_that_is_not_finite_names_step_pictures_and_last_good(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break_forward(monkeypatch, 5, lambda losses: losses | {"loss_mask": losses["loss_mask"] * float("nan")})
    with pytest.raises(TrainingError) as caught:
        run(data, tmp_path, OPTIONS)
    message = caught.value.message
    assert caught.value.exit_code == 8
    assert "at step 5 (epoch 2)" in message
    assert "loss_mask=nan" in message
    assert "image ids [" in message
    assert str(tmp_path / "last") in message
    assert all(value.isfinite().all() for value in tensors(tmp_path / "last").values())
    monkeypatch.undo()
    # The state before it is whole: the run goes on when the cause is gone.
    assert run(data, tmp_path, OPTIONS, resume=True).finished


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # Finite itself, with an infinite slope.
        return losses | {"loss_cls": (losses["loss_cls"] * 0).sqrt()}

    _break_forward(monkeypatch, 1, poison)
    with pytest.raises(TrainingError, match=r"step 1 .*gradient is not finite.*no checkpoint was written yet"):
        run(data, tmp_path, OPTIONS)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_no_memory_is_one_line_that_names_what_to_lower(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(losses: Any) -> Any:
        raise error

    _break_forward(monkeypatch, 1, fail)
    with pytest.raises(ResourceError) as caught:
        run(data, tmp_path, OPTIONS)
    assert "train.batch_size=2 and model.image_size=64" in caught.value.message
    assert "--set train.batch_size=1" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_called_a_lack_of_memory() -> None:
    with (
        pytest.raises(RuntimeError, match="shapes do not match"),
        explain_out_of_memory(tiny_model_config(), batch_size=1, device=torch.device("cpu")),
    ):
        raise RuntimeError("shapes do not match")
    with (
        pytest.raises(ResourceError, match="data loader process was killed"),
        explain_out_of_memory(tiny_model_config(), batch_size=1, device=torch.device("cpu")),
    ):
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed.")


@pytest.mark.parametrize(
    ("kind", "savers"),
    [
        ("rsprompter-anchor", "fewer model.roi.samples, a smaller model.sam, model.encoder=frozen and"),
        ("rsprompter-query", "fewer model.query.loss_points, a smaller model.sam, model.encoder=frozen and"),
        ("samseg-maskrcnn", "fewer model.roi.samples, a smaller model.sam, model.encoder=frozen and"),
        ("samseg-mask2former", "fewer model.query.loss_points, a smaller model.sam, model.encoder=frozen and"),
        ("samdet", "fewer model.roi.samples, a smaller model.sam and"),
        ("samcls", "fewer model.crop_samples, a smaller model.sam and"),
        ("maskrcnn", "fewer model.roi_samples and"),
        ("mask2former", "fewer model.query.loss_points and"),
    ],
)
def test_what_saves_memory_are_settings_of_the_kind(kind: str, savers: str) -> None:
    config = complete_config(TINY_CONFIGS[kind]())
    with (
        pytest.raises(ResourceError, match=r"model.image_size=64") as caught,
        explain_out_of_memory(config, batch_size=1, device=torch.device("cpu")),
    ):
        raise MemoryError
    assert f"; {savers} train.precision=bf16 save memory too" in caught.value.hint
    named = re.findall(r"model\.[\w.]+", caught.value.hint)
    assert set(named) <= {key for key in valid_keys() if _holds(config, key)}


def _holds(config: Any, key: str) -> bool:
    """Whether a model has the setting of that dotted path."""
    for name in key.split(".")[1:]:
        if not hasattr(config, name):
            return False
        config = getattr(config, name)
    return True


@pytest.mark.parametrize("where", ["weights", "config", "state"])
def test_a_full_disk_leaves_the_former_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    former: dict[str, torch.Tensor] = {}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    def fill_the_disk(report: StepReport) -> None:
        if report.step == 4:
            former.update(tensors(tmp_path / "last"))
            target, name = {
                "weights": (safetensors.torch, "save_file"),
                "config": (checkpoint_module, "dump_config"),
                "state": (torch, "save"),
            }[where]
            monkeypatch.setattr(target, name, full)

    with pytest.raises(OutputError, match="No space left"):
        run(data, tmp_path, OPTIONS, on_step=fill_the_disk)
    monkeypatch.undo()
    assert not [path for path in tmp_path.rglob(".*") if path.name not in (".gitignore", ".lock")]
    load_model(tmp_path / "best")
    if where != "state":  # there the weights of the second epoch are whole already
        assert equal(tensors(tmp_path / "last"), former)
    load_model(tmp_path / "last")
    assert run(data, tmp_path, OPTIONS, resume=True).steps == 9


def test_a_crash_between_weights_and_state_resumes_from_the_state(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(data, tmp_path / "whole", OPTIONS)
    original, calls = run_module.save_state, iter(range(10))

    def crash(*arguments: Any) -> None:
        if next(calls) == 1:
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(run_module, "save_state", crash)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "run", OPTIONS)
    monkeypatch.undo()
    resumed = run(data, tmp_path / "run", OPTIONS, resume=True)
    assert equal(tensors(resumed.last), tensors(whole.last))


def test_a_broken_picture_is_one_line_from_a_worker_too(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", train=2)
    (data / "images" / "train_0.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"train_0\.png") as caught:
        run(data, tmp_path / "run", OPTIONS | {"workers": 1})
    assert "Traceback" not in caught.value.message


def test_infinite_gradients_of_float16_are_skipped_until_the_scale_is_spent() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    engine = Engine(model, optimizer, device=torch.device("cpu"), dtype=torch.float16, clip_grad=1.0)
    before = model.weight.detach().clone()
    for _ in range(20):
        scale = engine.state()["scaler"]["scale"]
        engine.backward({"loss": model(torch.ones(1, 2)).sum() * float("inf")}, weight=1.0)
        if scale <= 1:
            break
        engine.step(1.0)
    with pytest.raises(TrainingError, match="gradient is not finite"):
        engine.step(1.0)
    assert torch.equal(model.weight, before)
