"""What predicting on a scene will take, said before any of it is done; knows no torch."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsprompter_cli.errors import InputError, bytes_words, plural
from rsprompter_cli.geo.raster.georef import crs_title, off_earth_refusal
from rsprompter_cli.geo.raster.scene import Scene
from rsprompter_cli.geo.windows import WindowGrid
from rsprompter_cli.io.model_files.checkpoint import (
    META_FILE,
    WEIGHTS_FILE,
    CheckpointMeta,
    find_checkpoint,
    model_name,
    read_checkpoint,
)
from rsprompter_cli.predict.options import DEFAULT_IMAGE_SIZE, Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsprompter_cli.predict.aoi import AreaOfInterest

_log = logging.getLogger(__name__)

_COUNTED_WINDOWS = 20_000
"""Up to this many windows each is asked whether the file stores data under it (about 2 s); of more, as many evenly
spread ones are."""

_TILES_IN_FLIGHT = 4
"""Read ahead, in the model, being outlined, and one copy on its way."""

_SHOWN_BANDS = 12
"""So many names of bands are shown."""

_SCALINGS = {"uint8": "none", "none": "none", "percentile": "percentiles", "range": "range"}
"""Words for the kinds of scaling."""

_GEOREFERENCES = {
    "affine": "affine",
    "gcp": "control points",
    "rpc": "camera model (RPC)",
    "none": "none",
    "off_earth": "not on the earth",
}
"""Words for the kinds of georeference."""

_SMALLEST_SIDE = 16
"""Pixels: one cell of the map that SAM's encoder makes of a picture."""


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """The work that a scene is.

    height, width, gsd: of the working grid; gsd in metres (per row, per column) or None.
    window_size, overlap_px: pixels.
    windows: all windows; windows_in_area: those that the area of interest wants, None without one.
    windows_with_data: of these, those under which the file stores something.
    counted: False when windows_in_area and windows_with_data are estimated from a sample of windows.
    est_seconds: from the model's measured `seconds_per_window`; None when it has none, or when that was
        measured on another kind of device than the one to predict on.
    measured_on: the kind of device (cpu, cuda, mps) of that measurement, None when unknown.
    est_memory_bytes: reading, scaling and windows in flight; the model itself is not in it unless
        its provenance says `model_memory_bytes`.
    """

    height: int
    width: int
    gsd: tuple[float, float] | None
    window_size: int
    overlap_px: int
    windows: int
    windows_in_area: int | None
    windows_with_data: int
    counted: bool
    est_seconds: float | None
    measured_on: str | None
    est_memory_bytes: int

    @property
    def share_with_data(self) -> float:
        """Windows with data over all windows."""
        return self.windows_with_data / self.windows

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "gsd": list(self.gsd) if self.gsd else None, "share_with_data": self.share_with_data}

    def time(self) -> str:
        """The estimated time and where it holds."""
        if self.est_seconds is None:
            return f"unknown (measured on {self.measured_on} only)" if self.measured_on else "unknown"
        kind = f" ({self.measured_on})" if self.measured_on else ""
        return f"about {format_seconds(self.est_seconds)} on the machine that trained the model{kind}"

    def summary(self) -> str:
        """One line for people."""
        metres = f" at {format_gsd(self.gsd)}" if self.gsd else ""
        about = "" if self.counted else "about "
        inside = "" if self.windows_in_area is None else f"{about}{self.windows_in_area:,} in the area, "
        seconds = f"time {self.time()}" if self.est_seconds is None else self.time()
        return (
            f"{self.width} x {self.height} px{metres}: {plural(self.windows, 'window')} of {self.window_size} px, "
            f"{inside}{about}{self.windows_with_data:,} with data; {seconds}, "
            f"{bytes_words(self.est_memory_bytes)} of memory for the scene, plus libraries and model"
        )


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """A raster as `rsp info` describes it.

    facts: of the file, JSON values.
    plan: of predicting on it, or None when that is refused.
    refusal: why, with the way out; else None.
    model: the checkpoint folder asked, `bundled`, or None when there is none.
    score: the score below which the model's objects are dropped unless the user says another.
    extent: (x0, y0, x1, y1) of the pixels of the working grid that windows are laid over; what lies around them is
        an empty collar. None when prediction is refused.
    model_bytes: of the model's file of weights, None without a model.
    """

    facts: dict[str, Any]
    plan: ScenePlan | None
    refusal: str | None
    model: str | None
    score: float | None = None
    extent: tuple[int, int, int, int] | None = None
    model_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        plan = self.plan.as_dict() if self.plan else None
        own = {name: getattr(self, name) for name in ("refusal", "model", "score", "extent", "model_bytes")}
        return {**self.facts, "plan": plan, **own}

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) for a table."""
        facts = self.facts
        low, high, kind = facts["scaling"]["low"], facts["scaling"]["high"], facts["scaling"]["kind"]
        stretch = "; ".join(f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True))
        taken = ",".join(str(band) for band in facts["bands_read"])
        rows = [
            ("file", f"{facts['path']} ({facts['driver']})"),
            ("size", f"{facts['width']} x {facts['height']} px"),
            ("bands", f"{facts['bands']} of {facts['dtype']}{_named(facts)}, read {taken}{_because(facts)}"),
            ("scaling", f"{_SCALINGS[kind]} {stretch}".strip() + (", white is zero" if facts["white_is_zero"] else "")),
            ("nodata", _nodata_text(facts["nodata"])),
            ("georeference", _georeference_text(facts)),
            ("ground resolution", format_gsd(facts["gsd"]) if facts["gsd"] else "none"),
        ]
        if facts["pages"] > 1 or facts["page"] > 1:
            rows.insert(2, ("page", f"{facts['page']} of {facts['pages']} (select another with --page)"))
        if self.plan is None:
            rows.append(("prediction", f"refused: {self.refusal}"))
        else:
            plan = self.plan
            data = f"{plan.share_with_data:.0%} with data" + ("" if plan.counted else " (estimated)")
            grid = f"{plan.width} x {plan.height} px" + (f" at {format_gsd(plan.gsd)}" if plan.gsd else "")
            rows.append(("read as", grid))
            if self.extent is not None and self.extent != (0, 0, plan.width, plan.height):
                x0, y0, x1, y1 = self.extent
                rows.append(("empty collar", f"skipped; windows cover the {x1 - x0} x {y1 - y0} px with data"))
            rows += [
                ("windows", f"{plan.windows:,} of {plan.window_size} px, {plan.overlap_px} px overlap, {data}"),
                (
                    "time",
                    plan.time() + ("" if plan.est_seconds is None else "; another may take several times as long"),
                ),
                (
                    "memory",
                    f"{bytes_words(plan.est_memory_bytes)} for the scene, 1 GB for libraries, {self._weights()}",
                ),
            ]
        note = f"no model: windows of {DEFAULT_IMAGE_SIZE} px, any resolution" if self.model is None else self.model
        if self.score is not None:
            rows.append(("score threshold", f"{self.score:g}, stored with the model (see rsp predict --score)"))
        return [*rows, ("model", note)]

    def _weights(self) -> str:
        """The memory of the model, by the size of its weights."""
        size = "" if self.model_bytes is None else f" ({bytes_words(self.model_bytes)} of weights, and activations)"
        return f"and the model{size}"


def plan_scene(
    scene: Scene,
    grid: WindowGrid,
    meta: CheckpointMeta | None,
    *,
    batch: int = 1,
    device: str | None = None,
    area: AreaOfInterest | None = None,
) -> ScenePlan:
    """Count windows and estimate time and memory. Decodes no pixel.

    Warns of windows that share nothing, and of scenes that are too small to show an object.

    Args:
        scene: an open scene.
        grid: windows over its working grid.
        meta: of the model, or None.
        batch: windows per forward pass.
        device: kind of device that will run the model (cpu, cuda, mps), None when that is open.
        area: only windows that it wants are read.
    """
    total = len(grid)
    if grid.overlap_px == 0 and total > 1:
        _log.warning(
            "%s: windows do not overlap, so objects across their borders stay split (increase --overlap)",
            scene.path,
        )
    sizes = [(scene.native_height, scene.native_width), (scene.height, scene.width)]
    height, width = min(sizes, key=min)
    if min(height, width) < _SMALLEST_SIDE:
        _log.warning(
            "%s: %d x %d px is too small to contain an object; each side needs at least %d px",
            scene.path,
            width,
            height,
            _SMALLEST_SIDE,
        )
    asked = range(total) if total <= _COUNTED_WINDOWS else range(0, total, -(-total // _COUNTED_WINDOWS))
    inside = [index for index in asked if area is None or area.wants(grid.window_at(index))]
    hits = sum(scene.may_have_data(grid.window_at(index)) for index in inside)
    in_area, with_data = (round(count / len(asked) * total) for count in (len(inside), hits))
    provenance = meta.provenance if meta is not None else {}
    per_window, measured_on = provenance.get("seconds_per_window"), provenance.get("seconds_per_window_on")
    if None not in (device, measured_on) and device != measured_on:
        per_window = None
    tile_bytes = min(grid.size, grid.height) * min(grid.size, grid.width) * 3 * 4
    return ScenePlan(
        height=scene.height,
        width=scene.width,
        gsd=scene.working_gsd,
        window_size=grid.size,
        overlap_px=grid.overlap_px,
        windows=total,
        windows_in_area=None if area is None else in_area,
        windows_with_data=with_data,
        counted=len(asked) == total,
        est_seconds=None if per_window is None else float(per_window) * with_data,
        measured_on=measured_on,
        est_memory_bytes=int(provenance.get("model_memory_bytes", 0))
        + scene.cached_bytes(grid.size)
        + _TILES_IN_FLIGHT * batch * tile_bytes,
    )


def scene_info(path: str | Path, reading: Reading | None = None, *, model: str | Path | None = None) -> SceneInfo:
    """Describe a raster and what predicting on it would take.

    Args:
        path: a raster or picture file.
        reading: how it would be read; None takes the defaults.
        model: a checkpoint folder or "bundled"; None takes the bundled model, or does without when there is none.

    Raises:
        InputError: the file cannot be used at all; what only this model or these
            windows refuse is stated in the result instead.
        CheckpointError: `model` is not a checkpoint folder.
        UsageError: an option out of range.
    """
    folder: Path | None = find_checkpoint(model)
    if model is None and not (find_checkpoint(model) / META_FILE).is_file():
        folder = None
    checkpoint = read_checkpoint(folder) if folder is not None else None
    meta = None if checkpoint is None else checkpoint.meta

    reading = reading or Reading()
    facts, plan, refusal, extent = None, None, None, None
    try:
        with reading.open(path, meta) as scene:
            facts = _facts(scene)
            refusal, extent = off_earth_refusal(scene.native_georef, scene.path), None
            if refusal is None:
                grid = reading.windows(scene, meta)
                plan, extent = plan_scene(scene, grid, meta), grid.extent
    except InputError as error:
        refusal = str(error)
    if facts is None:
        # The file alone, without what a model or a resolution asks of it.
        with replace(reading, gsd=None, native=True).open(path, None) as scene:
            facts = _facts(scene)
    return SceneInfo(
        facts,
        plan,
        refusal,
        None if folder is None else model_name(folder),
        None if meta is None else meta.score_threshold,
        extent,
        None if checkpoint is None else (checkpoint.folder / WEIGHTS_FILE).stat().st_size,
    )


def format_gsd(gsd: Sequence[float]) -> str:
    """Metres per pixel, once when both axes agree to 1 %."""
    per_row, per_col = gsd
    if abs(per_row / per_col - 1) <= 0.01:
        return f"{(per_row + per_col) / 2:.4g} m"
    return f"{per_col:.4g} x {per_row:.4g} m"


def format_elapsed(seconds: float) -> str:
    """A measured time: to a tenth of a second in the first two minutes."""
    return f"{seconds:.1f} s" if seconds < 120 else format_seconds(seconds)


def format_seconds(seconds: float) -> str:
    """An estimated time in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _named(facts: dict[str, Any]) -> str:
    names = [name or "-" for name in facts["band_names"]]
    if not any(facts["band_names"]):
        return ""
    return f" ({', '.join(names[:_SHOWN_BANDS])}{', ...' if len(names) > _SHOWN_BANDS else ''})"


