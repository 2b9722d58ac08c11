"""Memory is that of the windows in hand and of a row of blocks, whatever the scene."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.make.scenes import write_houses

PROGRAM = """
import json, resource, sys
from pathlib import Path
from rsprompter_cli.predict.stats import RunStats
from rsprompter_cli.predict.scene import predict_scene
from tests.make.stub_model import blob_model

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)

model, found = blob_model(image_size=512), []
for name in sys.argv[1:]:
    before, stats = peak(), RunStats()
    result = predict_scene(name, Path(name).with_suffix(".geojsonl"), model=model, native=True, stats=stats)
    found.append([result.plan.windows, stats.without_data, result.objects, peak() - before])
print(json.dumps(found))
"""


def predicted(*scenes: Path) -> list[list[int]]:
    """Windows, those without data, objects, and kilobytes by which the peak grew, scene by scene in one process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, scenes)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    return list(json.loads(done.stdout))


@pytest.mark.e2e
def test_memory_is_that_of_a_row_of_windows(tmp_path: Path) -> None:
    """After a first scene, which loads what is loaded on first use, a sparse and a high one add little."""
    pytest.importorskip("resource")
    first = write_houses(tmp_path / "first.tif", 1_800, 1_500, stored=1)
    sparse = write_houses(tmp_path / "sparse.tif", 20_000, 20_000, stored=0.01)
    high = write_houses(tmp_path / "high.tif", 30_000, 1_500, stored=1)
    _, (windows, empty, objects, grown), (many, none, more, grown_high) = predicted(first, sparse, high)
    assert windows == 51 * 52  # of 52 rows, but in the last one no block is stored
    assert 0.8 < empty / windows < 1
    assert objects > 100
    assert grown < 100_000  # of 1.2 million kilobytes
    assert (many, none) == (78 * 4, 0)
    assert more > 2_000
    assert grown_high < 60_000  # of 135 thousand
