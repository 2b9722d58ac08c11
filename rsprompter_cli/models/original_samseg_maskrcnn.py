"""Key names of the original SAM-seg Mask R-CNN, beside those of the encoder and the neck; see original_keys.py."""

from __future__ import annotations

from rsprompter_cli.models.original_keys import KeyTable
from rsprompter_cli.models.original_shared import rpn_and_box_head_rows

SAMSEG_MASKRCNN = KeyTable(
    (
        *rpn_and_box_head_rows(),
        ("roi_head.mask_head.convs.#.conv.*", "mask_head.convs.#.*"),
        ("roi_head.mask_head.upsample.*", "mask_head.enlarge.*"),
        ("roi_head.mask_head.conv_logits.*", "mask_head.logits.*"),
    )
)
