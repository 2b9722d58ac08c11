"""How the samples of a raster are stored: GDAL's metadata on the structure of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PIXEL, BAND = "PIXEL", "BAND"


def image_structure(dataset: Any) -> Mapping[str, str]:
    """GDAL's `IMAGE_STRUCTURE` metadata of a rasterio dataset, by name.

    For a JPEG 2000 file, what GDAL states of every one: to find out more it walks through the boxes of the file, which
    never ends in some damaged ones.
    """
    if dataset.driver.startswith("JP2"):
        return {"INTERLEAVE": PIXEL} if dataset.count > 1 else {}
    tags: Mapping[str, str] = dataset.tags(ns="IMAGE_STRUCTURE")
    return tags


def interleaving(dataset: Any) -> str:
    """PIXEL, BAND or another of GDAL's words; empty where it states none, as for one band."""
    return image_structure(dataset).get("INTERLEAVE", "").upper()
