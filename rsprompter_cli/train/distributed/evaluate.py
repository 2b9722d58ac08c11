"""The evaluation of a checkpoint by the processes that a launcher started, or by this one alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from rsprompter_cli.evaluate.coco import Evaluation, Part, detect_part, evaluate_results, open_split
from rsprompter_cli.io.exchange import stop_file
from rsprompter_cli.models.precision import resolve_device, resolve_precision
from rsprompter_cli.structures import Progress
from rsprompter_cli.train.distributed.processes import joined
from rsprompter_cli.train.distributed.rank import find_place
from rsprompter_cli.train.interrupts import StopRequest


def evaluate_together(
    checkpoint: str | Path,
    data: str | Path,
    split: str,
    *,
    batch: int,
    device: str = "auto",
    precision: str = "auto",
    oracle: bool = False,
    image_folder: str | None = None,
    crowds_are_objects: bool | None = None,
    on_progress: Progress = lambda _done, _all: None,
) -> Evaluation | None:
    """As `evaluate_coco`; each process takes a part of the batches, rank 0 scores what all of them found.

    The batches are those of one process, and so are the figures.

    Args:
        on_progress: called for this process's own part.

    Returns:
        The evaluation in rank 0, None in the others.

    Raises:
        KeyboardInterrupt: the process that started this one was asked to end.
        TrainingError: another process ended.
        RspError: as `evaluate_coco`, and where processes cannot meet or have no GPU.
    """
    kind = resolve_device(device)
    place = find_place()
    with joined(place, kind) as ranks:
        where = ranks.device(kind)
        loaded, dataset = open_split(
            checkpoint,
            data,
            split,
            device=where,
            image_folder=image_folder,
            crowds_are_objects=crowds_are_objects,
            oracle=oracle,
        )
        # A process alone ends at a signal at once.
        own = None if place is None else StopRequest(file=stop_file(), answer="stopping the evaluation")
        with nullcontext() if own is None else own as stop:
            found: Part = detect_part(
                loaded.model,
                dataset,
                batch=batch,
                device=where,
                dtype=resolve_precision(precision, where),
                part=ranks.rank,
                parts=ranks.count,
                oracle=oracle,
                on_progress=_watched(on_progress, stop),
            )
        parts = ranks.gather(found)
        return evaluate_results(dataset, parts) if ranks.first else None


def _watched(on_progress: Progress, stop: StopRequest | None) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        on_progress(done, total)
        if stop is not None and stop.wanted:
            raise KeyboardInterrupt

    return progress
