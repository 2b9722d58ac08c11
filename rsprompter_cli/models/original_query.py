"""Key names of the original's two query models; see original_keys.py."""

from __future__ import annotations

from rsprompter_cli.models.original_keys import KeyTable, Row

_HEAD = "panoptic_head."
_PIXELS = _HEAD + "pixel_decoder."
_LAYER = _PIXELS + "encoder.layers.#."
_ROUND = _HEAD + "transformer_decoder.layers.#."

_QUERY_ROWS: tuple[Row, ...] = (
    (_PIXELS + "input_convs.#.conv.*", "pixel_decoder.inputs.#.conv.*"),
    (_PIXELS + "input_convs.#.gn.*", "pixel_decoder.inputs.#.norm.*"),
    (_PIXELS + "level_encoding.*", "pixel_decoder.level_embed.*"),
    (_LAYER + "self_attn.*", "pixel_decoder.layers.#.attention.*"),
    (_LAYER + "ffn.layers.0.0.*", "pixel_decoder.layers.#.fc1.*"),
    (_LAYER + "ffn.layers.1.*", "pixel_decoder.layers.#.fc2.*"),
    (_LAYER + "norms.0.*", "pixel_decoder.layers.#.norm1.*"),
    (_LAYER + "norms.1.*", "pixel_decoder.layers.#.norm2.*"),
    (_PIXELS + "lateral_convs.#.conv.*", "pixel_decoder.lateral.#.conv.*"),
    (_PIXELS + "lateral_convs.#.gn.*", "pixel_decoder.lateral.#.norm.*"),
    (_PIXELS + "output_convs.#.conv.*", "pixel_decoder.output.#.conv.*"),
    (_PIXELS + "output_convs.#.gn.*", "pixel_decoder.output.#.norm.*"),
    (_PIXELS + "mask_feature.*", "pixel_decoder.mask_feature.*"),
    (_ROUND + "cross_attn.attn.*", "query_decoder.layers.#.cross_attention.*"),
    (_ROUND + "self_attn.attn.*", "query_decoder.layers.#.self_attention.*"),
    (_ROUND + "ffn.layers.0.0.*", "query_decoder.layers.#.fc1.*"),
    (_ROUND + "ffn.layers.1.*", "query_decoder.layers.#.fc2.*"),
    (_ROUND + "norms.0.*", "query_decoder.layers.#.norm1.*"),
    (_ROUND + "norms.1.*", "query_decoder.layers.#.norm2.*"),
    (_ROUND + "norms.2.*", "query_decoder.layers.#.norm3.*"),
    (_HEAD + "transformer_decoder.post_norm.*", "query_decoder.post_norm.*"),
    (_HEAD + "query_feat.*", "query_decoder.queries.*"),
    (_HEAD + "query_embed.*", "query_decoder.places.*"),
    (_HEAD + "level_embed.*", "query_decoder.level_embed.*"),
    (_HEAD + "cls_embed.*", "query_decoder.classes.*"),
    (_HEAD + "mask_embed.*", "query_decoder.mask_embed.*"),
)

SAMSEG_MASK2FORMER = KeyTable(_QUERY_ROWS)

QUERY = KeyTable(
    (
        *_QUERY_ROWS,
        (_HEAD + "point_emb.*", "prompt_head.mlp.*"),
        (_HEAD + "mask_decoder.mask_decoder.*", "mask_decoder.decoder.*"),
        (_HEAD + "sam_mask_embed.*", "mask_decoder.mask_embed.*"),
        ("shared_image_embedding.shared_image_embedding.*", "mask_decoder.position.*"),
    )
)
