"""Many scenes with one model: a file for each, or one layer for all.

A scene that fails leaves the others alone, and a run that was stopped goes on after the last window that was done.
Scenes are taken one after the other and nothing of a scene stays in memory but a line of what became of it. Objects of
scenes that overlap are all written: who wants each object once makes one mosaic of the scenes (a VRT) first.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from rsprompter_cli import __version__
from rsprompter_cli.errors import InputError, PartlyDoneError, ResourceError, UsageError, plural, some
from rsprompter_cli.geo.vector.write import GEOJSON_SUFFIXES, read_footprints
from rsprompter_cli.io.atomic import remove_leftovers
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.predict.aoi import OffTheSceneError
from rsprompter_cli.predict.model_source import ModelSource, facts_of, files_of, load_chosen, meta_of
from rsprompter_cli.predict.options import PredictOptions
from rsprompter_cli.predict.output.claims import claim_many, refuse_preview_of_many
from rsprompter_cli.predict.output.combine import Part, write_merged_coco, write_merged_layer
from rsprompter_cli.predict.output.layout import Layout, ManyOutputs, plan_outputs
from rsprompter_cli.predict.output.postprocess import OutputOptions, chosen_labels
from rsprompter_cli.predict.output.write import OutputKind
from rsprompter_cli.predict.plan import ScenePlan, format_elapsed, format_seconds
from rsprompter_cli.predict.report import heard_warnings, report_document, write_report
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.scene_list import common_names, is_address, list_scenes
from rsprompter_cli.predict.stats import RunStats, Stage
from rsprompter_cli.predict.store.fingerprint import file_facts, model_digest
from rsprompter_cli.predict.store.manifest import WHOLE, Manifest
from rsprompter_cli.structures import Progress

OnScene = Callable[[int, int, RunStats], None]
"""Called before each scene with its place from 1, how many there are, and its stats."""

_log = logging.getLogger(__name__)


class State(StrEnum):
    """What became of a scene."""

    DONE = "done"
    KEPT = "kept"
    OUTSIDE = "outside"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SceneOutcome:
    """One scene of many.

    source: as the user named it.
    state: kept: done by an earlier run of the same command; outside: the area of interest does not touch it.
    out: its own file, None where there is none.
    reason: why it failed, in one line.
    plan: of a dry run.
    """

    source: str
    state: State
    out: Path | None = None
    objects: int = 0
    windows: int = 0
    seconds: float = 0.0
    reason: str = ""
    plan: ScenePlan | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without what is not known."""
        found = asdict(self) | {"seconds": round(self.seconds, 2), "out": None if self.out is None else str(self.out)}
        found["plan"] = None if self.plan is None else self.plan.as_dict()
        return {
            name: value for name, value in found.items() if name in ("source", "objects") or value not in ("", None)
        }


