"""The only opener of rasters."""

from __future__ import annotations

from rsprompter_cli.geo.pictures import read_label, read_picture

__all__ = ["read_label", "read_picture"]
