"""Adapters: in place, trained, merged; and the key names of either peft."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.models.build import build_model, merged_config
from rsprompter_cli.models.original.rename import rename_keys
from rsprompter_cli.models.sam.lora import merge_lora
from tests.make.original_files import load_original
from tests.make.tiny_models import tiny_model, tiny_model_config
from tests.models.parity import read_pack


def _trained(seed: int = 1) -> nn.Module:
    """A tiny model whose adapters say something."""
    model = tiny_model(encoder="lora", seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model


def test_adapters_start_without_effect_and_then_have_one() -> None:
    image = [torch.rand(3, 64, 64) * 255]
    plain, adapted = tiny_model(encoder="lora"), _trained(seed=0)
    merged = tiny_model(encoder="lora")
    merge_lora(merged)
    assert torch.equal(plain(image)[0].masks.values, merged(image)[0].masks.values)
    assert not torch.allclose(plain(image)[0].scores, adapted(image)[0].scores, atol=1e-6)


def test_merging_keeps_the_answers_and_twice_changes_nothing() -> None:
    model = _trained()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model.encoder(image).embedding
        assert merge_lora(model) == 4
        once = {key: value.clone() for key, value in model.state_dict().items()}
        assert float((model.encoder(image).embedding - before).abs().max()) <= 1e-5
    assert merge_lora(model) == 0
    assert all(torch.equal(value, once[key]) for key, value in model.state_dict().items())
    assert not any("lora" in path for path, _ in model.named_modules())


def test_a_merged_model_has_the_keys_of_its_merged_configuration() -> None:
    model = _trained()
    merge_lora(model)
    config = merged_config(tiny_model_config(encoder="lora"))
    assert config.encoder == "frozen"
    plain = build_model(config, num_classes=3).eval()
    plain.load_state_dict(model.state_dict())
    image = [torch.rand(3, 64, 64) * 255]
    assert torch.equal(plain(image)[0].masks.values, model(image)[0].masks.values)
    assert merged_config(config) == config


def _without_base_layer(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace(".base_layer.", "."): value for key, value in weights.items()}


def _with_base_layer(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.replace(".attn.qkv.weight", ".attn.qkv.base_layer.weight").replace(
            ".attn.qkv.bias", ".attn.qkv.base_layer.bias"
        ): value
        for key, value in _without_base_layer(weights).items()
    }


def test_both_spellings_of_the_projection_are_read(shared: Path) -> None:
    pack = read_pack(shared / "parity" / "rsprompter_anchor_lora")
    for spelling in (_without_base_layer, _with_base_layer):
        weights = spelling(pack.weights)
        names = rename_keys(weights, kind="rsprompter-anchor", lora=True)
        assert len(names) == len(weights)
        assert names.keys() == weights.keys()
        qkv = [name for name in names.values() if ".qkv." in name]
        assert len(qkv) == 16
        assert sum(".base_layer." in name for name in qkv) == 8


def _original_names(model: nn.Module) -> dict[str, Tensor]:
    """A fabricated original dictionary: our tensors of a frozen tiny model under the names of the original."""
    table = {
        "encoder.vit.": "backbone.vision_encoder.",
        "neck.aggregator.reduce.": "neck.feature_aggregator.downconvs.",
        "neck.aggregator.residual.": "neck.feature_aggregator.hidden_convs.",
        "neck.aggregator.fuse.": "neck.feature_aggregator.fusion_conv.",
        "neck.splitter.up4.": "neck.feature_spliter.fpn1.",
        "neck.splitter.up2.": "neck.feature_spliter.fpn2.0.",
        "neck.splitter.lateral.": "neck.feature_spliter.lateral_convs.",
        "neck.splitter.output.": "neck.feature_spliter.fpn_convs.",
        "rpn.conv.": "rpn_head.rpn_conv.",
        "rpn.objectness.": "rpn_head.rpn_cls.",
        "rpn.offsets.": "rpn_head.rpn_reg.",
        "box_head.fc1.": "roi_head.bbox_head.shared_fcs.0.",
        "box_head.fc2.": "roi_head.bbox_head.shared_fcs.1.",
        "box_head.classes.": "roi_head.bbox_head.fc_cls.",
        "box_head.offsets.": "roi_head.bbox_head.fc_reg.",
        "prompt_head.conv.": "roi_head.mask_head.point_emb.0.",
        "prompt_head.norm.": "roi_head.mask_head.point_emb.1.",
        "prompt_head.fc1.": "roi_head.mask_head.point_emb.4.",
        "prompt_head.fc2.": "roi_head.mask_head.point_emb.6.",
        "prompt_head.fc3.": "roi_head.mask_head.point_emb.8.",
        "mask_decoder.decoder.": "roi_head.mask_head.mask_decoder.mask_decoder.",
        "mask_decoder.no_mask_embed.": "roi_head.mask_head.no_mask_embed.",
        "mask_decoder.position.": "shared_image_embedding.shared_image_embedding.",
    }
    result = {}
    for key, value in model.state_dict().items():
        prefix = next(one for one in table if key.startswith(one))
        name = table[prefix] + key.removeprefix(prefix)
        result[name.replace(".norm.", ".norm_layer.") if "feature_spliter" in name else name] = value
    return result


def test_an_original_dictionary_is_read_whole() -> None:
    source, copy = tiny_model(seed=1), tiny_model(seed=2)
    load_original(copy, _original_names(source), kind="rsprompter-anchor", lora=False, origin="a.pth")
    assert all(torch.equal(value, copy.state_dict()[key]) for key, value in source.state_dict().items())


def test_unknown_missing_and_left_over_keys_are_listed() -> None:
    model = tiny_model()
    weights = _original_names(model)
    with pytest.raises(CheckpointError, match=r"a\.pth: 1 unexpected key for an original rsprompter-anchor: head\.x"):
        load_original(model, weights | {"head.x": torch.zeros(1)}, kind="rsprompter-anchor", lora=False, origin="a.pth")
    del weights["rpn_head.rpn_cls.bias"]
    weights["rpn_head.rpn_conv.weight"] = torch.zeros(1, 16, 3, 3)
    weights["neck.feature_spliter.fpn_convs.7.conv.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_original(model, weights, kind="rsprompter-anchor", lora=False, origin="a.pth")
    message = caught.value.message
    assert "1 missing key: rpn.objectness.bias" in message
    assert "1 unexpected key: neck.splitter.output.7.conv.weight" in message
    assert "rpn.conv.weight [1, 16, 3, 3] instead of [16, 16, 3, 3]" in message
