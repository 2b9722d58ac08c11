"""QGIS styles of vector files. What QGIS makes of them was looked at in QGIS 3.22; here their layout is kept."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.errors import InputError, OutputError, UsageError
from rsprompter_cli.geo.vector.qgis_style import style_text, write_qgis_style
from rsprompter_cli.geo.vector.write import Feature, object_feature, write_features

CRS84 = 'GEOGCRS["WGS 84",DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",6378137,298.257223563]],CS[ellipsoidal,2],AXIS["longitude",east],AXIS["latitude",north],ANGLEUNIT["degree",0.0174532925199433],ID["OGC","CRS84"]]'  # noqa: E501


def squares(path: Path, *rows: tuple[str, float]) -> Path:
    """A file of 11 m squares with these classes and scores."""
    features = (
        object_feature(shapely.box(x / 1e3, 0, x / 1e3 + 1e-4, 1e-4), class_name=name, score=score, area_m2=123.0)
        for x, (name, score) in enumerate(rows)
    )
    write_features(path, features, CRS84)
    return path


def table(path: Path, kind: type, *values: Any) -> Path:
    """A file with one attribute `n`."""
    square = shapely.box(0, 0, 1e-4, 1e-4)
    write_features(path, (Feature(square, {"n": value}) for value in values), CRS84, attributes={"n": kind})
    return path


def parsed(path: Path) -> ET.Element:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE qgis")
    return ET.fromstring(text)


def options(element: ET.Element) -> dict[str, str]:
    return {
        item.attrib["name"]: item.attrib.get("value", "") for item in element.iter("Option") if "name" in item.attrib
    }


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".fgb", ".parquet", ".shp"])
def test_a_colour_for_each_class_and_opacity_by_score(tmp_path: Path, suffix: str) -> None:
    source = squares(tmp_path / f"found{suffix}", ("tree", 0.4), ("house", 0.9), ("house", 0.7))
    style = write_qgis_style(source)
    assert style.path == tmp_path / "found.qml"
    assert (style.features, style.attribute, style.scores) == (3, "class", (0.4, 0.9))
    assert list(style.colours) == ["house", "tree"]
    renderer = parsed(style.path).find("renderer-v2")
    assert renderer is not None
    assert (renderer.get("type"), renderer.get("attr")) == ("categorizedSymbol", "class")
    categories = [(item.get("value"), item.get("symbol")) for item in renderer.iter("category")]
    assert categories == [("house", "0"), ("tree", "1"), ("", "2")]
    symbols = list(renderer.iter("symbol"))
    assert [item.get("name") for item in symbols] == ["0", "1", "2"]
    outlines = set()
    for symbol in symbols:
        facts = options(symbol)
        assert facts["expression"] == 'scale_linear("score", 0.4, 0.9, 25, 100)'
        assert facts["color"].rpartition(",")[0] == facts["outline_color"].rpartition(",")[0]
        assert facts["outline_color"].endswith(",255")
        assert int(facts["color"].rpartition(",")[2]) < 100
        outlines.add(facts["outline_color"])
    assert len(outlines) == 3


def test_without_class_and_score_one_opaque_colour(tmp_path: Path) -> None:
    style = write_qgis_style(table(tmp_path / "a.gpkg", int, 1, 2))
    assert (style.attribute, style.scores, dict(style.colours)) == (None, None, {})
    text = style.path.read_text(encoding="utf-8")
    assert 'type="singleSymbol"' in text
    assert "scale_linear" not in text
    assert "one colour" in style.summary()
    assert not any("surer" in step for step in style.recipe())


def test_equal_scores_are_opaque(tmp_path: Path) -> None:
    style = write_qgis_style(squares(tmp_path / "a.gpkg", ("a", 0.5), ("b", 0.5)))
    assert "scale_linear" not in style.path.read_text(encoding="utf-8")


def test_no_features_make_a_style_all_the_same(tmp_path: Path) -> None:
    style = write_qgis_style(squares(tmp_path / "a.geojson"))
    assert (style.features, style.scores) == (0, None)
    assert parsed(style.path).find("renderer-v2") is not None


@pytest.mark.parametrize(
    ("kind", "values", "shown"),
    [
        (int, (3, 1, None), ["1", "3"]),
        (float, (3.0, 0.1, None), ["0.1", "3"]),
        (bool, (True, False), ["false", "true"]),
        (str, ("", "b"), ["b"]),
    ],
)
def test_values_are_written_as_qgis_compares_them(
    tmp_path: Path, kind: type, values: tuple[Any, ...], shown: list[str]
) -> None:
    style = write_qgis_style(table(tmp_path / "a.gpkg", kind, *values), attribute="n")
    assert list(style.colours) == shown


def test_recipe_names_the_file_and_a_score_in_the_middle(tmp_path: Path) -> None:
    style = write_qgis_style(squares(tmp_path / "found.gpkg", ("a", 0.4), ("a", 0.8)))
    steps = style.recipe()
    assert "found.gpkg" in steps[0]
    assert "id, class, score, area_m2" in steps[2]
    assert '"score" >= 0.6' in steps[3]
    assert "$area" in steps[-1]


NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1, max_size=20
)


@given(names=st.lists(NAMES, unique=True, max_size=5), attribute=NAMES)
@settings(max_examples=40, deadline=None)
def test_any_class_name_comes_back_from_the_xml(names: list[str], attribute: str) -> None:
    root = ET.fromstring(style_text(attribute, dict.fromkeys(names, (1, 2, 3)), (0.1, 0.9)))
    assert [item.get("value") for item in root.iter("category")] == [*names, ""]
    renderer = root.find("renderer-v2")
    assert renderer is not None
    assert renderer.get("attr") == attribute


def test_bad_input_is_refused(tmp_path: Path) -> None:
    found = squares(tmp_path / "found.gpkg", ("a", 0.5))
    with pytest.raises(UsageError, match="class"):
        write_qgis_style(found, attribute="clas")
    with pytest.raises(InputError, match="no such file"):
        write_qgis_style(tmp_path / "none.gpkg")
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match="is a raster where a vector file is expected"):
        write_qgis_style(tmp_path / "a.png")
    with pytest.raises(UsageError, match="more than 100") as many:
        write_qgis_style(table(tmp_path / "many.gpkg", int, *range(101)), attribute="n")
    assert "--by" in many.value.hint
    with pytest.raises(InputError, match=r"\\x01"):
        write_qgis_style(table(tmp_path / "odd.gpkg", str, "a\x01"), attribute="n")
    assert list(tmp_path.glob("*.qml")) == []


def test_a_style_is_replaced_only_when_asked(tmp_path: Path) -> None:
    found = squares(tmp_path / "found.gpkg", ("a", 0.5))
    first = write_qgis_style(found).path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        write_qgis_style(found)
    assert write_qgis_style(found, overwrite=True).path.read_bytes() == first


def test_an_input_called_qml_is_not_replaced(tmp_path: Path) -> None:
    odd = squares(tmp_path / "a.geojson", ("a", 0.5)).rename(tmp_path / "a.qml")
    with pytest.raises(OutputError, match="is the input"):
        write_qgis_style(odd, overwrite=True)
