"""The rearranged mask decoder against transformers' own, in float64 where equal means equal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder

from rsprompter_cli.models.cpu.mask_decoder import SharedImage, decode

ROWS, COLUMNS, WIDTH = 3, 5, 16


def _decoder(layers: int = 2) -> SamMaskDecoder:
    config = SamMaskDecoderConfig(
        hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=2, mlp_dim=24, iou_head_hidden_dim=16
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(5)
    decoder = SamMaskDecoder(config).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return decoder


def _inputs(objects: int) -> dict[str, Tensor]:
    torch.manual_seed(6)
    shapes = {
        "embedding": (1, WIDTH, ROWS, COLUMNS),
        "positions": (1, WIDTH, ROWS, COLUMNS),
        "prompts": (objects, 3, WIDTH),
        "dense": (objects, WIDTH, ROWS, COLUMNS),
    }
    return {name: torch.randn(shape, dtype=torch.float64, requires_grad=True) for name, shape in shapes.items()}


def _theirs(decoder: SamMaskDecoder, given: dict[str, Tensor], dense: Tensor, multimask: bool) -> tuple[Tensor, Tensor]:
    masks, quality = decoder(
        image_embeddings=given["embedding"].expand(len(dense), -1, -1, -1),
        image_positional_embeddings=given["positions"],
        sparse_prompt_embeddings=given["prompts"][:, None],
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )
    return masks[:, 0], quality[:, 0]


def _ours(
    decoder: SamMaskDecoder, given: dict[str, Tensor], dense: Tensor | None, masks: slice
) -> tuple[Tensor, Tensor]:
    image, positions = (given[name].flatten(2).transpose(1, 2) for name in ("embedding", "positions"))
    cells: Tensor | SharedImage
    if dense is None:
        cells = SharedImage(decoder.transformer.layers[0], image[0], positions[0])
    else:
        cells = image + dense.flatten(2).transpose(1, 2)
    return decode(decoder, cells, positions[0], given["prompts"], masks, size=(ROWS, COLUMNS))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("multimask", [True, False])
def test_masks_quality_and_gradients_are_transformers(layers: int, shared: bool, multimask: bool) -> None:
    decoder, wanted = _decoder(layers), slice(1, None) if multimask else slice(0, 1)
    results = []
    for ours in (True, False):
        given = _inputs(4)
        decoder.zero_grad()
        if ours:
            masks, quality = _ours(decoder, given, None if shared else given["dense"], wanted)
        else:
            dense = torch.zeros_like(given["dense"]) if shared else given["dense"]
            masks, quality = _theirs(decoder, given, dense, multimask)
        (masks.sin().sum() + quality.sin().sum()).backward()
        gradients = {name: value.grad for name, value in given.items() if not (shared and name == "dense")}
        gradients |= {name: value.grad for name, value in decoder.named_parameters()}
        results.append((masks, quality, gradients))
    (masks, quality, gradients), (their_masks, their_quality, theirs) = results
    torch.testing.assert_close(masks, their_masks, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(quality, their_quality, rtol=1e-9, atol=1e-9)
    largest = max(float(value.abs().max()) for value in theirs.values() if value is not None)
    for name, expected in theirs.items():
        # A parameter that changes nothing may have no gradient at all.
        ours_or_none = gradients[name] if gradients[name] is not None else torch.zeros_like(expected)
        torch.testing.assert_close(ours_or_none, expected, rtol=1e-8, atol=1e-9 * largest, msg=name)


def test_half_the_precision_keeps_the_masks() -> None:
    decoder, given = _decoder().float(), {name: value.detach().float() for name, value in _inputs(4).items()}
    with torch.no_grad():
        exact, _ = _ours(decoder, given, given["dense"], slice(0, 1))
        with torch.autocast("cpu", torch.bfloat16):
            rounded, _ = _ours(decoder, given, given["dense"], slice(0, 1))
            theirs, _ = _theirs(decoder, given, given["dense"], False)
    ours_off, theirs_off = ((value.float() - exact).abs().max() for value in (rounded, theirs))
    assert 0 < ours_off < 2 * theirs_off
