"""Defaults of comparing polygons, for the command and the function; loads nothing heavy."""

from __future__ import annotations

MATCH_IOU = 0.5
"""Two polygons that overlap as much are the same object."""

SIZES = (50.0, 200.0)
"""Square metres where medium and large begin. Of buildings: below are sheds and huts, between them family houses,
above blocks, schools and halls. COCO's limits are in pixels and would change with the resolution of the imagery."""

SCORE_COLUMN = "score"
"""As `rsp predict` writes it."""

CLASS_COLUMN = "class"
"""As `rsp predict` writes it."""
