"""Scenes and their footprints to a COCO set of tiles."""
