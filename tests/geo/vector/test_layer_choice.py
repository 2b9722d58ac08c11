"""Which layer of a file is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.vector.read import open_layer, require_layers
from rsprompter_cli.geo.vector.write import read_footprints
from tests.make.dbf import write_layers
from tests.make.layers import house, write_layer

TWO, ONE = [house(0, 0), house(20, 0)], [house(40, 0)]


@pytest.fixture
def several(tmp_path: Path) -> Path:
    layers = {"parcels": TWO, "buildings": ONE, "owners": None, "drafts": []}
    return write_layers(tmp_path / "town.gpkg", layers, kind=["a", "b"])


def test_several_layers_are_named_with_their_features(several: Path) -> None:
    for read in (open_layer, read_footprints):
        with pytest.raises(UsageError) as caught:
            read(several)
        assert "'parcels' (Polygon, 2 features), 'buildings' (Polygon, 1 feature), 'drafts'" in caught.value.message
        assert "owners" not in caught.value.message
        assert caught.value.hint == "choose one with --layer, for example --layer parcels"


def test_a_named_layer_is_read_both_ways(several: Path) -> None:
    for name, count in (("parcels", 2), ("buildings", 1), ("drafts", 0)):
        layer = open_layer(several, layer=name)
        assert (layer.name, layer.several) == (name, True)
        assert sum(len(batch.geometries) for batch in layer.batches()) == count
        assert len(read_footprints(several, layer=name, class_attribute="kind" if count else None)) == count


def test_names_that_are_no_layer(several: Path) -> None:
    with pytest.raises(UsageError, match="no layer 'building'") as caught:
        open_layer(several, layer="building")
    assert caught.value.hint == "did you mean 'buildings'?"
    with pytest.raises(UsageError, match="'owners' has no geometry"):
        open_layer(several, layer="owners")
    with pytest.raises(UsageError, match="no layer 'buildings'"):
        open_layer(write_layer(several.with_name("b.geojson"), ONE), layer="buildings")
    with pytest.raises(UsageError, match="no layer 'x'"):
        open_layer(write_layer(several.with_name("b.parquet"), ONE), layer="x")
    with pytest.raises(UsageError, match="--layer x: none of the files has a layer of that name"):
        require_layers([several, several.with_name("b.geojson")], ["parcels", "x"])


def test_a_single_layer_is_no_choice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_layers(tmp_path / "a.gpkg", {"owners": None, "houses": TWO, "layer_styles": None})
    layer = open_layer(path)
    assert (layer.name, layer.several) == ("houses", False)
    assert len(read_footprints(path)) == 2
    assert caplog.text == ""


def test_an_empty_layer_beside_a_filled_one_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_layers(tmp_path / "a.gpkg", {"drafts": [], "houses": TWO})
    assert len(read_footprints(path)) == 2
    assert "reading layer 'houses', the only one with features; empty: 'drafts'" in caplog.text
    with pytest.raises(UsageError, match="has 2 layers"):
        open_layer(write_layers(tmp_path / "b.gpkg", {"drafts": [], "houses": []}))


def test_tables_alone_have_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no geometries, only attribute tables: 'owners', 'notes'"):
        open_layer(write_layers(tmp_path / "a.gpkg", {"owners": None, "notes": None}))


def test_of_several_names_a_file_takes_the_one_it_has(several: Path, tmp_path: Path) -> None:
    other = write_layer(tmp_path / "other.geojson", ONE)
    assert open_layer(several, layer=["roofs", "buildings"]).name == "buildings"
    assert open_layer(other, layer=["roofs", "buildings"]).name == "other"
    with pytest.raises(UsageError, match="has 2 of the layers given with --layer"):
        open_layer(several, layer=["parcels", "buildings"])
    with pytest.raises(UsageError, match="no layer 'roofs' or 'barns'"):
        open_layer(several, layer=["roofs", "barns"])


def test_objects_of_topojson_are_layers(tmp_path: Path) -> None:
    shape = {"type": "Polygon", "arcs": [[0]], "properties": {"kind": "a"}}
    collection = {"type": "GeometryCollection", "geometries": [shape]}
    document = {
        "type": "Topology",
        "arcs": [[[15, 45], [15.001, 45], [15.001, 45.001], [15, 45]]],
        "objects": {"parcels": collection, "buildings": collection},
    }
    (tmp_path / "a.topojson").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="has 2 layers: 'parcels'"):
        open_layer(tmp_path / "a.topojson")
    assert open_layer(tmp_path / "a.topojson", layer="buildings").name == "buildings"


def test_the_syntax_of_qgis_gets_a_hint(several: Path) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        open_layer(f"{several}|layername=buildings")
    assert caught.value.hint == f"write {several} --layer buildings"
