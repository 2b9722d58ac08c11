"""A QGIS style beside a vector file: outlines in a colour for each class, fainter where the score is low.

The layout of the file is what QGIS 3.18 and later write and read: a categorizedSymbol or singleSymbol renderer, its
symbols a SimpleFill layer with a data-defined opacity.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsprompter_cli.draw.overlays import distinct_colour
from rsprompter_cli.errors import InputError, UsageError, plural
from rsprompter_cli.geo.vector.class_values import class_name_of, warn_of_look_alikes
from rsprompter_cli.geo.vector.read import Layer, open_layer
from rsprompter_cli.io.atomic import refuse_existing, write_text

CLASS_ATTRIBUTE = "class"
SCORE_ATTRIBUTE = "score"

Colour = tuple[int, int, int]

_FIRST_LINE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_MOST_CLASSES = 100
"""More of them are no legend."""

_FILL_ALPHA = 40
"""Of 255: the picture below stays visible."""

_OUTLINE_MM = "0.46"
_FAINTEST = 25
"""Percent of opacity of the lowest score; the highest has 100."""

_OTHERS: Colour = (130, 130, 130)
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class QgisStyle:
    """What `write_qgis_style` wrote.

    path: of the style. source: of the polygons. features: how many of them.
    layer: the one that was looked at, None where the file has no other.
    attributes: of the file, in its order.
    attribute: what the colours stand for, None when all have the same.
    colours: red, green, blue (0..255) by class.
    scores: lowest and highest, None without scores.
    """

    path: Path
    source: Path
    features: int
    attributes: tuple[str, ...]
    attribute: str | None
    colours: Mapping[str, Colour]
    scores: tuple[float, float] | None
    layer: str | None = None

    def summary(self) -> str:
        """One line for people."""
        count = len(self.colours)
        by = f"{plural(count, 'colour')} by {self.attribute!r}" if self.attribute else "one colour"
        faint = (
            ""
            if self.scores is None
            else f", more transparent from score {self.scores[1]:g} down to {self.scores[0]:g}"
        )
        return f"{self.path}: {by}{faint}"

    def recipe(self) -> list[str]:
        """Steps in QGIS, in order."""
        which = "" if self.layer is None else f", layer {self.layer}"
        steps = [
            f"Layer > Add Layer > Add Vector Layer: {self.source}{which}. QGIS loads the style of the same name "
            "with it; for a layer that is already open: "
            f"Properties > Symbology > Style > Load Style, {self.path.name}.",
            "Layer > Add Layer > Add Raster Layer: your scene. Drag it below the polygons.",
            f"Identify Features (Ctrl+Shift+I), then click a polygon: {', '.join(self.attributes) or 'no attributes'}.",
        ]
        if self.scores is not None:
            middle = round(sum(self.scores) / 2, 2)
            steps.append(
                f'To show confident detections only, right-click the layer > Filter: "{SCORE_ATTRIBUTE}" >= {middle:g}'
            )
        steps.append(
            "For areas that follow your edits: Open Field Calculator (Ctrl+I), Create virtual field, name area_now, "
            "type Decimal number, expression round($area, 1)."
        )
        return steps

    def as_dict(self) -> dict[str, Any]:
        """Facts for `--json`."""
        colours = {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in self.colours.items()}
        return {
            "style": str(self.path),
            "source": str(self.source),
            "layer": self.layer,
            "features": self.features,
            "attribute": self.attribute,
            "colours": colours,
            "scores": None if self.scores is None else list(self.scores),
            "recipe": self.recipe(),
        }


def write_qgis_style(
    source: str | Path, *, attribute: str | None = None, layer: str | None = None, overwrite: bool = False
) -> QgisStyle:
    """Write the style of a vector file as NAME.qml beside it, where QGIS looks for it.

    Args:
        source: a GeoJSON, GeoPackage, Shapefile, FlatGeobuf or GeoParquet file.
        attribute: what the colours stand for; None takes `class` where it is there, else one colour.
        layer: name of the layer, needed where the file has several.
        overwrite: replace a style that exists.

    Raises:
        InputError: missing, damaged or foreign file, or a class whose name no style can hold.
        UsageError: no such attribute or layer, several layers without `layer`, or an attribute with more values than
            a legend takes.
        OutputError: the style exists or cannot be written.
    """
    source = Path(source)
    opened = open_layer(source, layer=layer)
    if attribute is not None:
        opened.require(attribute)
    elif CLASS_ATTRIBUTE in opened.attributes:
        attribute = CLASS_ATTRIBUTE
    path = source.with_suffix(".qml")
    refuse_existing(path, overwrite=overwrite, inputs=[source])
    content = _content(opened, attribute)
    warn_of_look_alikes(str(source), content.classes)
    colours = {name: distinct_colour(index) for index, name in enumerate(content.classes)}
    write_text(path, style_text(attribute, colours, content.scores, trim=content.blanks))
    several = opened.name if opened.several else None
    return QgisStyle(path, source, content.rows, tuple(opened.attributes), attribute, colours, content.scores, several)


def style_text(
    attribute: str | None,
    colours: Mapping[str, Colour],
    scores: tuple[float, float] | None,
    *,
    trim: bool = False,
) -> str:
    """The style as QGIS reads it.

    Args:
        attribute: its values are the keys of `colours`; None gives all the first colour.
        scores: lowest and highest value of `score`, between which the opacity rises; None: all are opaque.
        trim: compare values without the blanks at their ends.
    """
    root = ET.Element("qgis", version="3.18", styleCategories="Symbology")
    plain = {"forceraster": "0", "symbollevels": "0", "enableorderby": "0"}
    if attribute is None:
        renderer = ET.SubElement(root, "renderer-v2", {"type": "singleSymbol", **plain})
        symbols = ET.SubElement(renderer, "symbols")
        _add_symbol(symbols, "0", distinct_colour(0), scores)
    else:
        quoted = attribute.replace('"', '""')
        shown = f'trim("{quoted}")' if trim else attribute  # an expression, or the name of a field
        renderer = ET.SubElement(root, "renderer-v2", {"type": "categorizedSymbol", "attr": shown, **plain})
        categories, symbols = ET.SubElement(renderer, "categories"), ET.SubElement(renderer, "symbols")
        # The empty value stands for rows without one and for values that come later.
        rows = [*((name, name, colour) for name, colour in colours.items()), ("", "other", _OTHERS)]
        for number, (value, label, colour) in enumerate(rows):
            ET.SubElement(categories, "category", symbol=str(number), value=value, label=label, render="true")
            _add_symbol(symbols, str(number), colour, scores)
    for name in ("blendMode", "featureBlendMode"):
        ET.SubElement(root, name).text = "0"
    ET.SubElement(root, "layerGeometryType").text = "2"
    ET.indent(root)
    return _FIRST_LINE + ET.tostring(root, encoding="unicode") + "\n"


def _add_symbol(symbols: ET.Element, name: str, colour: Colour, scores: tuple[float, float] | None) -> None:
    symbol = ET.SubElement(symbols, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1", force_rhr="0")
    if scores is not None and scores[0] < scores[1]:
        low, high = scores
        _add_opacity(symbol, f'scale_linear("{SCORE_ATTRIBUTE}", {low!r}, {high!r}, {_FAINTEST}, 100)')
    layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
    options = _option_map(layer)
    for key, value in {
        "color": _rgba(colour, _FILL_ALPHA),
        "style": "solid",
        "outline_color": _rgba(colour, 255),
        "outline_style": "solid",
        "outline_width": _OUTLINE_MM,
        "outline_width_unit": "MM",
        "joinstyle": "miter",
    }.items():
        _add_option(options, key, value)


def _add_opacity(symbol: ET.Element, expression: str) -> None:
    """Let an expression, in percent, be the opacity of a symbol."""
    collection = _option_map(ET.SubElement(symbol, "data_defined_properties"))
    _add_option(collection, "name", "")
    opacity = _option_map(_option_map(collection, "properties"), "alpha")
    _add_option(opacity, "active", "true", "bool")
    _add_option(opacity, "expression", expression)
    _add_option(opacity, "type", "3", "int")  # 3: QgsProperty::ExpressionBasedProperty
    _add_option(collection, "type", "collection")


def _option_map(parent: ET.Element, name: str | None = None) -> ET.Element:
    return ET.SubElement(parent, "Option", {"type": "Map"} | ({} if name is None else {"name": name}))


def _add_option(parent: ET.Element, name: str, value: str, kind: str = "QString") -> None:
    ET.SubElement(parent, "Option", type=kind, name=name, value=value)


def _rgba(colour: Colour, alpha: int) -> str:
    return ",".join(str(value) for value in (*colour, alpha))


@dataclass(frozen=True, slots=True)
class _Content:
    """The classes in order, the range of scores or None, and the number of rows; blanks: at the ends of a class."""

    classes: list[str]
    scores: tuple[float, float] | None
    rows: int
    blanks: bool


def _content(layer: Layer, attribute: str | None) -> _Content:
    classes: set[str] = set()
    blanks = False
    low, high, rows = math.inf, -math.inf, 0
    scored = layer.attributes.get(SCORE_ATTRIBUTE) in (int, float)
    for batch in layer.batches():
        rows += len(batch.geometries)
        if attribute is not None:
            found = {_as_qgis_has_it(value) for value in batch.columns[attribute] if class_name_of(value) is not None}
            classes.update(value.strip() for value in found)
            blanks = blanks or any(value != value.strip() for value in found)
            _check_classes(layer.path, attribute, classes)
        values = [value for value in batch.columns[SCORE_ATTRIBUTE] if _is_number(value)] if scored else []
        low, high = min([low, *values]), max([high, *values])
    return _Content(sorted(classes), (float(low), float(high)) if low <= high else None, rows, blanks)


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _as_qgis_has_it(value: Any) -> str:
    """A value as the text that QGIS compares categories by."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _check_classes(path: Path, attribute: str, classes: set[str]) -> None:
    if len(classes) > _MOST_CLASSES:
        raise UsageError(
            f"{path}: attribute {attribute!r} has more than {_MOST_CLASSES} distinct values, too many for a legend",
            "name another attribute with --by",
        )
    bad = next((name for name in sorted(classes) if _NOT_IN_XML.search(name)), None)
    if bad is not None:
        raise InputError(
            f"{path}: the {attribute} {bad!r} contains a character that a style file (XML) cannot contain", "rename it"
        )
