"""What stored tensors must be to become a model's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.models.state_dict import check_values

NEEDED = {"w": torch.empty(2, device="meta"), "steps": torch.empty((), dtype=torch.int64, device="meta")}
GIVEN = {"w": torch.tensor([1.0, 2.0]), "steps": torch.tensor(7)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_usual_precision_is_taken(dtype: torch.dtype) -> None:
    check_values(NEEDED, {"w": GIVEN["w"].to(dtype), "steps": torch.tensor(7.0, dtype=dtype)}, "x.pth")
    check_values(NEEDED, GIVEN | {"steps": torch.tensor(7, dtype=torch.int32)}, "x.pth")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.tensor([1, 2]), "int64 instead of float32"),
        (torch.tensor([True, False]), "bool instead of float32"),
        (torch.tensor([1j, 2]), "complex64 instead of float32"),
        (torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn), "float8_e4m3fn instead of float32"),
    ],
)
def test_numbers_of_another_kind_are_named(value: Tensor, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        check_values(NEEDED, GIVEN | {"w": value}, "x.pth")
    assert caught.value.message.startswith("x.pth: 1 of 2 tensors have an unsuitable dtype")
    assert caught.value.message.endswith(f": w ({words})")
    assert "as the training saved them" in caught.value.hint


@pytest.mark.parametrize("value", [torch.tensor(7.5), torch.tensor(torch.nan), torch.tensor(7j)])
def test_a_count_is_whole(value: Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"steps \(\w+ instead of int64\)"):
        check_values(NEEDED, GIVEN | {"steps": value}, "x.pth")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e300])
def test_what_is_no_finite_number_for_the_model_is_named(value: float) -> None:
    with pytest.raises(CheckpointError, match=r"x\.pth: 1 of 2 tensors contain NaN or infinity: w ") as caught:
        check_values(NEEDED, GIVEN | {"w": torch.tensor([0.0, value], dtype=torch.float64)}, "x.pth")
    assert "earlier checkpoint" in caught.value.hint
