"""Original SAM files become transformers' SamModel, key by key."""

from __future__ import annotations

import pytest
import torch
from transformers import SamConfig, SamModel

from rsprompter_cli.config import KNOWN_SAM, TinyVitArch, VitArch
from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.io.model_files.sam_folder import TIED_KEY, arch_from_config, config_from_arch
from rsprompter_cli.models.sam.convert import check_tensors, convert_meta, expected_tensors
from rsprompter_cli.models.state_dict import shapes_of
from tests.make.sam_files import SMALL_SAM, original_keys, small_sam_tensors


def test_an_original_file_comes_back_bit_for_bit() -> None:
    tensors = small_sam_tensors()
    original = original_keys(tensors)
    assert "image_encoder.blocks.2.norm1.weight" in original
    assert "mask_decoder.output_hypernetworks_mlps.3.layers.1.bias" in original
    assert "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" in original
    assert not any(key.startswith("vision_encoder") for key in original)

    converted, arch = convert_meta(original, "original.pth")

    assert arch == SMALL_SAM
    assert converted.keys() == tensors.keys()
    assert all(torch.equal(converted[key], tensors[key]) for key in tensors)


def test_the_converted_network_computes_the_same() -> None:
    tensors = small_sam_tensors()
    converted, arch = convert_meta(original_keys(tensors), "original.pth")
    outputs = []
    for state in (tensors, converted):
        model = SamModel(SamConfig.from_dict(config_from_arch(arch))).eval()
        model.load_state_dict(state, strict=True)
        with torch.no_grad():
            pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
            outputs.append(model(pixels, input_points=torch.tensor([[[[20.0, 30.0]]]])).pred_masks)
    assert outputs[0].std() > 0
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", ["base", "large", "huge", "tiny-vit"])
def test_the_sizes_survive_config_json(name: str) -> None:
    arch = KNOWN_SAM[name]
    assert arch_from_config(config_from_arch(arch), origin="config.json") == arch


@pytest.mark.parametrize("name", ["base", "large", "huge"])
def test_the_sizes_of_the_released_models_are_read_off_their_shapes(name: str) -> None:
    arch = KNOWN_SAM[name]
    tensors = {key: torch.zeros(()).expand(one.shape) for key, one in expected_tensors(arch).items()}
    assert convert_meta(original_keys(tensors), "sam_vit.pth")[1] == arch


def test_a_config_that_is_no_sam_is_refused() -> None:
    with pytest.raises(CheckpointError, match="model_type is 'bert'"):
        arch_from_config({"model_type": "bert"}, origin="config.json")
    other = config_from_arch(SMALL_SAM)
    other["vision_config"]["use_rel_pos"] = False
    with pytest.raises(CheckpointError, match="use_rel_pos"):
        arch_from_config(other, origin="config.json")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        arch_from_config({"model_type": "sam", "vision_config": {"hidden_size": "wide"}}, origin="config.json")
    with pytest.raises(CheckpointError, match="not the configuration of a SAM"):
        arch_from_config({"model_type": "sam", "vision_config": {"patch_size": 0}}, origin="config.json")


def test_missing_unexpected_and_misshapen_keys_are_listed() -> None:
    original = original_keys(small_sam_tensors())
    with pytest.raises(CheckpointError, match=r"1 unexpected key for a SAM: head\.weight"):
        convert_meta({**original, "head.weight": torch.zeros(1)}, "x.pth")
    without = {key: value for key, value in original.items() if key != "image_encoder.neck.2.weight"}
    with pytest.raises(CheckpointError, match=r"1 missing key: vision_encoder\.neck\.conv2\.weight"):
        convert_meta(without, "x.pth")
    bent = {**original, "image_encoder.neck.1.weight": torch.zeros(5)}
    with pytest.raises(CheckpointError, match=r"layer_norm1\.weight \[5\] instead of \[32\]"):
        convert_meta(bent, "x.pth")
    with pytest.raises(CheckpointError, match="not an original SAM file"):
        convert_meta({"a": torch.zeros(1)}, "x.pth")


def test_the_tied_matrix_may_be_left_out_and_nothing_else() -> None:
    tensors = small_sam_tensors()
    del tensors[TIED_KEY]
    check_tensors(tensors, SMALL_SAM, "x")
    del tensors["mask_decoder.iou_token.weight"]
    with pytest.raises(CheckpointError, match="iou_token"):
        check_tensors(tensors, SMALL_SAM, "x")


def test_every_kind_of_network_states_its_keys() -> None:
    vit, tiny = shapes_of(expected_tensors(SMALL_SAM)), shapes_of(expected_tensors(TinyVitArch()))
    assert isinstance(SMALL_SAM, VitArch)
    decoder = {key for key in vit if key.startswith(("mask_decoder.", "prompt_encoder.", "shared_image"))}
    assert decoder == {key for key in tiny if not key.startswith("vision_encoder.")}
    assert tiny["shared_image_embedding.positional_embedding"] == (2, 128)
