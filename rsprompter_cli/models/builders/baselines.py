"""The plain baselines from their configuration."""

from __future__ import annotations

import logging

from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from rsprompter_cli.config import Mask2FormerConfig, MaskRcnnConfig
from rsprompter_cli.errors import UsageError
from rsprompter_cli.models.architectures.mask2former import Mask2Former
from rsprompter_cli.models.architectures.maskrcnn import MaskRcnn
from rsprompter_cli.models.layers.resnet import check_sizes, freeze_stages
from rsprompter_cli.models.trainable import keep_frozen_in_eval


def build_maskrcnn(config: MaskRcnnConfig, num_classes: int) -> MaskRcnn:
    """torchvision's Mask R-CNN, all weights random, its trainable parameters set."""
    detector = maskrcnn_resnet50_fpn_v2(
        weights=None,
        weights_backbone=None,
        num_classes=num_classes + 1,
        rpn_post_nms_top_n_test=config.max_proposals,
        box_batch_size_per_image=config.roi_samples,
        box_score_thresh=config.score_threshold,
        box_detections_per_img=config.max_detections,
    )
    model = MaskRcnn(detector=detector, image_size=config.image_size, frozen_norms=config.frozen_norms)
    freeze_stages(model.resnet, config.frozen_stages)
    keep_frozen_in_eval(model)
    return model


def build_mask2former(config: Mask2FormerConfig, num_classes: int) -> Mask2Former:
    """transformers' Mask2Former on a ResNet, all weights random, its trainable parameters set.

    Raises:
        UsageError: sizes that do not go together.
    """
    # Here, because no other model needs this part of the library.
    import transformers
    from transformers.models.mask2former import configuration_mask2former

    backbone, query = config.backbone, config.query
    check_sizes(backbone.hidden_sizes, backbone.depths)
    if query.channels % query.heads:
        raise UsageError(
            f"model.query.channels = {query.channels}: must be a multiple of model.query.heads = {query.heads}"
        )
    # It warns of every backbone but Swin, ResNets included, with which Mask2Former was published.
    logging.getLogger(configuration_mask2former.__name__).setLevel(logging.ERROR)
    sizes = transformers.Mask2FormerConfig(
        backbone_config=transformers.ResNetConfig(
            embedding_size=backbone.stem_channels,
            hidden_sizes=list(backbone.hidden_sizes),
            depths=list(backbone.depths),
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        num_labels=num_classes,
        feature_size=query.channels,
        mask_feature_size=query.channels,
        hidden_dim=query.channels,
        num_queries=query.queries,
        num_attention_heads=query.heads,
        encoder_layers=query.encoder_layers,
        # It counts the output before the first layer too.
        decoder_layers=query.decoder_layers + 1,
        encoder_feedforward_dim=query.encoder_feedforward,
        dim_feedforward=query.decoder_feedforward,
        train_num_points=query.loss_points,
        oversample_ratio=query.oversample,
        importance_sample_ratio=query.importance,
    )
    model = Mask2Former(
        network=transformers.Mask2FormerForUniversalSegmentation(sizes),
        image_size=config.image_size,
        max_detections=query.max_detections or query.queries,
        frozen_norms=config.frozen_norms,
    )
    freeze_stages(model.resnet, config.frozen_stages)
    keep_frozen_in_eval(model)
    return model