@dataclass(frozen=True, slots=True)
class ManyPrediction:
    """What `predict_scenes` did.

    out: the folder or the merged file, None for a dry run.
    scenes: what became of each.
    objects: in all outputs.
    """

    out: Path | None
    scenes: tuple[SceneOutcome, ...]
    objects: int
    seconds: float
    dry_run: bool = field(default=False)

    @property
    def failed(self) -> list[SceneOutcome]:
        """The scenes that failed."""
        return [one for one in self.scenes if one.state is State.FAILED]

    def check(self) -> None:
        """Raise PartlyDoneError when a scene failed."""
        if self.failed:
            count = f"{len(self.failed)} of {plural(len(self.scenes), 'scene')} failed"
            raise PartlyDoneError(
                f"{count}: {some(one.source for one in self.failed)}",
                "the reasons are above; run the same command again to retry only these",
            )

    def files(self) -> list[Path]:
        """The scenes' own files that this run wrote; none where all objects are in one file."""
        return [one.out for one in self.scenes if one.state is State.DONE and one.out is not None]

    def summary(self) -> str:
        """One line for people; of a dry run a line for each scene too."""
        if self.dry_run:
            plans = [one.plan for one in self.scenes if one.plan is not None]
            lines = [f"{one.source}: {one.plan.summary()}" for one in self.scenes if one.plan is not None]
            times = [plan.est_seconds for plan in plans]
            total = sum(plan.windows for plan in plans)
            about = "" if None in times or not times else f", about {format_seconds(sum(t or 0.0 for t in times))}"
            return "\n".join([*lines, f"{plural(len(plans), 'scene')}: {plural(total, 'window')}{about}"])
        counts = {state: sum(one.state is state for one in self.scenes) for state in State}
        words = {State.KEPT: "already done", State.OUTSIDE: "outside the area", State.FAILED: "failed"}
        also = "".join(f", {counts[state]} {word}" for state, word in words.items() if counts[state])
        done = f"{counts[State.DONE]} of {plural(len(self.scenes), 'scene')}"
        return f"wrote {self.out}: {plural(self.objects, 'object')} from {done}{also} in {format_elapsed(self.seconds)}"

    def as_dict(self) -> dict[str, Any]:
        """Facts for `--json`."""
        found = {"out": str(self.out) if self.out else None, "objects": self.objects, "seconds": round(self.seconds, 2)}
        return {**found, "scenes": [one.as_dict() for one in self.scenes]}


def predict_scenes(
    sources: Sequence[str | Path],
    out: str | Path | None,
    options: PredictOptions | None = None,
    *,
    format: str | None = None,
    model: ModelSource = None,
    progress: Progress | None = None,
    on_scene: OnScene = lambda _place, _count, _stats: None,
    **changes: Any,
) -> ManyPrediction:
    """Find the objects of several scenes or pictures and write them.

    Args:
        sources: files, folders, patterns, lists; see `list_scenes`.
        out: a folder for a file of each scene, or one vector or COCO file for all; see `plan_outputs`. None plans.
        options: how, for every scene; None takes the defaults.
        format: of the files in a folder, as their extension; None: geojson.
        model: see `predict_scene`. It is loaded once.
        progress: called after each batch of windows with (windows done, windows in all) of the scene.
        on_scene: called before each scene.
        changes: of `options`, see `predict_scene`.

    Returns:
        What became of each scene; one that failed does not end the run.

    Raises:
        RspError: something that is wrong for all scenes, before the first of them.
    """
    start = time.perf_counter()
    options = (options or PredictOptions()).changed(**changes)
    options.check()
    refuse_preview_of_many(options)
    scenes = list_scenes(
        [str(source) for source in sources], allow_vrt=options.reading.allow_vrt, remote=options.reading.remote
    )
    outputs = None if out is None else plan_outputs(scenes, out, format)
    read = [*files_of(model), *([options.output.aoi] if options.output.aoi else [])]
    if outputs is not None:
        claim_many(outputs, read, options)
    if options.output.aoi is not None:
        read_footprints(options.output.aoi, layer=options.output.layer)
    chosen_labels(options.output.classes, meta_of(model).class_names)
    if outputs is None or options.dry_run:
        return _plan(scenes, options, model, start)
    return _Run(outputs, options, model, progress, on_scene, start).go(read)


def _plan(scenes: Sequence[str], options: PredictOptions, model: ModelSource, start: float) -> ManyPrediction:
    found = []
    options = replace(options, report=None, dry_run=True)
    for scene in scenes:
        try:
            plan = predict_scene(scene, None, options, model=model).plan
            found.append(SceneOutcome(scene, State.DONE, windows=plan.windows, plan=plan))
        except OffTheSceneError:
            found.append(SceneOutcome(scene, State.OUTSIDE))
        except (InputError, ResourceError, UsageError) as error:
            found.append(_failure(scene, error))
    return ManyPrediction(None, tuple(found), 0, time.perf_counter() - start, dry_run=True)


