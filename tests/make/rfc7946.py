"""A checker of GeoJSON against RFC 7946, written without the library that wrote the file."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import shapely.geometry


def problems(text: str) -> list[str]:
    """Everything in a FeatureCollection of polygons that RFC 7946 forbids or advises against."""
    found: list[str] = []

    def constant(name: str) -> float:
        found.append(f"{name} is not JSON")
        return 0.0

    document = json.loads(text, parse_constant=constant, parse_float=lambda number: _number(number, found))
    if set(document) != {"type", "features"} or document["type"] != "FeatureCollection":
        found.append(f"top level members {sorted(document)}")
    ids = [feature["properties"]["id"] for feature in document["features"] if "id" in (feature["properties"] or {})]
    if len(set(ids)) < len(ids):
        found.append("an id occurs twice")
    for index, feature in enumerate(document["features"]):
        where = f"feature {index}"
        if set(feature) != {"type", "properties", "geometry"} or feature["type"] != "Feature":
            found.append(f"{where}: members {sorted(feature)}")
        geometry = feature["geometry"]
        if geometry["type"] not in ("Polygon", "MultiPolygon"):
            found.append(f"{where}: {geometry['type']}")
            continue
        many = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        if not many:
            found.append(f"{where}: empty")
        for polygon in many:
            for number, ring in enumerate(polygon):
                _check_ring(f"{where} ring {number}", ring, number == 0, found)
        if not shapely.geometry.shape(geometry).is_valid:
            found.append(f"{where}: not valid")
    return found


def sequence_problems(text: str, *, marked: bool) -> list[str]:
    """The same of a sequence of features, one a line, each behind a record separator (RFC 8142) if `marked`."""
    found: list[str] = []
    if text and not text.endswith("\n"):
        found.append("the last line does not end")
    for number, line in enumerate(text.split("\n")[:-1]):
        if line.startswith("\x1e") != marked:
            found.append(f"line {number}: begins with {line[:1]!r}")
        one = '{"type":"FeatureCollection","features":[' + line.removeprefix("\x1e") + "]}"
        found += [f"line {number}: {problem}" for problem in problems(one)]
    return found


def _number(text: str, found: list[str]) -> float:
    value = float(text)
    if abs(value * 1e7 - round(value * 1e7)) > 1e-6 or len(text.partition(".")[2].partition("e")[0]) > 7:
        found.append(f"{text}: more than 7 decimals")
    return value


def _check_ring(where: str, ring: list[Any], exterior: bool, found: list[str]) -> None:
    if len(ring) < 4:
        found.append(f"{where}: {len(ring)} positions")
    if ring[0] != ring[-1]:
        found.append(f"{where}: not closed")
    twice_area = 0.0
    for (x0, y0), (x1, y1) in pairwise(ring):
        twice_area += (x0 - ring[0][0]) * (y1 - ring[0][1]) - (x1 - ring[0][0]) * (y0 - ring[0][1])
        if (x0, y0) == (x1, y1):
            found.append(f"{where}: repeated position")
        if not (-180 <= x0 <= 180 and -90 <= y0 <= 90):
            found.append(f"{where}: ({x0}, {y0}) is not on the earth")
        if abs(x1 - x0) > 180 and abs(y0) != 90:
            found.append(f"{where}: an edge passes the antimeridian")
    if (twice_area > 0) != exterior:
        found.append(f"{where}: winds the wrong way")
