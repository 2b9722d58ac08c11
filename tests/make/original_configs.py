"""Fabricated configurations of the original, of every kind, in the text that mmengine stores beside the weights."""

from __future__ import annotations

from typing import Any

from rsprompter_cli.config import ModelConfig
from rsprompter_cli.models.original.sizes import effective_settings

Tree = dict[str, Any]
_TYPES = {
    "rsprompter-anchor": "RSPrompterAnchor",
    "rsprompter-query": "RSPrompterQuery",
    "samdet": "SAMDet",
    "samseg-mask2former": "SAMSegMask2Former",
    "samseg-maskrcnn": "SAMSegMaskRCNN",
}
_PRETRAINED = "work_dirs/sam_cache/sam_vit_base"


def config_tree(model: ModelConfig, num_classes: int = 3) -> Tree:
    """The original's configuration of such a model, completed."""
    ours = effective_settings(model)
    build = {
        "rsprompter-anchor": _anchor,
        "rsprompter-query": _query,
        "samdet": _samdet,
        "samseg-mask2former": _mask2former,
        "samseg-maskrcnn": _maskrcnn,
    }[model.kind]
    side = ours["image_size"] or 1024
    return {
        "default_scope": "mmdet",
        "crop_size": (side, side),
        "max_epochs": 300,
        "model": {
            "type": _TYPES[model.kind],
            "data_preprocessor": {
                "type": "DetDataPreprocessor",
                "mean": [123.675, 116.28, 103.53],
                "std": [58.395, 57.120000000000005, 57.375],
                "bgr_to_rgb": True,
                "pad_mask": True,
                "pad_size_divisor": 32,
                "batch_augments": [{"type": "BatchFixedSizePad", "size": (side, side), "pad_mask": True}],
            },
            **build(ours, num_classes),
        },
        "train_dataloader": {"batch_size": 2, "dataset": {"type": "CustomDataset", "data_prefix": {"img": "imgs"}}},
        "work_dir": "./work_dirs/rsprompter/fabricated",
    }


def pretty_text(tree: Tree) -> str:
    """As mmengine prints a configuration: sorted, `dict(...)` where the keys are names."""
    return "\n".join(f"{key} = {_printed(value, 1)}" for key, value in sorted(tree.items())) + "\n"


def changed(tree: Tree, path: str, value: Any) -> Tree:
    """The tree with the entry at a dotted path replaced; the path's tables are there, list indexes are numbers."""
    *parts, last = path.split(".")
    node: Any = tree
    for part in parts:
        node = node[int(part)] if isinstance(node, list | tuple) else node[part]
    node[last] = value
    return tree


def without(tree: Tree, path: str) -> Tree:
    """The tree without the entry at a dotted path."""
    *parts, last = path.split(".")
    node: Any = tree
    for part in parts:
        node = node[part]
    del node[last]
    return tree


class Expression(str):
    """Python that is printed as it is."""

    __slots__ = ()


def _printed(value: Any, depth: int) -> str:
    margin = "    " * depth
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, dict) and all(str(key).isidentifier() for key in value):
        items = ",\n".join(f"{margin}{key}={_printed(item, depth + 1)}" for key, item in sorted(value.items()))
        return f"dict(\n{items})" if value else "dict()"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_printed(item, depth + 1)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        opened, closed = "[]" if isinstance(value, list) else "()"
        items = "".join(f"{margin}{_printed(item, depth + 1)},\n" for item in value)
        return f"{opened}\n{items}{margin}{closed}" if value else opened + closed
    return repr(value)


def _trained(ours: Tree) -> Tree:
    """Encoder and neck."""
    backbone: Tree = {"type": "RSSamVisionEncoder", "hf_pretrain_name": _PRETRAINED}
    match ours["encoder"]:
        case "lora":
            backbone |= {"type": "MMPretrainSamVisionEncoder", "img_size": ours["image_size"]}
            backbone["peft_config"] = {
                "peft_type": "LORA",
                "r": ours["lora"]["r"],
                "target_modules": ["qkv"],
                "lora_alpha": ours["lora"]["alpha"],
                "lora_dropout": ours["lora"]["dropout"],
                "bias": "none",
            }
        case "frozen":
            backbone["peft_config"] = None
    neck = ours["neck"]
    aggregator: Tree = {"hidden_channels": neck["hidden_channels"], "out_channels": neck["out_channels"]}
    if neck["aggregator"] == "last":
        aggregator |= {"type": "PseudoFeatureAggregator", "in_channels": 256}
    else:
        layers = Expression(f"range({neck['layers'][0]}, {neck['layers'][-1] + 1}, 2)")
        aggregator |= {"type": "RSFeatureAggregator", "in_channels": _PRETRAINED, "select_layers": layers}
    splitter = {
        "type": "RSSimpleFPN",
        "backbone_channel": neck["out_channels"],
        "in_channels": [64, 128, 256, 256],
        "out_channels": neck["out_channels"],
        "num_outs": 5,
        "norm_cfg": {"type": "LN2d", "requires_grad": True},
    }
    return {
        "backbone": backbone,
        "neck": {"type": "RSFPN", "feature_aggregator": aggregator, "feature_spliter": splitter},
    }


