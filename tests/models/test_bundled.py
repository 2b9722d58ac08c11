"""The model in the box: it loads, is small, knows its classes and names nobody's machine."""

from __future__ import annotations

import json

from rsprompter_cli.io.model_files.checkpoint import BUNDLED_MODEL, CONFIG_FILE, META_FILE, WEIGHTS_FILE
from rsprompter_cli.models.load import load_model


def test_it_loads_and_knows_what_it_is() -> None:
    loaded = load_model()
    assert loaded.meta.class_names == ("building",)
    assert loaded.meta.gsd_range is not None
    assert 0 < loaded.meta.score_threshold < 1
    assert not loaded.model.training


def test_it_is_small_credited_and_speaks_of_no_machine() -> None:
    assert (BUNDLED_MODEL / WEIGHTS_FILE).stat().st_size <= 32_000_000
    card = (BUNDLED_MODEL / "MODEL_CARD.md").read_text(encoding="utf-8")
    for credit in ("OpenAerialMap", "CC-BY 4.0", "OpenStreetMap", "ODbL", "LiteMedSAM"):
        assert credit in card
    assert json.loads((BUNDLED_MODEL / META_FILE).read_text(encoding="utf-8"))["provenance"]["credits"]
    assert '= "/' not in (BUNDLED_MODEL / CONFIG_FILE).read_text(encoding="utf-8")
