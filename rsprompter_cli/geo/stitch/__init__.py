"""From the instances of overlapping windows to the objects of a scene (decision 0015)."""
