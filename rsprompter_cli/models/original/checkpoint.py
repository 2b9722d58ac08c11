"""A checkpoint folder from a weights file of the original, the way back, and merging of adapters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsprompter_cli.config import (
    KNOWN_SAM,
    Config,
    ModelConfig,
    SamModelConfig,
    TinyVitArch,
    TrainedSamConfig,
    parse_config,
)
from rsprompter_cli.data.coco.classes import classes_of_data_set, classes_of_preset, unsound_name
from rsprompter_cli.errors import CheckpointError, UsageError, plural
from rsprompter_cli.io.atomic import atomic_path, refuse_existing
from rsprompter_cli.io.model_files.checkpoint import (
    Checkpoint,
    CheckpointMeta,
    find_checkpoint,
    read_checkpoint,
    refuse_other_folder,
    write_checkpoint,
)
from rsprompter_cli.io.model_files.original_file import OriginalFile, read_original_file
from rsprompter_cli.io.model_files.sam_folder import file_sha256
from rsprompter_cli.io.model_files.unpickle import save_pickle
from rsprompter_cli.io.program import code_commit, package_versions
from rsprompter_cli.models.build import build_model, merged_config
from rsprompter_cli.models.complete_config import complete_config
from rsprompter_cli.models.load import load_model
from rsprompter_cli.models.original.key_tables import Spelling, find_spelling
from rsprompter_cli.models.original.rename import (
    TABLES,
    original_tensors,
    our_tensors,
    rename_keys,
    without_adapter_prefix,
)
from rsprompter_cli.models.original.report import SettingsReport, report_settings
from rsprompter_cli.models.original.sizes import Fitted, OriginalShapes, find_kind, fit_to_file, size_hint
from rsprompter_cli.models.original.stated_settings import (
    StatedSettings,
    is_chosen,
    read_settings,
    same,
    stated_sam,
    with_settings,
)
from rsprompter_cli.models.sam.lora import merge_lora
from rsprompter_cli.models.state_dict import check_keys, check_values, shapes_of

_SPELLING = "original_spelling"
"""Entry of a checkpoint's provenance: how the file it was imported from wrote the encoder's names."""


@dataclass(frozen=True, eq=False)
class Imported:
    """What an import found.

    folder: that was written.
    weights: averaged or as trained; other_weights: which of the two the file held beside them.
    changes: of the preset, in words, because the tensors have other sizes.
    classes_from: where the class names come from.
    report: where each setting comes from.
    """

    folder: Path
    config: Config
    meta: CheckpointMeta
    weights: str
    other_weights: str | None
    changes: Sequence[str]
    classes_from: str
    report: SettingsReport


def import_checkpoint(
    path: str | Path,
    out: str | Path,
    config: Config,
    *,
    chosen: Collection[str] = (),
    class_names: Sequence[str] | None = None,
    ema: bool = True,
    overwrite: bool = False,
) -> Imported:
    """Write a checkpoint folder from a weights file of the original.

    Args:
        path: `.pth` or `.safetensors`.
        out: the folder.
        config: the preset it was trained with; sizes that the tensors show and settings that the configuration
            in the file states replace its own.
        chosen: keys of `config`, as "model.lora.alpha", that the file's configuration does not replace.
        class_names: None takes those the file names, else those of the preset's data set.
        ema: take averaged weights where the file has any.
        overwrite: replace a folder that exists.

    Raises:
        CheckpointError: damaged or unsafe file, another kind of model, another SAM, keys that are unknown,
            missing or of another shape, numbers that no model has, class names that none can have, or a
            configuration in the file that contradicts the tensors or is of a model that cannot be built.
        UsageError: such class names in `class_names`, or not as many as the model's classes; sizes of the preset
            that do not go with the file's; a preset without original.
        OutputError: the folder exists, or cannot be written.
    """
    path, out = Path(path), Path(out)
    kind = config.model.kind
    if kind not in TABLES:
        raise UsageError(
            f"{config.name}: the original has no model of the kind {kind}",
            "use a preset of " + ", ".join(sorted(TABLES)),
        )
    refuse_other_folder(out, overwrite=overwrite, inputs=[path])
    file = read_original_file(path, ema=ema)
    shapes = _shapes(file.tensors, kind, str(path))
    chosen = [key.removeprefix("model.") for key in chosen if key.startswith("model.")]
    stated = read_settings(file.config, shapes, chosen, check_classes=class_names is None)
    preset = complete_config(_with_stated_sam(config.model, file, chosen))
    fitted = fit_to_file(with_settings(preset, stated.values, chosen, str(path)), shapes)
    _compare(stated, fitted, chosen, str(path))
    tensors = _fitting(file, fitted.model, shapes.num_classes, str(path))
    names, source = _class_names(file, config, shapes.num_classes, class_names, path)
    # Checked as a whole, as it is when the folder is read.
    config = parse_config(config.model_copy(update={"model": fitted.model}).model_dump(mode="json"), str(path))
    report = report_settings(preset, fitted, file.config, stated, chosen)
    meta = _meta(config, names, file, path, report)
    write_checkpoint(out, tensors, config, meta)
    return Imported(out, config, meta, file.weights, file.other, fitted.changes, source, report)


def export_checkpoint(folder: str | Path, out: str | Path, *, overwrite: bool = False) -> int:
    """Write the weights of a checkpoint folder as a file that the original's code loads.

    Returns:
        how many tensors it holds.

    Raises:
        CheckpointError: no checkpoint folder, or a model that the original cannot build.
        UsageError: a name that does not end in .pth or .pt.
        OutputError: the file exists, or cannot be written.
    """
    if Path(out).name and Path(out).suffix not in (".pth", ".pt"):
        raise UsageError(f"{out}: the original's code reads .pth files", "give a name that ends in .pth")
    refuse_existing(out, overwrite=overwrite, inputs=[find_checkpoint(folder)])
    checkpoint = read_checkpoint(folder)
    model = checkpoint.config.model
    if isinstance(model, SamModelConfig) and isinstance(model.sam_arch, TinyVitArch):
        raise CheckpointError(f"{folder}: its encoder is a TinyViT, which the original's code does not have")
    tensors = original_tensors(
        _whole(checkpoint), kind=model.kind, spelling=_spelling(checkpoint), origin=checkpoint.name
    )
    meta = {"dataset_meta": {"classes": list(checkpoint.meta.class_names)}, "exported_by": "rsp checkpoint export"}
    with atomic_path(out) as temporary:
        save_pickle({"meta": meta, "state_dict": OrderedDict(tensors)}, temporary, target=Path(out))
    return len(tensors)


def merge_checkpoint(folder: str | Path, out: str | Path, *, overwrite: bool = False) -> int:
    """Write a checkpoint folder in which the adapters are folded into the weights they stand on.

    Returns:
        how many adapters were folded.

    Raises:
        CheckpointError: no checkpoint folder, or a model without adapters.
        OutputError: the folder exists, or cannot be written.
    """
    refuse_other_folder(out, overwrite=overwrite, inputs=[find_checkpoint(folder)])
    loaded = load_model(folder)
    count = merge_lora(loaded.model)
    if not count:
        raise CheckpointError(f"{folder}: has no adapters (LoRA) to merge", "use it as it is")
    config = loaded.config.model_copy(update={"model": merged_config(loaded.config.model)})
    provenance = {**loaded.meta.provenance, "merged_adapters": count}
    provenance.pop(_SPELLING, None)
    write_checkpoint(out, loaded.model.state_dict(), config, replace(loaded.meta, provenance=provenance))
    return count


def _shapes(tensors: Mapping[str, Tensor], kind: str, origin: str) -> OriginalShapes:
    """The shapes of a file of that kind of model.

    Raises:
        CheckpointError: it holds another kind, or none.
    """
    found = find_kind(tensors)
    if found != kind:
        mismatch = (
            f"contains a {found} model, the preset describes a {kind} model"
            if found
            else "contains no model of the original"
        )
        hint = f"use a preset of {found}" if found else ""
        raise CheckpointError(f"{origin}: {mismatch}", hint)
    shapes = shapes_of(tensors)
    names = rename_keys(tensors, kind=kind, lora=False)
    plain = {without_adapter_prefix(key, kind): shape for key, shape in shapes.items()}
    return OriginalShapes(plain, {names[key]: shapes[key] for key in names}, kind, origin)


def _with_stated_sam(model: ModelConfig, file: OriginalFile, chosen: Collection[str]) -> ModelConfig:
    """The preset's model with the SAM that the file's configuration names."""
    stated = stated_sam(file.config)
    known = isinstance(model, SamModelConfig) and model.sam_arch is None and model.sam in KNOWN_SAM
    if stated is None or not known or is_chosen("sam", chosen):
        return model
    return model.model_copy(update={"sam": stated.value})


def _compare(stated: StatedSettings, fitted: Fitted, chosen: Collection[str], origin: str) -> None:
    """Raise CheckpointError where the file's configuration states a size that its tensors do not have."""
    for key, found in fitted.read_off.items():
        entry = stated.values.get(key)
        if entry is not None and not is_chosen(key, chosen) and not same(entry.value, found):
            raise CheckpointError(
                f"{origin}: its configuration sets model.{key} to {entry.value} in model.{entry.path}, "
                f"its tensors to {found}",
                f"if the tensors are right, pass --set model.{key}={found}",
            )


