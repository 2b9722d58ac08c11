"""What the headers of raster files say, read before GDAL decodes anything."""
