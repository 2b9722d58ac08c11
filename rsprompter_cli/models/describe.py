"""What a checkpoint folder holds, and which models there are."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from rsprompter_cli.config import (
    KNOWN_SAM,
    ModelConfig,
    TinyVitArch,
    TrainedSamConfig,
    VitArch,
    list_presets,
    load_config,
)
from rsprompter_cli.errors import InputError, RspError, bytes_words
from rsprompter_cli.io.atomic import complete_folder
from rsprompter_cli.io.model_files.checkpoint import (
    BUNDLED,
    BUNDLED_MODEL,
    CONFIG_FILE,
    META_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    find_checkpoint,
    model_argument,
    read_checkpoint,
)
from rsprompter_cli.io.model_files.sam_folder import SAM_CONFIG_FILE, SAM_WEIGHTS_FILE, read_sam_folder
from rsprompter_cli.io.network.hub import cache_folder, sam_folder_for


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of model: its name, what it is, the presets made for it."""

    kind: str
    summary: str
    presets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A checkpoint folder that can predict; otherwise `problem` is the reason and the rest is unknown.

    size: bytes of the weights. gsd_range: metres per pixel on the ground.
    """

    name: str
    folder: str
    kind: str | None = None
    size: int | None = None
    image_size: int | None = None
    class_names: tuple[str, ...] = ()
    gsd_range: tuple[float, float] | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class FoundSam:
    """A SAM to train on: its encoder, and where its weights lie, None while they are not on this machine."""

    name: str
    encoder: str
    folder: str | None = None
    size: int | None = None
    problem: str | None = None


def describe_checkpoint(folder: str | Path | None = None) -> dict[str, Any]:
    """The contents of a checkpoint folder, its weights compared with what its configuration builds.

    Args:
        folder: `"bundled"` or None is the bundled model.

    Raises:
        CheckpointError: no such folder, damaged, or weights that do not fit.
    """
    checkpoint = read_checkpoint(folder)  # before PyTorch is loaded, which takes much longer
    from rsprompter_cli.models.load import outline_of
    from rsprompter_cli.models.trainable import trainable_table

    blocks = trainable_table(outline_of(checkpoint))
    model = checkpoint.config.model
    facts = asdict(checkpoint.meta)
    return {
        "name": checkpoint.name,
        "folder": str(checkpoint.folder),
        "variant": model.kind,
        "preset": checkpoint.config.name,
        "encoder": model.encoder if isinstance(model, TrainedSamConfig) else None,
        "size": (checkpoint.folder / WEIGHTS_FILE).stat().st_size,
        "parameters": sum(block.trainable + block.frozen for block in blocks),
        "trainable": sum(block.trainable for block in blocks),
        "blocks": [asdict(block) for block in blocks],
        **facts,
        "metrics": {name: None if math.isnan(value) else value for name, value in facts["metrics"].items()},
        "provenance": dict(checkpoint.meta.provenance),
    }


def list_variants() -> list[Variant]:
    """Every kind of model, in the order of the configuration."""
    presets = {name: load_config(name).model.kind for name in list_presets()}
    union = get_args(ModelConfig)[0]
    tables = [(table.model_fields["kind"].default, table.__doc__ or "") for table in get_args(union)]
    return [
        Variant(kind, text.split("\n")[0], tuple(name for name, of in presets.items() if of == kind))
        for kind, text in tables
    ]


def find_models(folders: Iterable[str | Path]) -> list[FoundModel]:
    """The bundled model and the checkpoint folders at or below some folders, sorted by path.

    Raises:
        InputError: one of the folders is not there, or is a file.
    """
    found = [_found(BUNDLED, BUNDLED_MODEL)]
    for folder in map(find_checkpoint, folders):
        if folder == BUNDLED_MODEL:
            continue
        if not os.path.isdir(complete_folder(folder)):
            reason = "a file, not a folder" if os.path.exists(folder) else "no such folder"
            raise InputError(f"{folder}: {reason}", "give a checkpoint folder, or one that contains runs")
        # A run folder holds its best and its last; deeper lies no checkpoint of ours.
        places = sorted({path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(depth + META_FILE)})
        found += [_found(model_argument(place), place) for place in places if not place.name.startswith(".")]
    return found


def folders_here() -> list[Path]:
    """Where models are looked for when nobody says: `runs`, and the checkpoint folders in the current folder."""
    runs = Path("runs")
    complete = (
        path.parent
        for path in sorted(Path().glob(f"*/{META_FILE}"))
        if all((path.parent / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE))
    )
    found = [folder for folder in complete if folder != runs and not folder.name.startswith(".")]
    return [*([runs] if runs.is_dir() else []), *found]


def find_sams() -> list[FoundSam]:
    """The SAMs known by name and those in the cache."""
    known = {name: sam_folder_for(name) for name in KNOWN_SAM}
    others = sorted(path.parent for path in (cache_folder() / "sam").glob(f"*/{SAM_CONFIG_FILE}"))
    places = known | {place.name: place for place in others if place not in known.values()}
    return [_found_sam(name, place) for name, place in places.items()]


def _found(name: str, folder: Path) -> FoundModel:
    try:
        checkpoint: Checkpoint = read_checkpoint(folder)
    except RspError as error:
        return FoundModel(name, str(folder), problem=error.message)
    return FoundModel(
        name,
        str(folder),
        kind=checkpoint.config.model.kind,
        size=(folder / WEIGHTS_FILE).stat().st_size,
        image_size=checkpoint.meta.image_size,
        class_names=checkpoint.meta.class_names,
        gsd_range=checkpoint.meta.gsd_range,
    )


def _found_sam(name: str, folder: Path) -> FoundSam:
    if not (folder / SAM_CONFIG_FILE).is_file():
        return FoundSam(name, _encoder_words(KNOWN_SAM[name]))
    try:
        sam = read_sam_folder(folder, verify=False)
    except RspError as error:
        return FoundSam(name, "", str(folder), problem=error.message)
    return FoundSam(name, _encoder_words(sam.arch), str(folder), (folder / SAM_WEIGHTS_FILE).stat().st_size)


def _encoder_words(arch: VitArch | TinyVitArch) -> str:
    if isinstance(arch, VitArch):
        return f"ViT, {arch.num_layers} layers of width {arch.hidden_size}"
    return f"TinyViT, {sum(arch.depths)} blocks of width {arch.embed_dims[0]} to {arch.embed_dims[-1]}"


def resolution_words(gsd_range: tuple[float, float] | None) -> str:
    """A range of ground resolution for people."""
    if gsd_range is None:
        return "unknown"
    low, high = (f"{value:.3g}" for value in gsd_range)
    return f"{low} m/px" if low == high else f"{low} to {high} m/px"


def summary_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The main lines of `describe_checkpoint` for people, name and value."""
    names = facts["class_names"]
    metrics = {name: value for name, value in facts["metrics"].items() if value is not None}
    shown = ("bbox_AP", "bbox_AP50", "segm_AP", "segm_AP50", "f1")
    rows = [
        ("model", facts["name"]),
        ("variant", facts["variant"] + (f", encoder {facts['encoder']}" if facts["encoder"] else "")),
        ("preset", facts["preset"]),
        ("weights", bytes_words(facts["size"])),
        ("parameters", f"{facts['parameters']:,}, of which {facts['trainable']:,} trainable"),
        ("classes", f"{len(names)}: {', '.join(names)}"),
        ("input", f"{facts['image_size']} px"),
        ("resolution", resolution_words(facts["gsd_range"])),
        ("score threshold", f"{facts['score_threshold']:.3g}"),
        ("metrics", ", ".join(f"{name} {metrics[name]:.3f}" for name in shown if name in metrics) or "none"),
        ("SAM", ", ".join(f"{key} {value}" for key, value in facts["sam"].items()) or "none"),
        ("written by", f"rsp {facts['versions'].get('rsprompter_cli', 'unknown')}"),
    ]
    plain = {key: value for key, value in facts["provenance"].items() if not isinstance(value, Mapping)}
    return rows + [(key.replace("_", " "), str(value)) for key, value in plain.items()]
