"""Rasters, windows, joining and polygons in map space."""