def _assigner(positive: float, negative: float, least: float, *, low: bool) -> Tree:
    return {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": positive,
        "neg_iou_thr": negative,
        "min_pos_iou": least,
        "match_low_quality": low,
        "ignore_iof_thr": -1,
    }


def _sampler(count: int, share: float, *, truth: bool) -> Tree:
    return {
        "type": "RandomSampler",
        "num": count,
        "pos_fraction": share,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": truth,
    }


def _regions(size: int) -> Tree:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": 256,
        "featmap_strides": [4, 8, 16, 32],
    }


def _boxes(ours: Tree, num_classes: int, *, low: bool = True) -> Tree:
    """Region proposals and box head."""
    rpn, roi = ours["rpn"], ours["roi"]
    coder = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4}
    smooth = {"type": "SmoothL1Loss", "loss_weight": 1.0}
    nms = {"type": "nms", "iou_threshold": rpn["nms_iou"]}
    return {
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": 256,
            "feat_channels": 256,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "scales": list(rpn["anchor_scales"]),
                "ratios": [0.5, 1.0, 2.0],
                "strides": [4, 8, 16, 32, 64],
            },
            "bbox_coder": coder | {"target_stds": [1.0] * 4},
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
            "loss_bbox": dict(smooth),
        },
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": _regions(7),
            "bbox_head": {
                "type": "Shared2FCBBoxHead",
                "in_channels": 256,
                "fc_out_channels": roi["fc_channels"],
                "roi_feat_size": 7,
                "num_classes": num_classes,
                "bbox_coder": coder | {"target_stds": [0.1, 0.1, 0.2, 0.2]},
                "reg_class_agnostic": False,
                "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
                "loss_bbox": dict(smooth),
            },
        },
        "train_cfg": {
            "rpn": {
                "assigner": _assigner(0.7, 0.3, 0.3, low=True),
                "sampler": _sampler(rpn["samples"], 0.5, truth=False),
                "allowed_border": -1,
                "pos_weight": -1,
                "debug": False,
            },
            "rpn_proposal": {
                "nms_pre": rpn["nms_pre_train"],
                "max_per_img": rpn["max_proposals"],
                "nms": dict(nms),
                "min_bbox_size": 0,
            },
            "rcnn": {
                "assigner": _assigner(0.5, 0.5, 0.5, low=low),
                "sampler": _sampler(roi["samples"], 0.25, truth=True),
                "pos_weight": -1,
                "debug": False,
            },
        },
        "test_cfg": {
            "rpn": {
                "nms_pre": rpn["nms_pre_test"],
                "max_per_img": rpn["max_proposals"],
                "nms": dict(nms),
                "min_bbox_size": 0,
            },
            "rcnn": {
                "score_thr": roi["score_threshold"],
                "nms": {"type": "nms", "iou_threshold": roi["nms_iou"]},
                "max_per_img": roi["max_detections"],
            },
        },
    }


def _mask_boxes(ours: Tree, num_classes: int, head: Tree, mask_size: object) -> Tree:
    boxes = _boxes(ours, num_classes)
    loss = {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0}
    boxes["roi_head"] |= {"mask_roi_extractor": _regions(14), "mask_head": head | {"loss_mask": loss}}
    boxes["train_cfg"]["rcnn"]["mask_size"] = mask_size
    boxes["test_cfg"]["rcnn"]["mask_thr_binary"] = 0.5
    return boxes


def _pretrained() -> Tree:
    return {"hf_pretrain_name": _PRETRAINED, "init_cfg": {"type": "Pretrained", "checkpoint": f"{_PRETRAINED}/x.bin"}}


def _prompts(ours: Tree) -> Tree:
    return {
        "mask_decoder": {"type": "RSSamMaskDecoder", **_pretrained()},
        "per_pointset_point": ours["prompts_per_object"],
        "with_sincos": True,
        "multimask_output": False,
    }


def _prompted(ours: Tree) -> Tree:
    return {
        "decoder_freeze": ours["decoder"] == "frozen",
        "shared_image_embedding": {"type": "RSSamPositionalEmbedding", **_pretrained()},
        **_trained(ours),
    }


def _anchor(ours: Tree, num_classes: int) -> Tree:
    head = {
        "type": "RSPrompterAnchorMaskHead",
        **_prompts(ours),
        "in_channels": 256,
        "roi_feat_size": 14,
        "class_agnostic": True,
    }
    boxes = _mask_boxes(ours, num_classes, head, (ours["image_size"],) * 2)
    boxes["roi_head"] |= {"type": "RSPrompterAnchorRoIPromptHead", "with_extra_pe": True}
    return {**_prompted(ours), **boxes}


def _maskrcnn(ours: Tree, num_classes: int) -> Tree:
    head = {
        "type": "FCNMaskHead",
        "num_convs": 4,
        "in_channels": 256,
        "conv_out_channels": 256,
        "num_classes": num_classes,
    }
    return {**_trained(ours), **_mask_boxes(ours, num_classes, head, 28)}


