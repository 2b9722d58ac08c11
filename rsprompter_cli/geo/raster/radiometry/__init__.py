"""From the samples of a raster to 8-bit RGB: bands, fill value, scaling."""
