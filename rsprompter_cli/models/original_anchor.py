"""Key names of the original RSPrompter-anchor, beside those of the encoder and the neck."""

from __future__ import annotations

from rsprompter_cli.models.original_keys import KeyTable
from rsprompter_cli.models.original_shared import rpn_and_box_head_rows

ANCHOR = KeyTable(
    rows=(
        *rpn_and_box_head_rows(),
        ("roi_head.mask_head.point_emb.0.*", "prompt_head.conv.*"),
        ("roi_head.mask_head.point_emb.1.*", "prompt_head.norm.*"),
        ("roi_head.mask_head.point_emb.4.*", "prompt_head.fc1.*"),
        ("roi_head.mask_head.point_emb.6.*", "prompt_head.fc2.*"),
        ("roi_head.mask_head.point_emb.8.*", "prompt_head.fc3.*"),
        ("roi_head.mask_head.mask_decoder.mask_decoder.*", "mask_decoder.decoder.*"),
        ("roi_head.mask_head.no_mask_embed.*", "mask_decoder.no_mask_embed.*"),
        ("shared_image_embedding.shared_image_embedding.*", "mask_decoder.position.*"),
    )
)
