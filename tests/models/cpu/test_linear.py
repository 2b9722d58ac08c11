"""Linear layers by oneDNN against torch's own, wherever the operator exists, and what happens where it does not."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.cpu import linear
from tests.make.tiny_models import tiny_model_config

OPERATOR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


@pytest.fixture(params=["onednn", "plain"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "onednn" and OPERATOR is None:
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(linear, "_ONEDNN", OPERATOR if request.param == "onednn" else None)
    monkeypatch.setattr(linear, "_WORTH_IT", 0)
    return str(request.param)


def _tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(shape) for shape in shapes]


@pytest.mark.parametrize("lead", [(1,), (7,), (2, 3), (2, 1, 5)])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_torchs(library: str, lead: tuple[int, ...], biased: bool) -> None:
    results = []
    for multiply in (linear.linear, F.linear):
        values, weight, bias, above = _tensors((*lead, 6), (4, 6), (4,), (*lead, 4))
        inputs = [one.requires_grad_() for one in (values, weight, *([bias] if biased else []))]
        product = multiply(*inputs)
        product.backward(above)
        results.append([product.detach(), *(one.grad for one in inputs)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("moved", ["values", "weight", "bias"])
def test_only_the_gradient_asked_for_is_made(library: str, moved: str) -> None:
    tensors = dict(zip(("values", "weight", "bias"), _tensors((5, 6), (4, 6), (4,)), strict=True))
    tensors[moved].requires_grad_()
    linear.linear(**tensors).sum().backward()
    assert {name for name, one in tensors.items() if one.grad is not None} == {moved}


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(0, 20), inner=st.integers(1, 20), outer=st.integers(1, 20), turned=st.booleans())
def test_gelu_and_sum_are_the_layer_and_what_follows(rows: int, inner: int, outer: int, turned: bool) -> None:
    values, weight, bias, more = _tensors(
        (inner, rows) if turned else (rows, inner), (outer, inner), (outer,), (rows, outer)
    )
    values = values.T if turned else values
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(linear, "_ONEDNN", OPERATOR)
        patch.setattr(linear, "_WORTH_IT", 1)
        close = {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(linear.linear(values, weight, bias), F.linear(values, weight, bias), **close)
        gelu = F.gelu(F.linear(values, weight, bias))
        torch.testing.assert_close(linear.linear_gelu(values, weight, bias), gelu, **close)
        torch.testing.assert_close(linear.linear_plus(values, weight, more), values @ weight.T + more, **close)


def test_fused_forms_have_gradients(library: str) -> None:
    values, weight, more = _tensors((5, 6), (4, 6), (5, 4))
    for one in (values, weight, more):
        one.requires_grad_()
    (linear.linear_gelu(values, weight).sum() + linear.linear_plus(values, weight, more).sum()).backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in (values, weight, more))


def test_autocast_computes_in_its_own_arithmetic(library: str) -> None:
    if library == "onednn" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 on this processor, and the program does not ask for it there")
    values, weight, bias = _tensors((5, 6), (4, 6), (4,))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert linear.linear(values, weight, bias).dtype == torch.bfloat16
        assert linear.linear_plus(values, weight, bias.expand(5, 4)).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        product = linear.linear(values, weight.requires_grad_(), bias)
        assert product.dtype == torch.bfloat16
        product.float().sum().backward()
    assert weight.grad is not None


def test_double_precision_stays_double(library: str) -> None:
    values, weight = (one.double() for one in _tensors((5, 6), (4, 6)))
    assert torch.equal(linear.linear(values, weight), F.linear(values, weight))


def test_a_quickened_model_has_the_same_names_and_answers(library: str) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 3, bias=False))).eval()
    quick = copy.deepcopy(plain)
    linear.use_fast_linear(quick)
    assert list(quick.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in quick.modules()].count(linear.Linear) == 2
    values = torch.randn(5, 6)
    torch.testing.assert_close(quick(values), plain(values))
    torch.testing.assert_close(copy.deepcopy(quick)(values), plain(values))


def test_built_models_are_quickened() -> None:
    model = build_model(tiny_model_config(), num_classes=2)
    assert not [name for name, module in model.named_modules() if type(module) is nn.Linear]
