"""What is in a COCO set: counts that tell whether it can be learned from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from rsprompter_cli.data.coco.read import CocoFile

# COCO's borders of small and large, in pixels of area.
_SMALL, _LARGE = 32**2, 96**2


def coco_stats(coco: CocoFile) -> dict[str, Any]:
    """Counts of images and objects, by class and by COCO's size classes, as plain values."""
    objects = [annotation for annotation in coco.annotations if not annotation.iscrowd]
    per_class = Counter(annotation.category_id for annotation in objects)
    per_image = Counter(annotation.image_id for annotation in objects)
    counts = np.array([per_image[image.id] for image in coco.images] or [0])
    sides = np.sqrt([annotation.area for annotation in objects] or [0.0])
    return {
        "file": str(coco.path),
        "images": len(coco.images),
        "images_without_objects": int((counts == 0).sum()) if coco.images else 0,
        "image_sizes": _image_sizes(coco),
        "objects": len(objects),
        "crowds": len(coco.annotations) - len(objects),
        "objects_per_class": {category.name: per_class[category.id] for category in coco.categories},
        "objects_per_size": {
            "small": sum(annotation.area < _SMALL for annotation in objects),
            "medium": sum(_SMALL <= annotation.area < _LARGE for annotation in objects),
            "large": sum(annotation.area >= _LARGE for annotation in objects),
        },
        "side_px": {f"p{rank}": round(float(np.percentile(sides, rank)), 1) for rank in (5, 25, 50, 75, 95)},
        "objects_per_image": {
            "min": int(counts.min()),
            "median": float(np.median(counts)),
            "mean": round(float(counts.mean()), 2),
            "max": int(counts.max()),
        },
    }


def _image_sizes(coco: CocoFile) -> dict[str, Any]:
    heights = [image.height for image in coco.images] or [0]
    widths = [image.width for image in coco.images] or [0]
    return {"width": [min(widths), max(widths)], "height": [min(heights), max(heights)]}
