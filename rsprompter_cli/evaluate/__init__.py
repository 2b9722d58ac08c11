"""COCO AP and polygon scores."""