class _Run:
    """One run over the scenes."""

    def __init__(
        self,
        outputs: ManyOutputs,
        options: PredictOptions,
        model: ModelSource,
        progress: Progress | None,
        on_scene: OnScene,
        start: float,
    ) -> None:
        self.outputs, self.options, self.model = outputs, options, model
        self.progress, self.on_scene, self.start = progress, on_scene, start
        self.stats = RunStats()

    def go(self, read: Sequence[str | Path]) -> ManyPrediction:
        """Do the scenes, then what is made of all of them.

        Args:
            read: files and folders that are read beside the scenes.
        """
        outputs, options = self.outputs, self.options
        with ExitStack() as stack:
            warnings = stack.enter_context(heard_warnings())
            with self.stats.stage(Stage.START_UP):
                loaded = load_chosen(self.model, options.device)
            identity = _identity(loaded, outputs, options)
            shown = outputs.out
            manifest = stack.enter_context(
                Manifest(outputs.manifest, identity, overwrite=options.overwrite, shown=shown)
            )
            kept = self._kept(manifest)
            outputs.claim(read, overwrite=options.overwrite, only=self._not_mine(kept, manifest))
            found = [
                kept[scene] if scene in kept else self._scene(place, loaded, manifest)
                for place, scene in enumerate(outputs.scenes)
            ]
            objects = sum(one.objects for one in found)
            self._refuse_all_outside(found)
            if outputs.layout is Layout.MERGED:
                with self.stats.stage(Stage.WRITING):
                    objects = self._merge(found, loaded, manifest)
            result = ManyPrediction(outputs.out, tuple(found), objects, time.perf_counter() - self.start)
            if not result.failed:
                manifest.end()
            if options.report is not None:
                self._report(result, warnings)
        if outputs.parts is not None and not result.failed:
            _tidy(outputs.parts, outputs.manifest)
        return result

    def _not_mine(self, kept: Mapping[str, SceneOutcome], manifest: Manifest) -> list[Path]:
        """Outputs that are to be written in a place that holds nothing of this run."""
        outputs = self.outputs
        if outputs.layout is Layout.MERGED:
            return [] if manifest.owns(WHOLE, outputs.out) else [outputs.out]
        each = zip(outputs.scenes, outputs.files, strict=True)
        return [out for scene, out in each if scene not in kept and not manifest.owns(scene, out)]

    def _kept(self, manifest: Manifest) -> dict[str, SceneOutcome]:
        """The scenes that an earlier run has done."""
        outputs, found = self.outputs, {}
        for scene, out in zip(outputs.scenes, outputs.files, strict=True):
            result = manifest.kept(scene, out, partial(_facts_now, scene))
            if result is not None:
                own = out if outputs.layout is Layout.FOLDER else None
                found[scene] = SceneOutcome(scene, State.KEPT, own, result["objects"], result["windows"])
        if found:
            _log.info("%s: %d of %s already done", outputs.out, len(found), plural(len(outputs.scenes), "scene"))
        return found

    def _scene(self, place: int, loaded: LoadedModel, manifest: Manifest) -> SceneOutcome:
        outputs, scene, out = self.outputs, self.outputs.scenes[place], self.outputs.files[place]
        stats = RunStats()
        self.on_scene(place + 1, len(outputs.scenes), stats)
        # What lies there was made by this run, or may be replaced.
        mine = self.options.overwrite or outputs.layout is Layout.MERGED or manifest.owns(scene, out)
        try:
            facts = _facts(scene)  # before it is read: what changes meanwhile is seen the next time
            manifest.begin(scene, out)
            options = replace(self.options, overwrite=mine, report=None, output=self._output())
            done = predict_scene(scene, out, options, model=loaded, progress=self.progress, stats=stats)
        except OffTheSceneError:
            return SceneOutcome(scene, State.OUTSIDE)
        except (InputError, ResourceError, UsageError) as error:
            return _failure(scene, error)
        finally:
            self.stats.add(stats)
        manifest.finish(scene, out, facts or {}, {"objects": done.objects, "windows": done.plan.windows})
        own = out if outputs.layout is Layout.FOLDER else None
        return SceneOutcome(scene, State.DONE, own, done.objects, done.plan.windows, done.seconds)

    def _output(self) -> OutputOptions:
        """How the objects of each scene are written; GeoJSON is brought into degrees when all are there."""
        merged_geojson = self.outputs.layout is Layout.MERGED and self.outputs.out.suffix.lower() in GEOJSON_SUFFIXES
        return replace(self.options.output, crs=None) if merged_geojson else self.options.output

    def _refuse_all_outside(self, found: Sequence[SceneOutcome]) -> None:
        if all(one.state is State.OUTSIDE for one in found):
            raise InputError(
                f"--aoi {self.options.output.aoi}: overlaps none of {plural(len(found), 'scene')}",
                "check its coordinate reference system",
            )

    def _merge(self, found: Sequence[SceneOutcome], loaded: LoadedModel, manifest: Manifest) -> int:
        outputs, there = self.outputs, (State.DONE, State.KEPT)
        coco = outputs.kind is OutputKind.COCO
        names = common_names(outputs.scenes) if coco else outputs.scenes
        parts = [
            Part(path, name) for path, name, one in zip(outputs.files, names, found, strict=True) if one.state in there
        ]
        if not parts:
            return 0
        manifest.begin(WHOLE, outputs.out)
        remove_leftovers(outputs.out)
        if coco:
            named = zip(loaded.meta.category_ids, loaded.meta.class_names, strict=True)
            categories = [{"id": int(i), "name": name} for i, name in named]
            objects = write_merged_coco(outputs.out, parts, categories)
        else:
            objects = write_merged_layer(outputs.out, parts)
        manifest.finish(WHOLE, outputs.out, {}, {})
        return objects

    def _report(self, result: ManyPrediction, warnings: Sequence[str]) -> None:
        assert self.options.report is not None
        self.stats.written = result.objects
        facts = {
            "inputs": len(result.scenes),
            "output": str(result.out),
            **facts_of(
                self.model, score=self.options.score, device=self.options.device, precision=self.options.precision
            ),
            "scenes": [one.as_dict() for one in result.scenes],
        }
        write_report(self.options.report, report_document(self.stats, self.options, facts=facts, warnings=warnings))


