"""Which entries of the original's configuration are which of our settings, and which must have one value.

Paths are those of mmengine's configuration below `model`. A `Row` maps an entry to one of our keys below
`model`; where several entries map to one key, they must agree. A `Fixed` is an entry for which our models
have no setting: another value would need another network, or another loss if it only counts in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsprompter_cli.models.sam.modules import IMAGENET_MEAN, IMAGENET_STD

LARGEST = 1_000_000
"""Of any whole number in a configuration, the sizes of layers included."""
_MOST_ITEMS = 100

REQUIRED: Any = object()
"""Default of an entry that the original's code has no value of its own for."""


@dataclass(frozen=True, slots=True)
class Row:
    """An entry that is one of our settings.

    path: of the entry. key: of our setting.
    read: its value as ours; raises ValueError with the reason if it is not valid.
    default: what the original's code takes where the entry is missing and the table that would hold it is there.
    training: it counts in training only, and our models use the setting of the same key of evaluation.
    """

    path: str
    key: str
    read: Callable[[Any], Any]
    default: Any = REQUIRED
    training: bool = False


@dataclass(frozen=True, slots=True)
class Fixed:
    """An entry whose value our models have built in.

    training: it counts in training only.
    name: under which it is listed where a configuration does not state it; "" for a detail.
    """

    path: str
    value: Any
    training: bool = False
    name: str = ""


def whole_number(value: Any) -> int:
    """A whole number as our settings take it."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise ValueError("is not a whole number")
    if not 0 <= value <= LARGEST:
        raise ValueError(f"is not a whole number from 0 to {LARGEST:,}")
    return value


def number(value: Any) -> float:
    """A number, no truth value."""
    if type(value) not in (int, float):
        raise ValueError("is not a number")
    if abs(value) > LARGEST:
        raise ValueError(f"is larger than {LARGEST:,}")
    return float(value)


def stages(value: Any) -> int:
    """How many stages stay frozen, -1 for none at all."""
    return -1 if value == -1 and type(value) is int else whole_number(value)


def flag(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError("is neither True nor False")
    return value


def numbers(value: Any) -> list[float]:
    """A short list of numbers."""
    return [number(item) for item in _items(value)]


def whole_numbers(value: Any) -> list[int]:
    """A short list of whole numbers."""
    return [whole_number(item) for item in _items(value)]


def square(value: Any) -> int:
    """The side of a size that is one number or two equal ones."""
    sides = set(whole_numbers(value)) if isinstance(value, list | tuple) else {whole_number(value)}
    if len(sides) != 1:
        raise ValueError("is not the size of a square")
    return sides.pop()


def twice(value: Any) -> int:
    """Double a whole number: positions hold as many sines as cosines."""
    return 2 * whole_number(value)


def encoder_kind(value: Any) -> str:
    """How the encoder trains: the original freezes it for None, and trains it whole where the entry is missing."""
    if value is None:
        return "frozen"
    if not isinstance(value, Mapping):
        raise ValueError("is neither None nor a table")
    return "lora"


def aggregator(value: Any) -> str:
    """Which of the two aggregators a class of the original is."""
    known = {"RSFeatureAggregator": "layers", "PseudoFeatureAggregator": "last"}
    if not isinstance(value, str) or value.rpartition(".")[2] not in known:
        raise ValueError("is none of " + ", ".join(known))
    return known[value.rpartition(".")[2]]


def decoder_kind(value: Any) -> str:
    """Whether SAM's mask decoder trains."""
    return "frozen" if flag(value) else "train"