def _samdet(ours: Tree, num_classes: int) -> Tree:
    detector = {
        "type": "FasterRCNN",
        "backbone": {
            "type": "ResNet",
            "depth": 50,
            "num_stages": 4,
            "out_indices": (0, 1, 2, 3),
            "frozen_stages": ours["frozen_stages"],
            "norm_cfg": {"type": "BN", "requires_grad": True},
            "norm_eval": ours["frozen_norms"],
            "style": "pytorch",
            "init_cfg": {"type": "Pretrained", "checkpoint": "torchvision://resnet50"},
        },
        "neck": {"type": "FPN", "in_channels": [256, 512], "out_channels": ours["out_channels"], "num_outs": 5},
        **_boxes(ours, num_classes, low=False),
    }
    return {"detector": detector, "segmentor": {"type": "RSSamModel", **_pretrained()}}


def _layer(query: Tree, feedforward: int, **attention: Any) -> Tree:
    own = {"embed_dims": query["channels"], "num_heads": query["heads"], "dropout": 0.0, "batch_first": True}
    return {
        "self_attn_cfg": own | attention,
        "ffn_cfg": {
            "embed_dims": query["channels"],
            "feedforward_channels": feedforward,
            "num_fcs": 2,
            "ffn_drop": 0.0,
            "act_cfg": {"type": "ReLU", "inplace": True},
        },
    }


def _query_head(ours: Tree, num_classes: int) -> Tree:
    query = ours["query"]
    positions = {"num_feats": query["channels"] // 2, "normalize": True}
    decoder_layer = _layer(query, query["decoder_feedforward"])
    decoder_layer["cross_attn_cfg"] = dict(decoder_layer["self_attn_cfg"])
    return {
        "in_channels": [256] * 5,
        "feat_channels": query["channels"],
        "out_channels": 256,
        "num_things_classes": num_classes,
        "num_stuff_classes": 0,
        "num_queries": query["queries"],
        "num_transformer_feat_level": 3,
        "pixel_decoder": {
            "type": "MSDeformAttnPixelDecoder",
            "strides": [4, 8, 16, 32, 64],
            "num_outs": 3,
            "norm_cfg": {"type": "GN", "num_groups": query["norm_groups"]},
            "act_cfg": {"type": "ReLU"},
            "encoder": {
                "num_layers": query["encoder_layers"],
                "layer_cfg": _layer(query, query["encoder_feedforward"], num_levels=3, num_points=query["points"]),
            },
            "positional_encoding": dict(positions),
        },
        "enforce_decoder_input_project": False,
        "positional_encoding": dict(positions),
        "transformer_decoder": {
            "return_intermediate": True,
            "num_layers": query["decoder_layers"],
            "layer_cfg": decoder_layer,
            "init_cfg": None,
        },
        "loss_cls": {
            "type": "CrossEntropyLoss",
            "use_sigmoid": False,
            "loss_weight": 2.0,
            "reduction": "mean",
            "class_weight": [1.0] * num_classes + [0.1],
        },
        "loss_mask": {"type": "CrossEntropyLoss", "use_sigmoid": True, "reduction": "mean", "loss_weight": 5.0},
        "loss_dice": {
            "type": "DiceLoss",
            "use_sigmoid": True,
            "activate": True,
            "reduction": "mean",
            "naive_dice": True,
            "eps": 1.0,
            "loss_weight": 5.0,
        },
    }


def _query_cfg(ours: Tree, num_classes: int) -> Tree:
    query = ours["query"]
    costs = [
        {"type": "ClassificationCost", "weight": 2.0},
        {"type": "CrossEntropyLossCost", "weight": 5.0, "use_sigmoid": True},
        {"type": "DiceCost", "weight": 5.0, "pred_act": True, "eps": 1.0},
    ]
    return {
        "panoptic_fusion_head": {
            "type": "RSMaskFormerFusionHead",
            "num_things_classes": num_classes,
            "num_stuff_classes": 0,
            "loss_panoptic": None,
            "init_cfg": None,
        },
        "train_cfg": {
            "num_points": query["loss_points"],
            "oversample_ratio": query["oversample"],
            "importance_sample_ratio": query["importance"],
            "assigner": {"type": "HungarianAssigner", "match_costs": costs},
            "sampler": {"type": "MaskPseudoSampler"},
        },
        "test_cfg": {
            "panoptic_on": False,
            "semantic_on": False,
            "instance_on": True,
            "max_per_image": query["max_detections"],
            "iou_thr": 0.8,
            "filter_low_score": True,
        },
    }


def _query(ours: Tree, num_classes: int) -> Tree:
    head = {
        "type": "RSMask2FormerHead",
        "decoder_plus": True,
        **_prompts(ours),
        **_query_head(ours, num_classes),
    }
    return {**_prompted(ours), "panoptic_head": head, **_query_cfg(ours, num_classes)}


def _mask2former(ours: Tree, num_classes: int) -> Tree:
    head = {"type": "Mask2FormerHead", **_query_head(ours, num_classes)}
    return {**_trained(ours), "panoptic_head": head, **_query_cfg(ours, num_classes)}
