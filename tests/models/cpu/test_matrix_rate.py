"""The rate of matrix products on this machine."""

from __future__ import annotations

import pytest
import torch

from rsprompter_cli.models.cpu import matrix_rate as module
from rsprompter_cli.models.cpu.matrix_rate import matrix_rate


def test_it_counts_two_operations_for_each_product(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def seconds(product: object, values: torch.Tensor, weight: torch.Tensor) -> float:
        asked.append(len(values))
        return 2.0 if product is module._plain else 1.0

    monkeypatch.setattr(module, "_seconds", seconds)
    assert matrix_rate(torch.float32, side=512, seconds=300) == 2 * 512**3
    assert set(asked) == {256, 512}
    asked.clear()
    assert matrix_rate(torch.float32, side=512, seconds=2) == 2 * 256**3
    assert set(asked) == {256}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_rate_of_a_processor(dtype: torch.dtype) -> None:
    assert 1e7 < matrix_rate(dtype, side=64, seconds=0.01) < 1e16