def _items(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or len(value) > _MOST_ITEMS:
        raise ValueError(f"is not a list of at most {_MOST_ITEMS} items")
    return value


_PYRAMID = [4, 8, 16, 32, 64]
_REGION_STRIDES = [4, 8, 16, 32]


def _sam_rows() -> list[Row | Fixed]:
    """Pictures, encoder and neck."""
    return [
        Row("data_preprocessor.batch_augments.0.size", "image_size", square),
        Fixed("data_preprocessor.mean", list(IMAGENET_MEAN), name="pixel mean"),
        Fixed("data_preprocessor.std", list(IMAGENET_STD), name="pixel std"),
        Fixed("data_preprocessor.bgr_to_rgb", True),
        Fixed("data_preprocessor.rgb_to_bgr", False),
    ]


def _trained_encoder_rows() -> list[Row | Fixed]:
    adapters = "backbone.peft_config."
    return [
        *_sam_rows(),
        Row("backbone.img_size", "image_size", square),
        Row("backbone.peft_config", "encoder", encoder_kind, default="full"),
        Row(f"{adapters}r", "lora.r", whole_number, default=16),
        Row(f"{adapters}lora_alpha", "lora.alpha", whole_number, default=32),
        Row(f"{adapters}lora_dropout", "lora.dropout", number, default=0.05),
        Fixed(f"{adapters}peft_type", "LORA"),
        Fixed(f"{adapters}target_modules", ["qkv"]),
        Fixed(f"{adapters}bias", "none"),
        Fixed(f"{adapters}use_rslora", False),
        Fixed(f"{adapters}use_dora", False),
        Row("neck.feature_aggregator.type", "neck.aggregator", aggregator),
        Row("neck.feature_aggregator.hidden_channels", "neck.hidden_channels", whole_number),
        Row("neck.feature_aggregator.out_channels", "neck.out_channels", whole_number),
        Row("neck.feature_aggregator.select_layers", "neck.layers", whole_numbers, default=[1, 3, 5, 7, 9, 11]),
        Row("neck.feature_spliter.out_channels", "neck.out_channels", whole_number),
        Fixed("neck.feature_spliter.num_outs", 5),
    ]


def _box_rows(prefix: str = "") -> list[Row | Fixed]:
    """Region proposals, box head and post-processing."""
    rpn, head = f"{prefix}rpn_head.", f"{prefix}roi_head.bbox_head."
    train, test = f"{prefix}train_cfg.", f"{prefix}test_cfg."
    region = f"{prefix}roi_head.bbox_roi_extractor."
    return [
        Row(f"{rpn}anchor_generator.scales", "rpn.anchor_scales", numbers),
        Fixed(f"{rpn}anchor_generator.type", "AnchorGenerator"),
        Fixed(f"{rpn}anchor_generator.ratios", [0.5, 1.0, 2.0], name="anchor ratios"),
        Fixed(f"{rpn}anchor_generator.strides", _PYRAMID, name="anchor strides"),
        Fixed(f"{rpn}anchor_generator.base_sizes", None),
        Fixed(f"{rpn}anchor_generator.center_offset", 0.0),
        Fixed(f"{rpn}anchor_generator.octave_base_scale", None),
        Fixed(f"{rpn}bbox_coder.target_means", [0.0] * 4),
        Fixed(f"{rpn}bbox_coder.target_stds", [1.0] * 4),
        Fixed(f"{rpn}num_convs", 1),
        Row(f"{test}rpn.nms_pre", "rpn.nms_pre_test", whole_number),
        Row(f"{test}rpn.max_per_img", "rpn.max_proposals", whole_number),
        Row(f"{test}rpn.nms.iou_threshold", "rpn.nms_iou", number),
        Fixed(f"{test}rpn.nms.type", "nms"),
        Fixed(f"{test}rpn.min_bbox_size", 0),
        Row(f"{train}rpn_proposal.nms_pre", "rpn.nms_pre_train", whole_number),
        Row(f"{train}rpn_proposal.max_per_img", "rpn.max_proposals", whole_number, training=True),
        Row(f"{train}rpn_proposal.nms.iou_threshold", "rpn.nms_iou", number, training=True),
        Row(f"{train}rpn.sampler.num", "rpn.samples", whole_number),
        Row(f"{head}fc_out_channels", "roi.fc_channels", whole_number),
        Fixed(f"{head}bbox_coder.target_means", [0.0] * 4),
        Fixed(f"{head}bbox_coder.target_stds", [0.1, 0.1, 0.2, 0.2]),
        Fixed(f"{head}reg_class_agnostic", False),
        *_region_rows(region, 7),
        Row(f"{test}rcnn.score_thr", "roi.score_threshold", number),
        Row(f"{test}rcnn.nms.iou_threshold", "roi.nms_iou", number),
        Row(f"{test}rcnn.max_per_img", "roi.max_detections", whole_number),
        Fixed(f"{test}rcnn.nms.type", "nms"),
        Row(f"{train}rcnn.sampler.num", "roi.samples", whole_number),
        *_training(f"{train}rpn.assigner.", pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True),
        *_training(f"{train}rcnn.assigner.", pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5),
        *_training(f"{train}rpn.sampler.", type="RandomSampler", pos_fraction=0.5),
        *_training(f"{train}rcnn.sampler.", type="RandomSampler", pos_fraction=0.25, add_gt_as_proposals=True),
        *_training(f"{rpn}loss_cls.", type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        *_training(f"{rpn}loss_bbox.", type="SmoothL1Loss", loss_weight=1.0, beta=1.0),
        *_training(f"{head}loss_cls.", type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
        *_training(f"{head}loss_bbox.", type="SmoothL1Loss", loss_weight=1.0, beta=1.0),
    ]


def _region_rows(prefix: str, size: int) -> list[Fixed]:
    return [
        Fixed(f"{prefix}roi_layer.type", "RoIAlign"),
        Fixed(f"{prefix}roi_layer.output_size", size),
        Fixed(f"{prefix}roi_layer.sampling_ratio", 0),
        Fixed(f"{prefix}featmap_strides", _REGION_STRIDES),
        Fixed(f"{prefix}finest_scale", 56),
    ]


def _mask_rows() -> list[Row | Fixed]:
    return [
        *_region_rows("roi_head.mask_roi_extractor.", 14),
        Fixed("test_cfg.rcnn.mask_thr_binary", 0.5),
        *_training("roi_head.mask_head.loss_mask.", type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
    ]


def _query_rows() -> list[Row | Fixed]:
    head, pixel = "panoptic_head.", "panoptic_head.pixel_decoder."
    encoder, decoder = f"{pixel}encoder.layer_cfg.", f"{head}transformer_decoder.layer_cfg."
    return [
        Row(f"{head}num_queries", "query.queries", whole_number),
        Row(f"{head}feat_channels", "query.channels", whole_number),
        Row(f"{head}positional_encoding.num_feats", "query.channels", twice),
        Row(f"{pixel}positional_encoding.num_feats", "query.channels", twice),
        *(Fixed(f"{part}positional_encoding.normalize", True) for part in (head, pixel)),
        *(Fixed(f"{part}positional_encoding.temperature", 10000) for part in (head, pixel)),
        Fixed(f"{head}num_transformer_feat_level", 3),
        Fixed(f"{pixel}num_outs", 3),
        Fixed(f"{pixel}strides", _PYRAMID),
        Row(f"{pixel}norm_cfg.num_groups", "query.norm_groups", whole_number),
        Fixed(f"{pixel}norm_cfg.type", "GN"),
        Fixed(f"{pixel}act_cfg.type", "ReLU"),
        Row(f"{pixel}encoder.num_layers", "query.encoder_layers", whole_number),
        Row(f"{encoder}self_attn_cfg.num_heads", "query.heads", whole_number),
        Row(f"{encoder}self_attn_cfg.num_points", "query.points", whole_number),
        Row(f"{encoder}self_attn_cfg.embed_dims", "query.channels", whole_number),
        Fixed(f"{encoder}self_attn_cfg.num_levels", 3),
        Row(f"{encoder}ffn_cfg.feedforward_channels", "query.encoder_feedforward", whole_number),
        Fixed(f"{encoder}ffn_cfg.act_cfg.type", "ReLU"),
        Row(f"{head}transformer_decoder.num_layers", "query.decoder_layers", whole_number),
        Row(f"{decoder}self_attn_cfg.num_heads", "query.heads", whole_number),
        Row(f"{decoder}cross_attn_cfg.num_heads", "query.heads", whole_number),
        Row(f"{decoder}ffn_cfg.feedforward_channels", "query.decoder_feedforward", whole_number),
        Fixed(f"{decoder}ffn_cfg.act_cfg.type", "ReLU"),
        Row("train_cfg.num_points", "query.loss_points", whole_number),
        Row("train_cfg.oversample_ratio", "query.oversample", number),
        Row("train_cfg.importance_sample_ratio", "query.importance", number),
        Row("test_cfg.max_per_image", "query.max_detections", whole_number),
        Fixed("test_cfg.instance_on", True),
        *_training(f"{head}loss_cls.", type="CrossEntropyLoss", use_sigmoid=False, loss_weight=2.0),
        *_training(f"{head}loss_mask.", type="CrossEntropyLoss", use_sigmoid=True, loss_weight=5.0),
        *_training(f"{head}loss_dice.", type="DiceLoss", loss_weight=5.0, naive_dice=True, eps=1.0),
        *(
            Fixed(f"{part}.dropout", 0.0, training=True)
            for part in (f"{encoder}self_attn_cfg", f"{decoder}self_attn_cfg")
        ),
        *(Fixed(f"train_cfg.assigner.match_costs.{index}.weight", weight, training=True) for index, weight in _COSTS),
    ]


_COSTS = ((0, 2.0), (1, 5.0), (2, 5.0))


def _training(prefix: str, **values: Any) -> list[Fixed]:
    return [Fixed(prefix + name, value, training=True) for name, value in values.items()]


def _prompt_rows(head: str) -> list[Row | Fixed]:
    """Prompts of SAM's mask decoder."""
    return [
        Row(f"{head}per_pointset_point", "prompts_per_object", whole_number),
        Row("decoder_freeze", "decoder", decoder_kind, default="frozen"),
        Fixed(f"{head}with_sincos", True),
        Fixed(f"{head}multimask_output", False),
    ]


ENTRIES: Mapping[str, Sequence[Row | Fixed]] = {
    "rsprompter-anchor": [
        *_trained_encoder_rows(),
        *_box_rows(),
        *_mask_rows(),
        *_prompt_rows("roi_head.mask_head."),
        Fixed("roi_head.with_extra_pe", True),
        Fixed("roi_head.mask_head.class_agnostic", True),
        Fixed("train_cfg.rcnn.assigner.match_low_quality", True, training=True),
    ],
    "rsprompter-query": [
        *_trained_encoder_rows(),
        *_query_rows(),
        *_prompt_rows("panoptic_head."),
        Fixed("panoptic_head.decoder_plus", True),
    ],
    "samseg-maskrcnn": [
        *_trained_encoder_rows(),
        *_box_rows(),
        *_mask_rows(),
        Fixed("roi_head.mask_head.num_convs", 4),
        Fixed("roi_head.mask_head.class_agnostic", False),
        Fixed("train_cfg.rcnn.mask_size", 28, training=True),
        Fixed("train_cfg.rcnn.assigner.match_low_quality", True, training=True),
    ],
    "samseg-mask2former": [*_trained_encoder_rows(), *_query_rows()],
    "samdet": [
        *_sam_rows(),
        *_box_rows("detector."),
        Row("detector.backbone.frozen_stages", "frozen_stages", stages),
        Row("detector.backbone.norm_eval", "frozen_norms", flag),
        Fixed("detector.backbone.style", "pytorch"),
        Row("detector.neck.out_channels", "out_channels", whole_number),
        Fixed("detector.neck.num_outs", 5),
        Fixed("detector.train_cfg.rcnn.assigner.match_low_quality", False, training=True),
    ],
}
"""By kind of model."""

CLASS_COUNTS: Mapping[str, Sequence[str]] = {
    "rsprompter-anchor": ["roi_head.bbox_head.num_classes"],
    "rsprompter-query": ["panoptic_head.num_things_classes"],
    "samseg-maskrcnn": ["roi_head.bbox_head.num_classes", "roi_head.mask_head.num_classes"],
    "samseg-mask2former": ["panoptic_head.num_things_classes"],
    "samdet": ["detector.roi_head.bbox_head.num_classes"],
}
"""Entries that hold the number of classes."""

MODEL_TYPES: Mapping[str, str] = {
    "RSPrompterAnchor": "rsprompter-anchor",
    "RSPrompterQuery": "rsprompter-query",
    "SAMSegMaskRCNN": "samseg-maskrcnn",
    "SAMSegMask2Former": "samseg-mask2former",
    "SAMDet": "samdet",
}
"""Kind of model of each class of the original."""

SAM_NAMES: Sequence[str] = ("backbone.hf_pretrain_name", "segmentor.hf_pretrain_name")

SILENT = frozenset({
    # Weights to start from, and sizes that every tensor repeats.
    "type", "init_cfg", "hf_pretrain_name", "extra_config", "in_channels", "out_channels", "conv_out_channels",
    "feat_channels", "backbone_channel", "embed_dims", "num_classes", "num_things_classes", "num_stuff_classes",
    "roi_feat_size", "num_fcs", "depth", "num_stages", "out_indices", "norm_cfg", "feedforward_channels",
    # How a layer is run, with one meaning.
    "batch_first", "return_intermediate", "enforce_decoder_input_project", "inplace", "requires_grad", "act_cfg",
    "pad_mask", "pad_size_divisor", "batch_augments", "loss_panoptic", "reduction", "debug", "pos_weight",
    "allowed_border", "ignore_iof_thr", "neg_pos_ub", "ffn_drop", "dropout", "class_weight", "inference_mode",
    "task_type", "panoptic_on", "semantic_on", "iou_thr", "filter_low_score", "activate", "pred_act", "use_sigmoid",
    "eps", "mask_size", "min_bbox_size", "add_gt_as_proposals", "match_low_quality",
})  # fmt: skip
"""Last parts of paths that add nothing to the settings and tensors."""
