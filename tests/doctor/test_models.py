"""What `rsp doctor` says of devices and models."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rsprompter_cli.doctor import models
from rsprompter_cli.doctor.findings import State
from rsprompter_cli.models.cpu.linear import by_onednn

Patch = pytest.MonkeyPatch


def test_a_cpu_is_told_with_its_arithmetic(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    found = {finding.name: finding for finding in models.device_findings()}
    assert {finding.state for finding in found.values()} == {State.OK}
    assert found["--device auto"].text.startswith("cpu, ")
    assert re.fullmatch(r"\d+ GFLOP/s in float32(, \d+ GFLOP/s in bfloat16)?", found["matrix products"].text)
    assert found["float32 products"].text.startswith("oneDNN" if by_onednn() else "torch kernels")


def test_a_driver_whose_gpu_torch_does_not_see_is_a_warning(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    finding = next(finding for finding in models.device_findings() if finding.name == "CUDA")
    assert finding.state is State.WARNING
    assert "finds no GPU" in finding.text


@pytest.mark.parametrize(
    ("fault", "state"), [("", State.OK), ("CUDA error: no kernel image is available\nCompile with", State.WARNING)]
)
def test_a_gpu_is_told_with_memory_and_whether_it_multiplies(monkeypatch: Patch, fault: str, state: State) -> None:
    def multiply(device: torch.device) -> None:
        assert device == torch.device("cuda", 0)
        if fault:
            raise RuntimeError(fault)

    facts = SimpleNamespace(name="Card 9000", major=8, minor=6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: facts)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 6))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _index: (6_000_000_000, 8_000_000_000))
    monkeypatch.setattr(models, "_multiply", multiply)
    found = {finding.name: finding for finding in models.device_findings()}
    assert found["CUDA 0"].state is state
    assert "Card 9000, 6.0 GB of 8.0 GB free, compute capability 8.6" in found["CUDA 0"].text
    assert found["CUDA 0"].text.endswith(fault.partition("\n")[0])
    assert bool(found["CUDA 0"].way_out) == bool(fault)
    assert found["--device auto"].text == "cuda, bfloat16"


def test_the_product_that_tries_a_gpu_is_one_of_torch() -> None:
    models._multiply(torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError)):
            models._multiply(torch.device("cuda", 0))


def test_models_on_this_machine(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path))
    bundled, sam = models.model_findings()
    assert (bundled.state, sam.state) == (State.OK, State.OK)
    assert "building" in bundled.text
    assert "rsp download-sam" in sam.text
    (tmp_path / "sam" / "base").mkdir(parents=True)
    (tmp_path / "sam" / "base" / "config.json").write_text("{")
    damaged = list(models.model_findings())[-1]
    assert (damaged.name, damaged.state) == ("SAM base", State.WARNING)
    assert damaged.way_out == "rsp download-sam base --overwrite"
