"""GeoTIFFs that break tools: right output, an honest empty collection, or one line; never half a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsprompter_cli.errors import InputError, RspError
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.predict.scene import predict_scene
from tests.make.rfc7946 import problems
from tests.make.stub_model import BlobModel, blob_model

FILES = (
    "RGBA.uint16.tif",
    "all-nodata.tif",
    "alpha.tif",
    "colorado_rgba.tif",
    "cogeo.tif",
    "corrupt.tif",
    "colorado_nodata.tif",
    "cog_cmap.tif",
    "cog_gcps_ovr.tif",
    "inverted_lat.tif",
    "cog_dateline.tif",
    "rotated.tif",
    "float.tif",
    "float_nan.tif",
)
NOWHERE = {"cog_gcps_ovr.tif", "float.tif", "float_nan.tif", "rotated.tif"}
"""No place on the earth that a polygon could be given: named with the way out."""


@pytest.mark.parametrize("native", [False, True], ids=["as is", "native"])
@pytest.mark.parametrize("name", FILES)
def test_awkward_file(shared: Path, tmp_path: Path, name: str, native: bool) -> None:
    # Windows of 1024 px keep the largest of them (7168 x 8704 px) short.
    model = blob_model(image_size=1024, gsd_range=(0.2, 0.4))
    error = _refusal(shared / "awkward" / name, tmp_path / "out.geojson", model, native=native)
    if error is None:
        assert problems((tmp_path / "out.geojson").read_text()) == []
        assert [path.name for path in tmp_path.iterdir()] == ["out.geojson"]
    else:
        assert "\n" not in str(error)
        assert name in error.message
        assert list(tmp_path.iterdir()) == []
        assert not native or name in NOWHERE | {"corrupt.tif"}


def _refusal(scene: Path, out: Path, model: LoadedModel, *, native: bool) -> RspError | None:
    try:
        predict_scene(scene, out, model=model, native=native)
    except RspError as error:
        return error
    return None


def test_all_nodata_shows_the_model_nothing(shared: Path, tmp_path: Path) -> None:
    model = blob_model(image_size=256)
    predict_scene(shared / "awkward" / "all-nodata.tif", tmp_path / "out.geojson", model=model, native=True)
    assert isinstance(model.model, BlobModel)
    assert model.model.seen == 0
    assert json.loads((tmp_path / "out.geojson").read_text())["features"] == []


@pytest.mark.parametrize("name", sorted(NOWHERE))
def test_a_place_nowhere_is_named(shared: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        predict_scene(
            shared / "awkward" / name, tmp_path / "out.geojson", model=blob_model(image_size=1024), native=True
        )
    assert "--pixel-coords" in caught.value.hint
    predict_scene(shared / "awkward" / name, tmp_path / "out.json", model=blob_model(image_size=1024), native=True)
    assert json.loads((tmp_path / "out.json").read_text())["annotations"] is not None
