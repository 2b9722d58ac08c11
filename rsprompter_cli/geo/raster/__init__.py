"""Raster files: opened safely, read window by window at a model's ground resolution."""
