"""GeoJSON and other texts that a careless search would look through with the square of their length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsprompter_cli.documents import parse_json
from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.vector.formats import geojson_check
from rsprompter_cli.geo.vector.formats.geojson_check import look_at_json
from tests.make.hostile_vectors import TRIANGLE, collection
from tests.make.reading import features, refused

MANY = 300_000
"""Of a step that is looked for again from each place of a text, this many would take hours."""


def with_attribute(path: Path, value: object, count: int) -> Path:
    feature = {"type": "Feature", "properties": {"crs": value, "class": "a"}, "geometry": TRIANGLE}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature] * count}))
    return path


@pytest.mark.parametrize("value", ["EPSG:4326", 7, None, {"name": "x"}, ["a"]])
def test_an_attribute_may_be_called_crs(tmp_path: Path, value: object) -> None:
    assert features(with_attribute(tmp_path / "a.geojson", value, 3)) == 3


def test_attributes_called_crs_are_looked_at_as_far_as_they_go(tmp_path: Path) -> None:
    path = with_attribute(tmp_path / "a.geojson", "EPSG:4326", 20_000)
    assert look_at_json(path).address is None
    path = with_attribute(tmp_path / "b.geojson", {"name": "x"}, 5_000)
    assert look_at_json(path).address is None


def test_a_crs_that_does_not_end_soon_is_looked_at_whole(tmp_path: Path) -> None:
    for length in (100, 3_000, 50_000):
        crs = {"type": "name", "properties": {"more": "x" * length, "name": "EPSG:4326"}}
        path = tmp_path / f"{length}.geojson"
        path.write_text(collection(crs=crs))
        assert look_at_json(path).address is None
        crs = {"type": "link", "properties": {"more": "x" * length, "href": "http://127.0.0.1/a"}}
        path.write_text(collection(crs=crs))
        assert look_at_json(path).address is not None


def test_members_called_crs_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.geojson"
    path.write_text('{"type": "FeatureCollection", "features": [' + '{"crs":{x}},' * 20_000)
    refused(path, "it has too many members called crs")
    # Each one is looked at for itself.
    monkeypatch.setattr(geojson_check, "_CRS_BYTES", 1 << 20)
    assert len(look_at_json(path).crs_keys) == 20_000


@pytest.mark.parametrize("text", ["{" + "\n" * MANY, "{" + 'conformsTo":[' * MANY, '{"a' + " \n" * MANY])
def test_searches_go_through_a_text_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    refused(path, r"a\.geojson: ")


def test_json_fg_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(collection(conformsTo=["http://www.opengis.net/spec/json-fg-1/0.2/conf/core"]))
    refused(path, "JSON-FG is not a supported vector format")


def test_a_key_that_occurs_twice_among_many() -> None:
    keys = ",".join(f'"k{number}":1' for number in range(MANY))
    with pytest.raises(InputError, match="the key 'z' occurs twice"):
        parse_json(f'{{{keys},"z":1,"z":2}}', "a.json", strict=True)
