"""What a set says of bands and scaling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsprompter_cli.cli.app import run
from rsprompter_cli.data.colours import colour_info, stored_colours
from rsprompter_cli.errors import InputError
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint, write_checkpoint
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.train.setup import prepare
from tests.make.labelled import make_labelled_scene, rectangle
from tests.make.scenes import write_scene
from tests.make.stub_model import BlobModel, stub_config
from tests.make.tiny_models import tiny_config

HERE = Path("set.json")


@pytest.mark.parametrize("bands", [None, (4, 3, 2), (1,)])
@pytest.mark.parametrize("scale", [None, "none", "percentile", "0,3000"])
def test_what_is_written_is_read(bands: tuple[int, ...] | None, scale: str | None) -> None:
    assert stored_colours(json.loads(json.dumps(colour_info(bands, scale))), HERE) == (bands, scale)


def test_the_rule_of_every_scene_is_not_written() -> None:
    assert colour_info(None, None) == colour_info(None, "auto") == {}


@pytest.mark.parametrize(
    "info",
    [{"bands": value} for value in ("4,3,2", [], [1, 2], [0, 1, 2], [1.0, 2, 3], [True])]
    + [{"scale": value} for value in ("", "uint9", 3000, [0, 3000], "3000,0", "0,inf")],
)
def test_nonsense_is_named(info: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"set\.json: info\.{next(iter(info))} is "):
        stored_colours(info, HERE)


def test_a_model_reads_scenes_as_its_training_pictures_were_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for name in ("one", "two"):
        scene, labels = make_labelled_scene(tmp_path, name, [rectangle(20, 30, 30, 20)], height=128, width=128)
        write_scene(scene, rng.integers(0, 4000, (4, 128, 128), dtype=np.uint16))
        pairs += [str(scene), str(labels)]
    data = tmp_path / "set"
    convert = ["convert", "vector2coco", *pairs, "--out", str(data), "--tile", "64", "--native", "--val-scene", "two"]
    assert run([*convert, "--bands", "4,3,2", "--scale", "0,3000"]) == 0

    setup = prepare(tiny_config(), data, load_from=None, random_sam=True)
    write_checkpoint(tmp_path / "model", setup.model.state_dict(), setup.config, setup.meta)
    meta = read_checkpoint(tmp_path / "model").meta
    assert (meta.bands, meta.scaling) == ((4, 3, 2), "0,3000")

    def shown(**options: Any) -> list[np.ndarray]:
        model = BlobModel(keep=True)
        predict_scene(
            pairs[0],
            tmp_path / "out.geojson",
            model=LoadedModel(model, stub_config(), meta),
            native=True,
            overlap=0.0,
            overwrite=True,
            score=1.0,  # what it may find in noise is of no interest
            **options,
        )
        return [image.numpy() for image in model.images]

    tiles = [
        np.asarray(Image.open(path)).transpose(2, 0, 1)
        for y in (0, 64)
        for x in (0, 64)
        for path in (data / "images").glob(f"one_*_x{x}_y{y}.png")
    ]
    # The model sees floats, the files hold them rounded.
    np.testing.assert_allclose(shown(), tiles, atol=0.501)
    assert np.abs(np.stack(shown(scale="percentile")) - np.stack(tiles)).max() > 5
    assert np.abs(np.stack(shown(bands=(1, 2, 3))) - np.stack(tiles)).max() > 100

    capsys.readouterr()
    assert run(["info", pairs[0], "--model", str(tmp_path / "model"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bands_read"] == [4, 3, 2]
    assert facts["scaling"] == {"kind": "range", "low": [0.0] * 3, "high": [3000.0] * 3}


def test_without_a_choice_the_model_knows_none(tmp_path: Path) -> None:
    scene, labels = make_labelled_scene(tmp_path, "one", [rectangle(20, 30, 30, 20), rectangle(70, 30, 30, 20)])
    data = tmp_path / "set"
    assert run(["convert", "vector2coco", str(scene), str(labels), "--out", str(data), "--tile", "64"]) == 0
    info = json.loads((data / "annotations" / "instances_train.json").read_bytes())["info"]
    assert not {"bands", "scale"} & info.keys()
    meta = prepare(tiny_config(), data, load_from=None, random_sam=True).meta
    assert (meta.bands, meta.scaling) == (None, "uint8")
