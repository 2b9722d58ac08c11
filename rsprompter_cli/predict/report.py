"""What a prediction did, for `--report`: seconds by stage, counts, warnings, versions and settings."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rasterio
import shapely

from rsprompter_cli.documents import read_json
from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.io.atomic import refuse_existing, write_text
from rsprompter_cli.io.program import code_commit, package_versions

if TYPE_CHECKING:
    from rsprompter_cli.predict.options import PredictOptions
    from rsprompter_cli.predict.stats import RunStats

FORMAT = 1
"""Of the report: it rises when a key changes its meaning or goes."""

_GEO_PACKAGES = ("rasterio", "shapely", "pyproj", "pyogrio", "pyarrow")

_MOST_WARNINGS = 1000
_PACKAGE_LOGGER = "rsprompter_cli"


def claim_report(
    path: str | Path | None, inputs: Sequence[str | Path], *, out: str | Path | None, overwrite: bool
) -> None:
    """Raise an error for a report that has another extension than .json, or that may not be written.

    A report of an earlier run with the same output may be replaced: a run that was stopped, or that failed for some
    scenes, is taken up by the same command.
    """
    if path is None:
        return
    if Path(path).suffix.lower() != ".json":
        raise UsageError(f"--report {path}: must be a .json file", "for example --report report.json")
    refuse_existing(path, overwrite=overwrite or _reports_on(Path(path), out), inputs=inputs)


def _reports_on(path: Path, out: str | Path | None) -> bool:
    """Whether a file is a report of a prediction with this output."""
    try:
        document = read_json(path)
    except InputError:
        return False
    return (
        isinstance(document, dict)
        and {"format", "settings", "counts"} <= set(document)
        and (out is not None and document.get("output") == str(out))
    )


@contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """The package's warnings while it lasts, the first thousand."""
    heard: list[str] = []
    handler = _Listener(heard)
    logger = logging.getLogger(_PACKAGE_LOGGER)
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)


class _Listener(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._heard) < _MOST_WARNINGS:
            self._heard.append(record.getMessage())


def report_document(
    stats: RunStats, options: PredictOptions, *, facts: Mapping[str, Any], warnings: Sequence[str]
) -> dict[str, Any]:
    """The report as JSON has it; docs/report.md explains each key.

    Args:
        facts: of what was predicted on: input, output, model, scene.
    """
    seconds = {name: round(value, 3) for name, value in stats.seconds().items()}
    read = stats.windows - stats.known - stats.outside_area - stats.without_data
    dropped = {name: stats.dropped[name] for name in ("classes", "aoi", "min_area", "too_fine")}
    return {
        "format": FORMAT,
        **facts,
        "seconds": seconds,
        "counts": {
            "windows": stats.windows,
            "windows_from_journal": stats.known,
            "windows_outside_area": stats.outside_area,
            "windows_without_data": stats.without_data,
            "windows_predicted": read,
            "instances": stats.instances,
            "joined": stats.joined,
            "dropped": dropped,
            "objects": stats.written,
            "bytes_read": stats.bytes_read,
        },
        "warnings": list(warnings),
        "settings": asdict(options),
        "versions": {**package_versions(), **_geo_versions(), "commit": code_commit()},
    }


def write_report(path: str | Path, document: dict[str, Any]) -> None:
    """Write a report, atomically."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False, default=str) + "\n")


def _geo_versions() -> dict[str, str]:
    found = {"gdal": str(rasterio.__gdal_version__), "geos": ".".join(map(str, shapely.geos_version))}
    for name in _GEO_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
