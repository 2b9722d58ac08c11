"""Twice the same object in one window: detectors suppress boxes, so two outlines of one roof can both stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from rsprompter_cli.geo.geometry import iou_of
from rsprompter_cli.geo.stitch.joiner import Instance

TWIN_IOU = 0.5
"""From which on two outlines of a class are one object: the IoU at which the field calls a detection right."""


def mask_nms(instances: Sequence[Instance]) -> list[Instance]:
    """The instances of one window, in their order, without those that repeat a better one of their class.

    Ranked by score, then index; each goes whose IoU with one that stays is `TWIN_IOU` or more. What lies
    within another, or over its border, is no twin: an outbuilding on a roof, a pair of houses found as one too.

    Args:
        instances: of one window, polygons valid.
    """
    outlines = np.array([instance.polygon for instance in instances], dtype=object)
    ranked = sorted(range(len(instances)), key=lambda one: (-instances[one].score, instances[one].index))
    rank = {place: number for number, place in enumerate(ranked)}
    rivals: dict[int, list[int]] = {}
    firsts, seconds = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    for first, second in zip(firsts.tolist(), seconds.tolist(), strict=True):
        if rank[second] < rank[first] and instances[first].label == instances[second].label:
            rivals.setdefault(first, []).append(second)
    stays: set[int] = set()
    for place in ranked:
        better = [rival for rival in rivals.get(place, ()) if rival in stays]
        if all(iou_of(outlines[place], outlines[rival]) < TWIN_IOU for rival in better):
            stays.add(place)
    return [instance for place, instance in enumerate(instances) if place in stays]