def _because(facts: dict[str, Any]) -> str:
    return f" ({facts['bands_why']})" if facts["bands_why"] else ""


def _crs_origin(facts: dict[str, Any]) -> str:
    return "" if facts["crs_from"] in (None, "file") else f" from {facts['crs_from']}"


def _nodata_text(nodata: dict[str, Any] | None) -> str:
    if nodata is None:
        return "none"
    if nodata["from"] != "found":
        return f"{nodata['value']:g}, from {'the file' if nodata['from'] == 'file' else nodata['from']}"
    what = "excluded from the percentiles" if nodata["left_out_only"] else "treated as nodata"
    return f"{nodata['value']:g}, undeclared, fills {nodata['share']:.0%} of the file from its border: {what}"


def _facts(scene: Scene) -> dict[str, Any]:
    from pyproj import CRS

    crs = CRS.from_wkt(scene.native_georef.crs_wkt) if scene.native_georef.crs_wkt else None
    return {
        "path": scene.path,
        "driver": scene.driver,
        "width": scene.native_width,
        "height": scene.native_height,
        "bands": scene.band_count,
        "band_names": list(scene.band_names),
        "bands_read": list(scene.bands),
        "bands_why": scene.bands_why,
        "page": scene.page,
        "pages": scene.pages,
        "dtype": scene.dtype,
        "scaling": scene.scaling.as_dict(),
        "white_is_zero": scene.white_is_zero,
        "nodata": scene.nodata_facts(),
        "georeference": scene.native_georef.kind,
        "crs": None if crs is None else crs_title(crs),
        "crs_from": scene.crs_from,
        "transform": list(scene.native_georef.transform),
        "gsd": list(scene.gsd) if scene.gsd else None,
    }


def _georeference_text(facts: dict[str, Any]) -> str:
    kind = _GEOREFERENCES[facts["georeference"]]
    if facts["georeference"] == "none" and not facts["crs"]:
        return kind
    return f"{kind}, CRS {facts['crs'] or 'none'}{_crs_origin(facts)}"
