"""A look at the fit that is to be resumed, before PyTorch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsprompter_cli.io.model_files.checkpoint import META_FILE, read_checkpoint
from rsprompter_cli.train.finetune.record import FitResult, read_record, result_of, run_folder, wishes_of
from rsprompter_cli.train.run_folder import refuse_used_folder


def check_resume(
    pairs: Sequence[tuple[str | Path, str | Path]], out: Path, *, model: str | None = None, **asked: Any
) -> FitResult | None:
    """The result of a fit that has finished, None for one that can go on.

    Args:
        pairs, model, asked: see `fit`.

    Raises:
        TrainingError: no run there, or a damaged record.
        UsageError: the run began with other arguments.
        OutputError: another process uses it.
        CheckpointError: the model that it began with is missing or damaged.
    """
    wishes, run = wishes_of(pairs, model=model, **asked), run_folder(out)
    record = read_record(run)
    wishes.require_fitting(record.wishes)
    if record.result is not None and record.result["finished"] and (out / META_FILE).is_file():
        return replace(result_of(record.result), out=out, run=run, already_finished=True)
    refuse_used_folder(run)
    read_checkpoint(record.wishes.start)
    return None
