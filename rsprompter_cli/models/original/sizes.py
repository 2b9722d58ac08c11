"""Sizes of an original model, read off the shapes of its tensors, and put into a preset's configuration.

What no tensor shows (heads, strides, thresholds, the scale of adapters) stays the preset's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rsprompter_cli.config import KNOWN_SAM, ModelConfig, SamModelConfig, TrainedSamConfig, VitArch
from rsprompter_cli.errors import CheckpointError, plural
from rsprompter_cli.models.builders.sam import aggregator_kind, hidden_channels

Shape = tuple[int, ...]

MARKS = {
    "rsprompter-anchor": "roi_head.mask_head.point_emb.0.weight",
    "rsprompter-query": "panoptic_head.sam_mask_embed.conv1.weight",
    "samseg-maskrcnn": "roi_head.mask_head.conv_logits.weight",
    "samseg-mask2former": "panoptic_head.cls_embed.weight",
    "samdet": "detector.rpn_head.rpn_conv.weight",
}
"""An original name that only this kind of model has."""

_CLASS_KEYS = {
    "rsprompter-anchor": "roi_head.bbox_head.fc_cls.weight",
    "rsprompter-query": "panoptic_head.cls_embed.2.weight",
    "samseg-maskrcnn": "roi_head.bbox_head.fc_cls.weight",
    "samseg-mask2former": "panoptic_head.cls_embed.weight",
    "samdet": "detector.roi_head.bbox_head.fc_cls.weight",
}
"""The tensor with one row for each class and one for none."""

_MASK_DECODERS = {
    "rsprompter-anchor": "roi_head.mask_head.mask_decoder.mask_decoder.",
    "rsprompter-query": "panoptic_head.mask_decoder.mask_decoder.",
    "samdet": "segmentor.sam_model.mask_decoder.",
}
_ADAPTER = re.compile(r".*\.lora_A\..*")

_TOLD_BY_NO_TENSOR = {
    r"panoptic_head\.pixel_decoder\.encoder\.layers\.\d+\.self_attn\.(sampling_offsets|attention_weights)\..*": (
        "pass --set model.query.heads=... --set model.query.points=..., as it was trained with"
    ),
    r"(detector\.)?rpn_head\.rpn_(cls|reg)\..*": "pass --set model.rpn.anchor_scales=[...], as it was trained with",
}
"""Original names of tensors whose sizes come from settings that cannot be read off, and the way to give those."""


@dataclass(frozen=True, eq=False)
class OriginalShapes:
    """The shapes of a file, under both names.

    original: by original name. ours: by our name. origin: the file, named in errors.
    """

    original: Mapping[str, Shape]
    ours: Mapping[str, Shape]
    kind: str
    origin: str

    def rows(self, key: str) -> int:
        """First size of a tensor of the file."""
        return self.shape(key)[0]

    def shape(self, key: str) -> Shape:
        """Shape of a tensor, by either of its names.

        Raises:
            CheckpointError: the file lacks it, or it is a single number.
        """
        shape = self.original.get(key) or self.ours.get(key)
        if not shape:
            raise CheckpointError(f"{self.origin}: lacks {key}, which every original {self.kind} has")
        return shape

    def count(self, pattern: str) -> int:
        """One more than the highest number that a pattern finds in the names, 0 where it finds none."""
        names = [*self.original, *self.ours]
        return 1 + max((int(match[1]) for key in names if (match := re.match(pattern, key))), default=-1)

    @property
    def num_classes(self) -> int:
        """K, without the background.

        Raises:
            CheckpointError: the file lacks the tensor that shows it, or it has no row for a class.
        """
        key = _CLASS_KEYS[self.kind]
        count = self.rows(key) - 1
        if count < 1:
            raise CheckpointError(f"{self.origin}: a model without classes, {key} has {plural(count + 1, 'row')}")
        return count

    @property
    def reads_layers(self) -> bool:
        """Whether the neck reads several states of the encoder."""
        return "neck.aggregator.reduce.0.0.weight" in self.ours

    @property
    def adapter_rank(self) -> int | None:
        """Rank of the LoRA adapters, None without."""
        return next((shape[0] for key, shape in self.original.items() if _ADAPTER.fullmatch(key)), None)


class Fitted(NamedTuple):
    """A configuration with the sizes of a file.

    changes: of the preset, in words.
    read_off: every size that the tensors show, by key below `model`.
    """

    model: ModelConfig
    changes: list[str]
    read_off: dict[str, Any]


def find_kind(keys: Mapping[str, object]) -> str | None:
    """The kind of model that a file of these original names holds, if any."""
    return next((kind for kind, mark in MARKS.items() if mark in keys), None)


def fit_to_file(config: ModelConfig, shapes: OriginalShapes) -> Fitted:
    """The preset's model with the sizes of the file.

    Args:
        config: completed, see `complete_config`.
        shapes: of the file.

    Raises:
        CheckpointError: another SAM than the preset's, adapters where the preset has none or of another rank, or
            tensors of which no model can be made.
    """
    try:
        return _fitted(config, shapes)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{shapes.origin}: the sizes of its tensors fit no original {shapes.kind}", "fetch or copy it again"
        ) from error


def effective_settings(config: ModelConfig) -> dict[str, Any]:
    """A completed configuration as a tree, with the value that its models use in place of None."""
    tree = config.model_dump(mode="json")
    if isinstance(config, TrainedSamConfig):
        kind = aggregator_kind(config)
        tree["neck"] |= {"aggregator": kind, "hidden_channels": hidden_channels(config)}
        if kind == "layers" and config.neck.layers is None and isinstance(config.sam_arch, VitArch):
            tree["neck"]["layers"] = list(range(1, config.sam_arch.num_layers + 1, 2))
    query = tree.get("query")
    if query is not None and query["max_detections"] is None:
        query["max_detections"] = query["queries"]
    return tree


def _fitted(config: ModelConfig, shapes: OriginalShapes) -> Fitted:
    assert isinstance(config, SamModelConfig)
    _check_sam(config, shapes)
    found = _head_sizes(shapes)
    if isinstance(config, TrainedSamConfig):
        _check_adapters(config, shapes)
        found |= _neck_sizes(shapes)
        if shapes.adapter_rank is not None:
            found |= {"encoder": "lora", "lora.r": shapes.adapter_rank}
    meant = effective_settings(config)
    _, cells, _, _ = shapes.shape("encoder.vit.pos_embed")
    found["image_size"] = cells * shapes.shape("encoder.vit.patch_embed.projection.weight")[-1]
    tree = config.model_dump(mode="json")
    changes = []
    for key, value in found.items():
        *path, last = key.split(".")
        table, meaning = tree, meant
        for part in path:
            table, meaning = table[part], meaning[part]
        if meaning[last] != value:
            changes.append(f"{key} = {value} (preset: {meaning[last]})")
            table[last] = value
    return Fitted(type(config).model_validate(tree), changes, found)


def size_hint(needed: Mapping[str, Shape], given: Mapping[str, Shape]) -> str:
    """The way out where shapes differ, by original name, because of a setting that no tensor shows; else nothing."""
    differing = [key for key, shape in needed.items() if given.get(key, shape) != shape]
    hints = (
        hint for pattern, hint in _TOLD_BY_NO_TENSOR.items() if any(re.fullmatch(pattern, key) for key in differing)
    )
    return next(hints, "")


def _check_sam(config: SamModelConfig, shapes: OriginalShapes) -> None:
    arch = config.sam_arch
    if not isinstance(arch, VitArch):
        raise CheckpointError(
            f"{shapes.origin}: an original model has a ViT encoder, the preset's is {config.sam}",
            "use a preset with sam = base, large or huge",
        )
    found = _encoder_sizes(shapes) | _decoder_sizes(shapes)
    wrong = _differences(arch, shapes, found)
    if not wrong:
        return
    fitting = [name for name, known in KNOWN_SAM.items() if not _differences(known, shapes, found)]
    raise CheckpointError(
        f"{shapes.origin}: contains {'SAM ' + fitting[0] if fitting else 'another SAM'} instead of the preset's "
        f"{config.sam}: {'; '.join(wrong)}",
        f"pass --set model.sam={fitting[0] if fitting else 'FOLDER, that of the SAM it was trained from'}",
    )


def _differences(arch: object, shapes: OriginalShapes, found: Mapping[str, int]) -> list[str]:
    """Sizes of a SAM that are not those of the file, in words."""
    if not isinstance(arch, VitArch):
        return [f"{type(arch).__name__} is not a ViT"]
    sizes = arch.model_dump()
    sizes |= {f"decoder.{key}": value for key, value in sizes["decoder"].items()}
    wrong = [f"{key} {value}, not {sizes[key]}" for key, value in found.items() if value != sizes[key]]
    if wrong:
        return wrong
    _, cells, _, _ = shapes.shape("encoder.vit.pos_embed")
    sides = (shapes.rows(f"encoder.vit.layers.{index}.attn.rel_pos_h") for index in range(arch.num_layers))
    for index, rows in enumerate(sides):
        side = cells if index in arch.global_attn_indexes else arch.window_size
        if rows != 2 * side - 1:
            return [f"layer {index} attends over {(rows + 1) // 2} cells, not {side}"]
    return []


def _encoder_sizes(shapes: OriginalShapes) -> dict[str, int]:
    vit = "encoder.vit."
    hidden, _, _, patch = shapes.shape(vit + "patch_embed.projection.weight")
    return {
        "hidden_size": hidden,
        "num_layers": shapes.count(r"encoder\.vit\.layers\.(\d+)\."),
        "num_heads": hidden // shapes.shape(vit + "layers.0.attn.rel_pos_h")[1],
        "mlp_dim": shapes.rows(vit + "layers.0.mlp.lin1.weight"),
        "patch_size": patch,
        "output_channels": shapes.rows(vit + "neck.conv1.weight"),
    }


def _decoder_sizes(shapes: OriginalShapes) -> dict[str, int]:
    """Sizes of SAM's mask decoder, where the kind of model has one."""
    prefix = _MASK_DECODERS.get(shapes.kind)
    if prefix is None:
        return {}
    masks, hidden = shapes.shape(prefix + "mask_tokens.weight")
    quality = re.escape(prefix + "iou_prediction_head.layers.")
    return {
        "decoder.hidden_size": hidden,
        "decoder.num_layers": shapes.count(re.escape(prefix) + r"transformer\.layers\.(\d+)\."),
        "decoder.mlp_dim": shapes.rows(prefix + "transformer.layers.0.mlp.lin1.weight"),
        "decoder.attention_downsample_rate": hidden
        // shapes.rows(prefix + "transformer.final_attn_token_to_image.q_proj.weight"),
        "decoder.iou_head_hidden_dim": shapes.rows(prefix + "iou_prediction_head.proj_in.weight"),
        "decoder.iou_head_depth": 2 + shapes.count(quality + r"(\d+)\."),
        "decoder.num_multimask_outputs": masks - 1,
    }


