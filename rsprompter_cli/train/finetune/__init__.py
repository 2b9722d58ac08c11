"""`rsp fit`: a checkpoint fine-tuned on a few polygons (decision 0012)."""
