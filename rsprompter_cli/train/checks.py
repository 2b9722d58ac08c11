"""What a training refuses before PyTorch is imported, which takes seconds: missing data, weights and runs."""

from __future__ import annotations

from pathlib import Path

from rsprompter_cli.config import KNOWN_SAM, Config, SamModelConfig
from rsprompter_cli.data.images import find_annotations
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from rsprompter_cli.io.network.hub import find_sam
from rsprompter_cli.models.complete_config import complete_config
from rsprompter_cli.train.run_folder import check_cache_folder, check_folder, refuse_used_folder, require_state


def check_training(
    config: Config, *, data: str | Path, load_from: str | None, random_sam: bool, resume: bool = False
) -> None:
    """Look at the data set and the first weights, as far as their names and headers decide.

    Args:
        resume: the weights are those of the run.

    Raises:
        UsageError: sizes that no such model has, or prompts that its SAM does not know.
        InputError: a split has no annotation file.
        CheckpointError: the weights to start from are missing or damaged.
        OutputError: no file can be written to train.cache_folder.
    """
    check_cache_folder(config)
    for split in ("train", config.data.val_split):
        find_annotations(data, split)
    if isinstance(config.model, SamModelConfig) and config.model.sam in KNOWN_SAM:
        complete_config(config.model)
    if load_from is not None:
        read_checkpoint(load_from)
    elif not (resume or random_sam) and isinstance(config.model, SamModelConfig) and config.model.sam in KNOWN_SAM:
        find_sam(config.model.sam)


def check_run(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Look at the run folder.

    Raises:
        OutputError: another process uses it, it contains a run that is neither to be resumed nor replaced, or
            something else is in the place of a file or folder of a run.
        TrainingError: there is no run to resume, or its log is damaged.
    """
    refuse_used_folder(out)
    check_folder(out, resume=resume, overwrite=overwrite)
    if resume:
        require_state(out)
