"""COCO files: the one reader and the one writer."""
