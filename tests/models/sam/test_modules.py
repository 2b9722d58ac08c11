"""SAM's parts against transformers' own SamModel on random tiny weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import SamConfig, SamModel

from rsprompter_cli.config import KNOWN_SAM, TinyVitArch, VitArch
from rsprompter_cli.errors import CheckpointError, UsageError
from rsprompter_cli.io.model_files.sam_folder import config_from_arch
from rsprompter_cli.models.architectures.rsprompter_anchor import RSPrompterAnchor
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.builders.sam import build_decoder, build_encoder
from rsprompter_cli.models.complete_config import complete_config, resolve_sam_arch
from rsprompter_cli.models.sam.modules import PromptedDecoder
from rsprompter_cli.models.sam.weights import load_sam_weights
from tests.make.tiny_models import TINY_VIT, tiny_model, tiny_model_config


def _sam() -> SamModel:
    """A SamModel of the sizes of TINY_VIT, every weight random and none near zero."""
    decoder = TINY_VIT.decoder
    config = SamConfig(
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_dim": 32,
            "global_attn_indexes": [1, 3], "window_size": 3, "output_channels": 16, "image_size": 64,
            "patch_size": 16, "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": decoder.mlp_dim,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    torch.manual_seed(3)
    model = SamModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="module")
def sam() -> SamModel:
    return _sam()


@pytest.fixture(scope="module")
def folder(sam: SamModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam")
    sam.save_pretrained(path)
    return path


@pytest.fixture
def decoder(folder: Path) -> PromptedDecoder:
    """A decoder with every prompt part, filled from the folder."""
    model = nn.Module()
    model.encoder = build_encoder(TINY_VIT, 64)
    model.mask_decoder = build_decoder(TINY_VIT, 4, box_prompts=True, point_prompts=True, mask_prompts=True)
    load_sam_weights(model, folder)
    return model.mask_decoder.eval()


def _loaded(folder: Path, **changes: object) -> RSPrompterAnchor:
    model = tiny_model(sam=str(folder), sam_arch=None, **changes)
    load_sam_weights(model, folder)
    assert isinstance(model, RSPrompterAnchor)
    return model.eval()


def test_encoder_equals_transformers(sam: SamModel, folder: Path) -> None:
    model = _loaded(folder)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = model.encoder(pixels)
        theirs = sam.vision_encoder(pixels, output_hidden_states=True)
    assert torch.allclose(ours.embedding, theirs.last_hidden_state, atol=1e-5)
    assert len(ours.states) == 5
    first = sam.vision_encoder.patch_embed(pixels) + sam.vision_encoder.pos_embed
    assert torch.allclose(ours.states[0], first.permute(0, 3, 1, 2), atol=1e-5)
    last = sam.vision_encoder.neck(ours.states[4].permute(0, 2, 3, 1))
    assert torch.allclose(last, theirs.last_hidden_state, atol=1e-5)


def test_masks_equal_transformers_for_any_chunk(sam: SamModel, folder: Path) -> None:
    model = _loaded(folder)
    embedding, prompts = torch.randn(1, 16, 4, 4), torch.randn(7, 5, 16)
    with torch.no_grad():
        theirs, _ = sam.mask_decoder(
            image_embeddings=embedding,
            image_positional_embeddings=sam.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=prompts[None],
            dense_prompt_embeddings=sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, 4, 4),
            multimask_output=False,
        )
        for chunk in (1, 3, 100):
            model.mask_decoder.chunk = chunk
            ours = model.mask_decoder(embedding, prompts)
            assert torch.allclose(ours, theirs[0, :, 0], atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("multimask", [False, True])
def test_dense_prompts_of_each_object_equal_transformers(
    sam: SamModel, decoder: PromptedDecoder, multimask: bool, chunk: int
) -> None:
    embedding, prompts, masks = torch.randn(1, 16, 4, 4), torch.randn(5, 3, 16), torch.randn(5, 1, 16, 16)
    with torch.no_grad():
        dense = sam.prompt_encoder(input_points=None, input_labels=None, input_boxes=None, input_masks=masks)[1]
        masks_of_sam, quality_of_sam = sam.mask_decoder(
            image_embeddings=embedding.expand(5, -1, -1, -1),
            image_positional_embeddings=sam.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=prompts[:, None],
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        decoder.chunk = chunk
        assert torch.allclose(decoder.dense_prompts(masks), dense, atol=1e-6)
        logits, quality = decoder.with_quality(embedding, prompts, dense=dense, multimask=multimask)
        assert torch.allclose(logits, masks_of_sam[:, 0], atol=1e-5)
        assert torch.allclose(quality, quality_of_sam[:, 0], atol=1e-5)
        if not multimask:
            assert torch.equal(decoder(embedding, prompts, dense), logits[:, 0])


@pytest.mark.parametrize("multimask", [False, True])
def test_quality_with_the_empty_dense_prompt_equals_transformers(
    sam: SamModel, decoder: PromptedDecoder, multimask: bool
) -> None:
    embedding, boxes = torch.randn(1, 16, 4, 4), torch.tensor([[[3.0, 5.0, 40.0, 31.0], [0.0, 9.5, 63.0, 63.0]]])
    with torch.no_grad():
        theirs = sam(image_embeddings=embedding, input_boxes=boxes, multimask_output=multimask)
        prompts = decoder.corner_prompts(boxes[0], 64, last_pixel=True)
        logits, quality = decoder.with_quality(embedding, prompts, multimask=multimask)
    assert torch.allclose(logits, theirs.pred_masks[0], atol=1e-5)
    assert torch.allclose(quality, theirs.iou_scores[0], atol=1e-5)


def test_gradients_are_the_same_for_any_chunk(decoder: PromptedDecoder) -> None:
    torch.manual_seed(8)
    embedding, dense = torch.randn(1, 16, 4, 4), torch.randn(5, 16, 4, 4)
    for own in (None, dense):
        gradients = []
        for chunk in (2, 100):
            decoder.chunk = chunk
            decoder.zero_grad()
            prompts = torch.linspace(-1, 1, 5 * 3 * 16).reshape(5, 3, 16).requires_grad_()
            decoder(embedding, prompts, own).sigmoid().sum().backward()
            used = {name: value.grad for name, value in decoder.named_parameters() if value.grad is not None}
            gradients.append(used | {"prompts": prompts.grad})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-4, msg=name)


def test_point_prompts_are_sams(sam: SamModel, decoder: PromptedDecoder) -> None:
    points, labels = (
        torch.tensor([[[3.0, 5.0], [40.0, 31.5]], [[0.0, 0.0], [63.0, 1.0]]]),
        torch.tensor([[1, 0], [0, 1]]),
    )
    expected, _ = sam.prompt_encoder(
        input_points=points[None], input_labels=labels[None], input_boxes=None, input_masks=None
    )
    torch.testing.assert_close(decoder.point_prompts(points, 64, labels), expected[0], rtol=1e-5, atol=1e-5)
    ones = decoder.point_prompts(points, 64, torch.ones_like(labels))
    assert torch.equal(decoder.point_prompts(points, 64), ones)


def test_no_prompts_give_no_masks(decoder: PromptedDecoder) -> None:
    embedding, prompts = torch.randn(1, 16, 4, 4), torch.zeros(0, 5, 16)
    assert decoder(embedding, prompts).shape == (0, 16, 16)
    logits, quality = decoder.with_quality(embedding, prompts, dense=torch.zeros(0, 16, 4, 4), multimask=True)
    assert logits.shape == (0, 3, 16, 16)
    assert quality.shape == (0, 3)


def test_prompts_of_a_kind_that_is_not_held_are_refused(folder: Path) -> None:
    decoder = _loaded(folder).mask_decoder
    for ask in (
        lambda: decoder.corner_prompts(torch.zeros(1, 4), 64),
        lambda: decoder.point_prompts(torch.zeros(1, 1, 2), 64),
        lambda: decoder.dense_prompts(torch.zeros(1, 1, 16, 16)),
    ):
        with pytest.raises(ValueError, match="this decoder holds no"):
            ask()


def test_a_model_without_mask_decoder_takes_the_encoder_alone(folder: Path) -> None:
    whole = _loaded(folder)
    model = nn.Module()
    model.encoder = build_encoder(TINY_VIT, 64)
    load_sam_weights(model, folder)
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, whole.encoder.state_dict()[key])


def test_the_decoder_proper_may_keep_its_start(sam: SamModel, folder: Path) -> None:
    model = tiny_model(box_prompts=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_sam_weights(model, folder, decoder=False)
    after = model.state_dict()
    proper = [key for key in after if key.startswith("mask_decoder.decoder.")]
    assert proper
    assert all(torch.equal(after[key], before[key]) for key in proper)
    assert torch.equal(after["mask_decoder.no_mask_embed.weight"], sam.prompt_encoder.no_mask_embed.weight)
    assert torch.equal(after["encoder.vit.pos_embed"], sam.vision_encoder.pos_embed)


def test_sizes_are_read_from_the_folder(folder: Path) -> None:
    assert resolve_sam_arch(str(folder)) == TINY_VIT
    complete = complete_config(tiny_model_config(sam=str(folder), sam_arch=None))
    assert complete.sam_arch == TINY_VIT
    assert complete.image_size == 64


def test_sizes_the_file_leaves_to_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam"}', encoding="utf-8")
    (tmp_path / "model.safetensors").touch()
    assert resolve_sam_arch(str(tmp_path)) == KNOWN_SAM["base"]


def test_sizes_of_a_tiny_vit_folder(tmp_path: Path) -> None:
    arch = TinyVitArch(window_sizes=(7, 7, 7, 7))
    (tmp_path / "config.json").write_text(json.dumps(config_from_arch(arch)), encoding="utf-8")
    (tmp_path / "model.safetensors").touch()
    assert resolve_sam_arch(str(tmp_path)) == arch


def test_weights_of_a_tiny_vit_folder_are_loaded(tmp_path: Path) -> None:
    arch = TinyVitArch(
        embed_dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_sizes=(4, 4, 4, 4),
        output_channels=16, pretrained_image_size=64, decoder=TINY_VIT.decoder,
    )  # fmt: skip
    source, model = (tiny_model(sam="tiny-vit", sam_arch=arch, seed=seed) for seed in (1, 2))
    names = {
        "encoder.": "vision_encoder.",
        "mask_decoder.decoder.": "mask_decoder.",
        "mask_decoder.no_mask_embed.": "prompt_encoder.no_mask_embed.",
        "mask_decoder.position.": "shared_image_embedding.",
    }
    stored = {"prompt_encoder.point_embed.0.weight": torch.zeros(1, 16)}
    for key, value in source.state_dict().items():
        for ours, theirs in names.items():
            if key.startswith(ours):
                stored[theirs + key.removeprefix(ours)] = value
    save_file(stored, tmp_path / "model.safetensors")
    load_sam_weights(model, tmp_path)
    loaded = model.state_dict()
    assert all(
        torch.equal(value, loaded[key])
        for key, value in source.state_dict().items()
        if key.startswith(("encoder.", "mask_decoder."))
    )
    assert not torch.equal(loaded["rpn.conv.weight"], source.state_dict()["rpn.conv.weight"])


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "bert"}'])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        resolve_sam_arch(str(tmp_path))


def test_an_unknown_name_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no SAM named 'bas'") as caught:
        resolve_sam_arch("bas")
    assert "base" in caught.value.hint
    with pytest.raises(CheckpointError, match=r"lacks config\.json and model\.safetensors"):
        resolve_sam_arch(str(tmp_path))


def test_a_larger_input_resizes_the_position_tables(sam: SamModel, folder: Path) -> None:
    model = _loaded(folder, image_size=128)
    stored = sam.vision_encoder
    positions = F.interpolate(stored.pos_embed.permute(0, 3, 1, 2), size=(8, 8), mode="bicubic", align_corners=False)
    ours = model.encoder.vit  # type: ignore[union-attr]
    assert torch.allclose(ours.pos_embed, positions.permute(0, 2, 3, 1), atol=1e-6)  # type: ignore[arg-type, union-attr]
    for index, layer in enumerate(stored.layers):
        table = layer.attn.rel_pos_h
        if index in (1, 3):
            table = F.interpolate(table.T[None], size=15, mode="linear", align_corners=False)[0].T
        assert torch.allclose(ours.layers[index].attn.rel_pos_h, table, atol=1e-6)  # type: ignore[index, union-attr]
    model([torch.rand(3, 128, 128)])


def test_resized_tables_equal_the_recorded_ones(shared: Path) -> None:
    recorded = load_file(shared / "parity" / "rsprompter_anchor_lora" / "reference_state_dict.safetensors")
    folder = shared / "parity" / "sam"
    model = build_model(tiny_model_config(sam=str(folder), sam_arch=None, image_size=128), num_classes=3)
    load_sam_weights(model, folder)
    prefix = "backbone.vision_encoder.base_model.model."
    checked = 0
    for key, value in model.state_dict().items():
        name = prefix + key.removeprefix("encoder.vit.")
        if key.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
            assert torch.allclose(value, recorded[name], atol=2e-6), key
            checked += 1
    assert checked == 9


def test_adapters_keep_their_start_and_the_projection_is_loaded(sam: SamModel, folder: Path) -> None:
    model = _loaded(folder, encoder="lora")
    state = model.state_dict()
    assert torch.equal(
        state["encoder.vit.layers.0.attn.qkv.base_layer.weight"], sam.vision_encoder.layers[0].attn.qkv.weight
    )
    assert torch.all(state["encoder.vit.layers.0.attn.qkv.lora_B.default.weight"] == 0)


def test_corner_embeddings_are_sams(sam: SamModel, folder: Path) -> None:
    model = _loaded(folder, box_prompts=True)
    boxes = torch.tensor([[[3.0, 5.0, 40.0, 31.0]]])
    expected, _ = sam.prompt_encoder(
        input_points=None, input_labels=None, input_boxes=boxes - torch.tensor([0, 0, 1.0, 1.0]), input_masks=None
    )
    torch.testing.assert_close(model.mask_decoder.corner_prompts(boxes[0], 64), expected[0], rtol=1e-5, atol=1e-5)


def test_a_folder_without_corner_embeddings_is_refused_when_they_are_needed(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["prompt_encoder.point_embed.3.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing key: mask_decoder\.corner_embed\.weight"):
        load_sam_weights(tiny_model(box_prompts=True), tmp_path)


def test_weights_that_do_not_fit_are_listed(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["mask_decoder.iou_token.weight"]
    tensors["vision_encoder.pos_embed"] = torch.zeros(1, 4, 4, 17)
    tensors["vision_encoder.extra"] = torch.zeros(1)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_sam_weights(tiny_model(), tmp_path)
    message = caught.value.message
    assert "1 missing key: mask_decoder.decoder.iou_token.weight" in message
    assert "1 unexpected key: encoder.vit.extra" in message
    assert "encoder.vit.pos_embed [1, 4, 4, 17] instead of [1, 4, 4, 16]" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        load_sam_weights(tiny_model(), tmp_path)


@pytest.mark.parametrize(("sam", "expected"), [("base", 1e-6), ("tiny-vit", 1e-5)])
def test_norms_of_the_decoder_have_the_eps_they_were_trained_with(sam: str, expected: float) -> None:
    with torch.device("meta"):
        model = tiny_model(sam=sam, sam_arch=None)
    layers = model.mask_decoder.decoder.transformer.layers  # type: ignore[union-attr]
    assert {one.eps for one in layers.modules() if isinstance(one, torch.nn.LayerNorm)} == {expected}  # type: ignore[union-attr]


def test_norms_have_sams_own_eps() -> None:
    model = tiny_model()
    eps = {name: module.eps for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    assert eps.pop("mask_decoder.decoder.transformer.layer_norm_final_attn") == 1e-5
    assert len(eps) == 2 * 4 + 2 + 2 * 4 + 1
    assert set(eps.values()) == {1e-6}


def test_a_vit_of_stride_other_than_16_is_refused() -> None:
    arch = VitArch.model_validate(TINY_VIT.model_dump() | {"patch_size": 8})
    with pytest.raises(UsageError, match="patch_size = 8"):
        build_model(tiny_model_config(sam_arch=arch), num_classes=1)
