"""The plain baselines from their configuration."""

from __future__ import annotations

from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from rsprompter_cli.config import MaskRcnnConfig
from rsprompter_cli.models.maskrcnn import MaskRcnn
from rsprompter_cli.models.resnet import freeze_stages
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
