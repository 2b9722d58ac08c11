"""How a scene is read and what becomes of its objects, as the user chose; knows no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rsprompter_cli.data.colours import trained_scale
from rsprompter_cli.errors import UsageError, did_you_mean
from rsprompter_cli.geo.defaults import MAX_BLOCK_BYTES, MAX_WINDOWS, OVERLAP
from rsprompter_cli.geo.raster.scene import Scene, open_scene
from rsprompter_cli.geo.raster.source import Stated
from rsprompter_cli.geo.windows import WindowGrid, make_grid
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
from rsprompter_cli.predict.output.postprocess import OutputOptions

DEFAULT_IMAGE_SIZE = 256
"""Side of windows when there is no model to ask: that of the bundled one."""

LARGEST_REDUCTION = 4.0
"""A picture without ground resolution goes through the model whole up to this reduction, as in evaluation."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a scene is read: bands, scale, resolution, windows.

    gsd, native, bands, scale, max_block, allow_vrt, remote: see `open_scene`.
    page, scene_crs, nodata: see `Stated`; the CRS as in EPSG:32633.
    overlap, max_windows: see `make_grid` and `WindowGrid.check_count`.
    """

    gsd: float | None = None
    native: bool = False
    bands: tuple[int, ...] | None = None
    scale: str | None = None
    overlap: float = OVERLAP
    max_block: int = MAX_BLOCK_BYTES
    max_windows: int = MAX_WINDOWS
    allow_vrt: bool = False
    remote: bool = False
    page: int | None = None
    scene_crs: str | None = None
    nodata: float | None = None

    def open(self, source: str | Path, meta: CheckpointMeta | None, *, pixel_coords: bool = False) -> Scene:
        """The scene on its working grid, read as the model was trained where the user says nothing else.

        Args:
            pixel_coords: see `open_scene`.

        Raises:
            RspError: see `open_scene`.
        """
        return open_scene(
            source,
            gsd=self.gsd,
            native=self.native,
            trained_gsd=None if meta is None else meta.gsd_range,
            bands=self.bands,
            trained_bands=None if meta is None else meta.bands,
            scale=self.scale,
            trained_scale=trained_scale(meta),
            max_block=self.max_block,
            allow_vrt=self.allow_vrt,
            remote=self.remote,
            pixel_coords=pixel_coords,
            stated=Stated(self.page, self.scene_crs, self.nodata),
        )

    def windows(self, scene: Scene, meta: CheckpointMeta | None) -> WindowGrid:
        """The windows over a scene, laid from where its valid pixels begin: a collar of nothing changes no polygon.

        Raises:
            InputError: the file is damaged at its borders, or more than `max_windows`.
            UsageError: `overlap` out of range.
        """
        size = window_size(scene, meta, native=self.native)
        found = None if fits_in_one_window(scene, meta, native=self.native) else scene.data_box()
        x0, y0, x1, y1 = found or (0, 0, scene.width, scene.height)
        grid = make_grid(y1 - y0, x1 - x0, size=size, overlap=self.overlap, top=y0, left=x0)
        grid.check_count(self.max_windows)
        return grid


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How objects are found and written.

    reading: how the scene is read, and its windows.
    output: how polygons are finished and written.
    score: lowest score kept, 0..1; None: the model's own threshold (a SAM that is asked has none).
    batch: windows per forward pass.
    device, precision: where and in which arithmetic the model runs.
    preview: an .html file to write too: the objects on a map that any browser shows.
    report: a .json file to write too: seconds by stage, counts, warnings, versions and settings.
    overwrite: replace an existing output.
    dry_run: only plan, as without an output, but check that it could be written; the model's weights are not read.
    """

    reading: Reading = field(default_factory=Reading)
    output: OutputOptions = field(default_factory=OutputOptions)
    score: float | None = None
    batch: int = 1
    device: str = "auto"
    precision: str = "auto"
    preview: str | None = None
    report: str | None = None
    overwrite: bool = False
    dry_run: bool = False

    def changed(self, **values: Any) -> PredictOptions:
        """The same but for some values, those of `reading` and `output` by their plain names too: `gsd=0.3`.

        Raises:
            TypeError: a name that none of the three has.
        """
        known = {name for part in (self, self.reading, self.output) for name in _names(part)}
        for name in values.keys() - known:
            raise TypeError(f"there is no option {name!r}: {did_you_mean(name, sorted(known))}")
        options = replace(self, **{name: values[name] for name in _names(self) & values.keys()})
        reading = {name: values[name] for name in _names(self.reading) & values.keys()}
        output = {name: values[name] for name in _names(self.output) & values.keys()}
        return replace(options, reading=replace(options.reading, **reading), output=replace(options.output, **output))

    def check(self) -> None:
        """Raise UsageError for a number that is out of range and that nothing later looks at."""
        if self.score is not None and not 0 <= self.score <= 1:
            raise UsageError(f"--score {self.score}: must be from 0 to 1")
        self.output.check()


def _names(part: PredictOptions | Reading | OutputOptions) -> set[str]:
    return {one.name for one in fields(part)}


def window_size(scene: Scene, meta: CheckpointMeta | None, *, native: bool) -> int:
    """Side of the windows in working-grid pixels.

    A picture that has no ground resolution goes through the model in one piece, resized by the
    model as in evaluation, because there is no scale to choose; unless it would shrink too much,
    or the model knows objects by their size on the ground.
    """
    whole = fits_in_one_window(scene, meta, native=native)
    return max(scene.height, scene.width) if whole else _model_size(meta)


def fits_in_one_window(scene: Scene, meta: CheckpointMeta | None, *, native: bool) -> bool:
    """Whether the model gets the scene in one piece and resizes it itself; see `window_size`."""
    if native or scene.gsd is not None or (meta is not None and meta.gsd_range is not None):
        return False
    return max(scene.height, scene.width) <= LARGEST_REDUCTION * _model_size(meta)


def _model_size(meta: CheckpointMeta | None) -> int:
    return meta.image_size if meta is not None else DEFAULT_IMAGE_SIZE
