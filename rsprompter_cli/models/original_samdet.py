"""Key names of the original SAMDet; see original_keys.py."""

from __future__ import annotations

from rsprompter_cli.models.original_keys import KeyTable
from rsprompter_cli.models.original_shared import rpn_and_box_head_rows

_SAM = "segmentor.sam_model."
_PROMPTS = _SAM + "prompt_encoder."

SAMDET = KeyTable(
    (
        *rpn_and_box_head_rows("detector."),
        ("detector.backbone.*", "resnet.*"),
        ("detector.neck.lateral_convs.#.conv.*", "neck.fpn.inner_blocks.#.0.*"),
        ("detector.neck.fpn_convs.#.conv.*", "neck.fpn.layer_blocks.#.0.*"),
        (_SAM + "mask_decoder.*", "mask_decoder.decoder.*"),
        (_SAM + "shared_image_embedding.*", "mask_decoder.position.*"),
        (_PROMPTS + "no_mask_embed.*", "mask_decoder.no_mask_embed.*"),
        (_PROMPTS + "mask_embed.*", "mask_decoder.mask_embed.*"),
        (_PROMPTS + "not_a_point_embed.*", "mask_decoder.not_a_point.*"),
    ),
    encoder=_SAM + "vision_encoder.",
    stacked={
        "mask_decoder.point_embed.weight": (_PROMPTS + "point_embed.0.weight", _PROMPTS + "point_embed.1.weight"),
        "mask_decoder.corner_embed.weight": (_PROMPTS + "point_embed.2.weight", _PROMPTS + "point_embed.3.weight"),
    },
    # One table of frequencies serves the map and the prompts.
    copies={
        _PROMPTS + "shared_embedding.positional_embedding": _SAM + "shared_image_embedding.positional_embedding",
    },
)