def _check_adapters(config: TrainedSamConfig, shapes: OriginalShapes) -> None:
    rank = shapes.adapter_rank
    if rank is None and config.encoder == "lora":
        raise CheckpointError(
            f"{shapes.origin}: has no adapters (LoRA), the preset's encoder has",
            "pass --set model.encoder=frozen, or use a preset without peft in its name",
        )
    if rank is not None and config.encoder != "lora":
        raise CheckpointError(
            f"{shapes.origin}: its encoder has adapters (LoRA) of rank {rank}, the preset's has none",
            f"use a preset with peft in its name, or pass --set model.encoder=lora --set model.lora.r={rank} "
            "--set model.lora.alpha=...",
        )
    if rank is not None and rank != config.lora.r:
        # The file does not contain alpha, by which the adapters' output is scaled.
        raise CheckpointError(
            f"{shapes.origin}: its adapters (LoRA) have rank {rank}, the preset's {config.lora.r}",
            f"pass --set model.lora.r={rank} --set model.lora.alpha=..., as it was trained with",
        )


def _neck_sizes(shapes: OriginalShapes) -> dict[str, Any]:
    layers = shapes.reads_layers
    return {
        "neck.aggregator": "layers" if layers else "last",
        "neck.hidden_channels": shapes.rows(f"neck.aggregator.{'reduce.0' if layers else 'fuse'}.0.weight"),
        "neck.out_channels": shapes.rows("neck.splitter.lateral.0.conv.weight"),
    }


