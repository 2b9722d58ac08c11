"""Which device and which arithmetic a model runs in."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from rsprompter_cli.cli.app import run
from rsprompter_cli.errors import DependencyError
from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from rsprompter_cli.models import precision
from rsprompter_cli.models.precision import autocast, resolve_device, resolve_precision
from tests.make.scenes import paint, write_scene
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


def _machine(monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def _cpu_flags(monkeypatch: pytest.MonkeyPatch, path: Path, flags: str | None) -> None:
    """Let the CPU have these flags, or a system that does not tell them."""
    if flags is not None:
        path.write_text(f"processor : 0\nflags : fpu sse2 {flags}\n")
    monkeypatch.setattr(precision, "Path", lambda _: path)
    precision._cpu_has_fast_bf16.cache_clear()


@pytest.fixture(autouse=True)
def _forget():
    yield
    precision._cpu_has_fast_bf16.cache_clear()


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, CUDA), (True, False, CUDA), (False, True, MPS), (False, False, CPU)],
)
def test_auto_takes_the_fastest_that_is_there(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, device: torch.device
) -> None:
    _machine(monkeypatch, cuda=cuda, mps=mps)
    assert resolve_device("auto") == device
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_is_taken_or_refused_never_replaced(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _machine(monkeypatch, cuda=True, mps=True)
    assert resolve_device(name) == torch.device(name)
    _machine(monkeypatch)
    with pytest.raises(DependencyError, match=f"--device {name}") as error:
        resolve_device(name)
    assert "--device auto or cpu" in error.value.hint


def test_predict_on_a_missing_gpu_exits_5_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _machine(monkeypatch)
    scene = write_scene(tmp_path / "scene.tif", paint(70, 90, {}))
    write_checkpoint(
        tmp_path / "model", tiny_model(num_classes=2).state_dict(), tiny_config(), tiny_meta(num_classes=2)
    )
    out = tmp_path / "out.geojson"
    command = ["predict", str(scene), "--out", str(out), "--model", str(tmp_path / "model"), "--device", "cuda"]
    assert run(command) == DependencyError.exit_code == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("rsp: error: --device cuda")
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("avx2 avx512_bf16", torch.bfloat16),
        ("amx_tile amx_bf16", torch.bfloat16),
        ("avx2 avx512f avx512_vnni", torch.float32),
        (None, torch.float32),
    ],
)
def test_auto_is_bf16_only_on_a_cpu_that_multiplies_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, dtype: torch.dtype
) -> None:
    _cpu_flags(monkeypatch, tmp_path / "cpuinfo", flags)
    assert resolve_precision("auto", CPU) == dtype


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_auto_asks_a_gpu_for_its_generation(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert resolve_precision("auto", CUDA) == dtype


def test_what_is_named_is_taken_and_auto_is_fp32_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _cpu_flags(monkeypatch, tmp_path / "cpuinfo", "avx512_bf16")
    assert resolve_precision("auto", MPS) == torch.float32
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.items():
        assert resolve_precision(name, CPU) == dtype


def test_autocast_multiplies_in_the_dtype_and_leaves_fp32_alone() -> None:
    assert isinstance(autocast(CPU, torch.float32), contextlib.nullcontext)
    a = torch.ones(4, 4)
    with autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (a @ a).dtype == torch.float32
