"""Defaults of vector2coco, for the command and the function; loads nothing heavy."""

from __future__ import annotations

TILE = 256
"""Side of a tile in pixels: the image size of the CPU preset."""

TILE_OVERLAP = 0.0
"""Share that neighbouring tiles have in common."""

CLASS_NAME = "building"
"""Class of footprints that name none."""

MIN_VISIBLE = 0.1
"""Share of its footprint that a small cut piece must show to be kept."""