def _head_sizes(shapes: OriginalShapes) -> dict[str, Any]:
    match shapes.kind:
        case "rsprompter-anchor":
            width = 2 * shapes.shape(_MASK_DECODERS[shapes.kind] + "mask_tokens.weight")[1]
            prompts = shapes.rows("roi_head.mask_head.point_emb.8.weight") // width
            return {**_box_head_sizes(shapes, ""), "prompts_per_object": prompts}
        case "rsprompter-query":
            width = 2 * shapes.shape(_MASK_DECODERS[shapes.kind] + "mask_tokens.weight")[1]
            prompts = shapes.rows("panoptic_head.point_emb.4.weight") // width
            return {**_query_sizes(shapes), "prompts_per_object": prompts}
        case "samseg-mask2former":
            return _query_sizes(shapes)
        case "samdet":
            return {**_box_head_sizes(shapes, "detector."), **_resnet_sizes(shapes)}
        case _:
            return _box_head_sizes(shapes, "")


def _box_head_sizes(shapes: OriginalShapes, prefix: str) -> dict[str, Any]:
    return {"roi.fc_channels": shapes.rows(f"{prefix}roi_head.bbox_head.shared_fcs.0.weight")}


def _query_sizes(shapes: OriginalShapes) -> dict[str, Any]:
    head = "panoptic_head."
    queries, channels = shapes.shape(head + "query_feat.weight")
    encoder, decoder = head + "pixel_decoder.encoder.layers.", head + "transformer_decoder.layers."
    return {
        "query.queries": queries,
        "query.channels": channels,
        "query.encoder_layers": shapes.count(re.escape(encoder) + r"(\d+)\."),
        "query.decoder_layers": shapes.count(re.escape(decoder) + r"(\d+)\."),
        "query.encoder_feedforward": shapes.rows(encoder + "0.ffn.layers.0.0.weight"),
        "query.decoder_feedforward": shapes.rows(decoder + "0.ffn.layers.0.0.weight"),
    }


def _resnet_sizes(shapes: OriginalShapes) -> dict[str, Any]:
    stages = range(1, 5)
    backbone = "detector.backbone."
    return {
        "backbone.stem_channels": shapes.rows(backbone + "conv1.weight"),
        "backbone.hidden_sizes": [shapes.rows(f"{backbone}layer{stage}.0.conv3.weight") for stage in stages],
        "backbone.depths": [shapes.count(re.escape(f"{backbone}layer{stage}.") + r"(\d+)\.") for stage in stages],
        "out_channels": shapes.rows("detector.neck.fpn_convs.0.conv.weight"),
    }