def _class_names(
    file: OriginalFile, config: Config, count: int, named: Sequence[str] | None, path: Path
) -> tuple[tuple[str, ...], str]:
    """The names of `count` classes and where they come from."""
    if named is not None:
        _check_named(named, count, path)
        return tuple(named), "--classes"
    if file.class_names is not None and len(file.class_names) == count:
        fault = unsound_name(file.class_names)
        if fault is not None:
            raise CheckpointError(f"{path}: its class names cannot be used: {fault}", "give them with --classes a,b,c")
        return file.class_names, "the file"
    named_by_config = file.config.class_names()
    if named_by_config is not None and len(named_by_config) == count and unsound_name(named_by_config) is None:
        return named_by_config, "the file's configuration"
    data_set = file.config.data_set()
    known = classes_of_data_set(data_set)
    if known is not None and len(known) == count:
        return known, f"the data set {data_set} of the file's configuration"
    known = classes_of_preset(config.name)
    if known is not None and len(known) == count:
        return known, f"the data set of {config.name}"
    known_count = "" if known is None else f", the preset's data set has {len(known)}"
    raise UsageError(
        f"{path}: contains a model of {plural(count, 'class', 'classes')}{known_count}",
        "give their names with --classes a,b,c",
    )


def _check_named(names: Sequence[str], count: int, path: Path) -> None:
    """Raise UsageError for names that are not those of `count` classes."""
    hint = "give each class once, in the order of the category ids of the training"
    fault = unsound_name(names)
    if fault is not None:
        raise UsageError(f"--classes: {fault}", hint)
    if len(names) != count:
        raise UsageError(
            f"--classes has {plural(len(names), 'name')}, {path} contains a model of {count}",
            hint,
        )


