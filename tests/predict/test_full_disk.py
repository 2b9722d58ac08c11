"""What a full disk leaves of an output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rsprompter_cli.geo.vector.write import VECTOR_SUFFIXES

WRITE = """
import resource, signal, sys
from pathlib import Path
import shapely
from rsprompter_cli.errors import OutputError
from rsprompter_cli.geo.vector.write import found_feature, write_features

def features():
    for i in range(9000):
        x, y = 15 + i % 100 / 1e3, 45 + i // 100 / 1e3
        values = {"class_name": "a", "score": 0.5, "area_m2": 1.0, "perimeter_m": 1.0, "n_windows": 1}
        yield found_feature(shapely.Point(x, y).buffer(4e-4), **values)

from rsprompter_cli.geo.vector.write import FOUND_ATTRIBUTES
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for suffix in sys.argv[2:]:
    out = Path(sys.argv[1], "old" + suffix)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        write_features(out, features(), "EPSG:4326", attributes=FOUND_ATTRIBUTES)
    except OutputError as error:
        print(suffix, "refused:", error.message.splitlines()[0])
    else:
        print(suffix, "written")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_the_old_file_stays_and_nothing_half_written(tmp_path: Path) -> None:
    for suffix in VECTOR_SUFFIXES:
        (tmp_path / f"old{suffix}").write_text("precious")
    command = [sys.executable, "-c", WRITE, str(tmp_path), *VECTOR_SUFFIXES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["refused:"] * len(VECTOR_SUFFIXES), done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"old{suffix}" for suffix in VECTOR_SUFFIXES)
    assert all(path.read_text() == "precious" for path in tmp_path.iterdir())
