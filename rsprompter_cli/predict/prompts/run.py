"""From a user's points and boxes on a scene to polygons: read, ask SAM, write.

`prompts -> scene px -> windows around them -> SAM's masks -> polygons (scene px) -> features`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rsprompter_cli.errors import UsageError, plural
from rsprompter_cli.geo.raster.scene import Scene
from rsprompter_cli.geo.stitch.joiner import JoinedInstance, Key
from rsprompter_cli.io.activity import announce
from rsprompter_cli.io.model_files.sam_folder import SamFolder
from rsprompter_cli.models.precision import resolve_device, resolve_precision
from rsprompter_cli.models.zero_shot.prompted import find_prompted, knows_points, load_prompted, prompted_meta
from rsprompter_cli.predict.options import PredictOptions
from rsprompter_cli.predict.output.postprocess import finish_objects
from rsprompter_cli.predict.output.write import OutputKind, check_output_crs, check_room, claim_output
from rsprompter_cli.predict.plan import format_elapsed
from rsprompter_cli.predict.prompts.read import PromptFile, read_prompts, require_locatable
from rsprompter_cli.predict.prompts.segment import Answers, answer_prompts
from rsprompter_cli.predict.prompts.windows import (
    MOST_POINTS,
    Miss,
    first_level,
    grid_size,
    name_rows,
    on_level,
    share_windows,
)
from rsprompter_cli.predict.prompts.write import AnsweredPrompt, try_answers, write_answers
from rsprompter_cli.structures import Progress

log = logging.getLogger(__name__)

_MISS_WORDS = {
    Miss.UNUSABLE: "neither a point nor a box (a line, or without geometry or extent)",
    Miss.TOO_MANY_POINTS: f"more than {MOST_POINTS:,} points for one object",
    Miss.OUTSIDE: "outside the scene",
    Miss.NODATA: "where the scene has no data",
    Miss.EMPTY: "empty mask",
    Miss.LOW_SCORE: "score below --score",
    Miss.TOO_SMALL: "smaller than --min-area, or too small for the output format",
}


@dataclass(frozen=True)
class PromptPrediction:
    """What `predict_prompts` did.

    out: the file written, or None for a dry run.
    prompts: features in the file of prompts.
    objects: polygons written, one for each prompt that is not in `misses`; of a dry run prompts to be asked.
    windows: that SAM's encoder saw, or would see at least.
    window_size: their side, pixels.
    misses: the names of the features without a polygon, by the reason.
    seconds: wall time.
    """

    out: Path | None
    prompts: int
    objects: int
    windows: int
    window_size: int
    misses: Mapping[Miss, list[int | str]]
    seconds: float

    def summary(self) -> str:
        """One line for people."""
        where = f"{plural(self.windows, 'window')} of {self.window_size} px"
        prompts = plural(self.prompts, "prompt")
        if self.out is None:
            return f"{self.objects:,} of {prompts} to segment in {where}"
        polygons = plural(self.objects, "polygon")
        return f"wrote {self.out}: {polygons} for {prompts} from {where} in {format_elapsed(self.seconds)}"

    def files(self) -> tuple[Path, ...]:
        """None beside `out`."""
        return ()

    def check(self) -> None:
        """Nothing: what fails raises at once."""

    def as_dict(self) -> dict[str, Any]:
        """Facts for `--json`."""
        return {
            "out": str(self.out) if self.out else None,
            "prompts": self.prompts,
            "objects": self.objects,
            "windows": self.windows,
            "window_size": self.window_size,
            "without_polygon": {miss.value: self.misses.get(miss, []) for miss in Miss},
            "seconds": round(self.seconds, 2),
        }


def predict_prompts(
    source: str | Path,
    prompts: str | Path,
    out: str | Path | None,
    options: PredictOptions | None = None,
    *,
    sam: str | None = None,
    keep_parts: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> PromptPrediction:
    """Write one polygon for each point or box of a vector file, with its attributes.

    Args:
        source: a raster or picture file.
        prompts: a vector file in any CRS. A polygon counts as its bounds in pixels of the scene; the points
            of a multipoint lie on one object.
        out: the output; its extension chooses the format. None plans without reading pixels.
        options: how; None takes the defaults. `overlap`, `max_windows` and `batch` have no part in it: windows are
            laid around the prompts. Without a `score` every answer is kept.
        sam: the SAM to ask, as `rsp download-sam` names it, or a folder; None: base.
        keep_parts: masks of several parts become multipolygons; else the largest part is kept, or the one
            that a point lies on.
        progress: called with (prompts done, prompts to be asked).
        changes: of `options`, as `predict_scene` takes them.

    Raises:
        RspError: any of its children, before something is written.
    """
    start = time.perf_counter()
    options = (options or PredictOptions()).changed(**changes)
    options.check()
    folder = find_prompted(sam)
    kind = claim_output(out, [source, prompts, folder.path], overwrite=options.overwrite)
    check_output_crs(out, kind, options.output)
    meta = prompted_meta(folder)
    pixel_coords = options.output.pixel_coords
    with options.reading.open(source, meta, pixel_coords=pixel_coords) as scene:
        require_locatable(source, scene, pixel_coords=pixel_coords)
        check_room(scene.frame, kind, options.output)
        asked = read_prompts(prompts, scene, pixel_coords=pixel_coords, layer=options.output.layer)
        _refuse_points(asked, folder)
        if out is None or kind is None or options.dry_run:
            windows = _count_windows(asked, scene, meta.image_size)
            return _result(None, asked, asked.misses, windows, meta.image_size, start)
        try_answers(Path(out), kind, asked)
        announce("loading SAM")
        model = load_prompted(folder, resolve_device(options.device))
        dtype = resolve_precision(options.precision, model.device)
        answers = answer_prompts(model, scene, asked.prompts, keep_parts=keep_parts, dtype=dtype, progress=progress)
        announce(f"writing {Path(out).name}")
        misses = _write(Path(out), kind, answers, asked, scene, options)
    return _result(Path(out), asked, misses, answers.windows, meta.image_size, start)


def _write(
    out: Path,
    kind: OutputKind,
    answers: Answers,
    asked: PromptFile,
    scene: Scene,
    options: PredictOptions,
) -> dict[int, Miss]:
    """Write the answers in the order of the file; all rows without a polygon and why."""
    score, min_area = options.score or 0.0, options.output.min_area
    misses = asked.misses | answers.misses
    rows = sorted(row for row, answer in answers.found.items() if answer.score >= score)
    misses |= {row: Miss.LOW_SCORE for row in answers.found if answers.found[row].score < score}
    joined = [
        JoinedInstance(answers.found[row].polygon, 0, answers.found[row].score, Key(0, 0, row), ()) for row in rows
    ]
    # Measured first and dropped here, so that it is known whose they are.
    found = list(finish_objects(joined, scene.frame, replace(options.output, min_area=0.0)))
    measured = [AnsweredPrompt(row, one) for row, one in zip(rows, found, strict=True)]
    kept = [answer for answer in measured if not answer.found.area < min_area]
    misses |= {answer.row: Miss.TOO_SMALL for answer in measured if answer.found.area < min_area}
    dropped: list[int] = []
    write_answers(out, kind, kept, asked, scene, options.output, on_dropped=dropped.append)
    return misses | {kept[place].row: Miss.TOO_SMALL for place in dropped}


def _refuse_points(asked: PromptFile, folder: SamFolder) -> None:
    rows = [prompt.row for prompt in asked.prompts if prompt.points is not None]
    if rows and not knows_points(folder.arch):
        raise UsageError(
            f"{asked.path}: the SAM {folder.path.name} was trained on boxes only, but these prompts are points: "
            f"{name_rows(asked.names, rows)}",
            "use polygons, whose bounds are the boxes, or another --sam: base, large or huge (rsp download-sam base)",
        )


def _count_windows(asked: PromptFile, scene: Scene, size: int) -> int:
    """Windows in which the prompts are first asked."""
    shape = (scene.height, scene.width)
    levels = np.array([first_level(prompt.box, shape, size) for prompt in asked.prompts], dtype=int)
    boxes = np.array([prompt.box for prompt in asked.prompts]).reshape(-1, 4)
    return sum(
        len(share_windows(on_level(boxes[levels == level], level, shape), grid_size(level, shape), size))
        for level in np.unique(levels).tolist()
    )


def _result(
    out: Path | None, asked: PromptFile, misses: Mapping[int, Miss], windows: int, size: int, start: float
) -> PromptPrediction:
    """What was done; the features without a polygon are named in warnings, one a reason."""
    by_miss: dict[Miss, list[int | str]] = {}
    if len(asked) == 0:
        log.warning("%s: contains no features, so there is nothing to segment", asked.path)
    for miss in Miss:
        rows = sorted(row for row, why in misses.items() if why is miss)
        if rows:
            by_miss[miss] = [asked.names[row] for row in rows]
            named = name_rows(asked.names, rows)
            count = f"{len(rows):,} of {plural(len(asked), 'prompt')}"
            log.warning("%s: no polygon for %s, %s: %s", asked.path, count, _MISS_WORDS[miss], named)
    seconds = time.perf_counter() - start
    return PromptPrediction(out, len(asked), len(asked) - len(misses), windows, size, by_miss, seconds)