def _meta(
    config: Config, names: tuple[str, ...], file: OriginalFile, path: Path, report: SettingsReport
) -> CheckpointMeta:
    model: Any = config.model
    spelling = find_spelling(file.tensors)
    return CheckpointMeta(
        class_names=names,
        category_ids=tuple(range(1, len(names) + 1)),
        image_size=model.image_size,
        sam={"name": model.sam, "weights": "of the imported file"},
        versions=package_versions(),
        git_commit=code_commit(),
        provenance={
            "imported": path.name,
            "imported_sha256": file_sha256(path),
            "imported_weights": file.weights,
            _SPELLING: {"mmpretrain": spelling.mmpretrain, "base_layer": spelling.base_layer},
            **{f"original_{key}": value for key, value in file.facts.items()},
            **report.facts(),
        },
    )


def _fitting(file: OriginalFile, model: ModelConfig, num_classes: int, origin: str) -> dict[str, Tensor]:
    """The file's tensors in the order, the precision and under the names of the model, strictly its own."""
    kind = model.kind
    outline = _outline(model, num_classes, origin)
    needed = original_tensors(outline, kind=kind, spelling=find_spelling(file.tensors), origin="the preset")
    optional = [key for key in TABLES[kind].copies if key not in file.tensors]
    for key in optional:
        needed.pop(key, None)
    # Compared under the file's names, which its reader can look up.
    sizes, found = shapes_of(needed), shapes_of(file.tensors)
    check_keys(sizes, found, origin, hint=size_hint(sizes, found))
    check_values(needed, file.tensors, origin)
    tensors = our_tensors(file.tensors, kind=kind, lora=_has_adapters(model), origin=origin)
    return {key: tensors[key].to(value.dtype) for key, value in outline.items()}


def _outline(model: ModelConfig, num_classes: int, origin: str) -> dict[str, Tensor]:
    """The tensors of a model, with shapes and without memory."""
    try:
        with torch.device("meta"):
            outline: dict[str, Tensor] = build_model(model, num_classes=num_classes).state_dict()
    except UsageError as error:
        raise UsageError(f"{origin}: with the sizes of its tensors, {error.message}", error.hint) from error
    return outline


def _has_adapters(model: ModelConfig) -> bool:
    return isinstance(model, TrainedSamConfig) and model.encoder == "lora"


def _whole(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """A checkpoint's tensors, in full precision."""
    tensors = checkpoint.tensors()
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def _spelling(checkpoint: Checkpoint) -> Spelling:
    """As the model was imported, else as the original's code builds one of these sizes."""
    model = checkpoint.config.model
    lora = _has_adapters(model)
    stored = checkpoint.meta.provenance.get(_SPELLING)
    if isinstance(stored, Mapping) and set(stored) == {"mmpretrain", "base_layer"}:
        return Spelling(bool(stored["mmpretrain"]), lora, bool(stored["base_layer"]))
    arch = model.sam_arch if isinstance(model, SamModelConfig) else None
    resized = arch is not None and model.image_size != arch.pretrained_image_size
    return Spelling(mmpretrain=lora or resized, peft=lora, base_layer=lora)