def _tidy(parts: Path, manifest: Path) -> None:
    """Remove a folder of parts. The manifest goes last, so that a run which is killed here is taken up all the same."""
    with suppress(OSError):
        for path in parts.iterdir():
            if path != manifest:
                path.unlink()
    shutil.rmtree(parts, ignore_errors=True)


def _failure(scene: str, error: InputError | ResourceError | UsageError) -> SceneOutcome:
    """A scene that failed; said at once too, for who watches."""
    _log.error("%s", error)
    return SceneOutcome(scene, State.FAILED, reason=str(error))


def _facts(scene: str) -> dict[str, Any] | None:
    """What tells a scene's file from others; None when there is none that can be read.

    Raises:
        InputError: the server of an address does not answer.
    """
    try:
        return file_facts(scene) if is_address(scene) or Path(scene).is_file() else None
    except OSError:
        return None


def _facts_now(scene: str) -> dict[str, Any] | None:
    """The same, and None where a server does not answer: the scene is then done again, or fails."""
    try:
        return _facts(scene)
    except InputError:
        return None


def _identity(loaded: LoadedModel, outputs: ManyOutputs, options: PredictOptions) -> dict[str, Any]:
    """JSON values that are the same for runs that write the same."""
    reading = {name: value for name, value in asdict(options.reading).items() if not name.startswith("max_")}
    aoi = options.output.aoi
    settings = {
        **reading,
        **asdict(options.output),
        "score": loaded.meta.score_threshold if options.score is None else options.score,
        "precision": options.precision,
        "format": outputs.files[0].suffix,
    }
    area = None if aoi is None else file_facts(aoi)
    return {"model": model_digest(loaded), "settings": settings, "area": area, "version of rsp": __version__}
