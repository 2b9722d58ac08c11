"""The pictures a model did worst and best on, truth beside detections."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsprompter_cli.draw.overlays import draw_instances, side_by_side
from rsprompter_cli.errors import OutputError
from rsprompter_cli.io.atomic import atomic_folder

if TYPE_CHECKING:
    from PIL import Image

    from rsprompter_cli.evaluate.coco import Evaluation

_DEFAULT_THRESHOLD = 0.5
"""Where no detection was right there is no best threshold."""

_OWN_NAME = re.compile(r"(worst|best)_\d{2,}_\d\.\d\d_.*\.png", re.DOTALL)


def require_replaceable(folder: str | Path) -> None:
    """Refuse a folder that a gallery must not replace, because it holds other things than a gallery.

    Raises:
        OutputError: names the first thing that is not a picture of a gallery.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder", "name another --show-dir")
    foreign = sorted(path.name for path in folder.iterdir() if not (_OWN_NAME.fullmatch(path.name) and path.is_file()))
    if foreign:
        raise OutputError(
            f"{folder} holds {foreign[0]!r}, which is no picture of a gallery: the folder is not replaced",
            f"name a folder of its own, for instance --show-dir {folder / 'show'}",
        )


def save_gallery(folder: str | Path, evaluation: Evaluation, *, count: int) -> list[str]:
    """Write `worst_RANK_F1_NAME.png` and `best_...` for up to `count` pictures each, in one new folder.

    An older gallery there is replaced. Pictures are ranked by their F1 at mask IoU .5; those with
    neither object nor detection are left out, and none is both among the worst and the best.

    Returns:
        The file names.

    Raises:
        OutputError: the folder holds anything else, or cannot be written.
    """
    require_replaceable(folder)
    ranked = sorted(evaluation.metrics.image_f1.items(), key=lambda item: (item[1], item[0]))
    worst = ranked[:count]
    best = ranked[len(worst) :][::-1][:count]
    names = []
    with atomic_folder(folder) as temporary:
        for word, chosen in (("worst", worst), ("best", best)):
            for rank, (image_id, f1) in enumerate(chosen, start=1):
                picture, stem = _draw(evaluation, image_id, f1)
                names.append(f"{word}_{rank:02d}_{f1:.2f}_{stem}.png")
                picture.save(temporary / names[-1], format="PNG")
    return names


def _draw(evaluation: Evaluation, image_id: int, f1: float) -> tuple[Image.Image, str]:
    """Truth and detections of one picture side by side, and the stem of its file name."""
    from pycocotools import mask as coco_mask

    dataset, metrics = evaluation.dataset, evaluation.metrics
    index = next(i for i, image in enumerate(dataset.coco.images) if image.id == image_id)
    pixels, target, _ = dataset[index]
    image = pixels.permute(1, 2, 0).numpy()
    threshold = _DEFAULT_THRESHOLD if metrics.score_threshold is None else metrics.score_threshold
    found: list[Mapping[str, Any]] = [
        result for result in evaluation.results if result["image_id"] == image_id and result["score"] >= threshold
    ]
    names = [""] * (max(dataset.labels.values()) + 1)
    for category in dataset.coco.categories:
        names[dataset.labels[category.id]] = category.name
    file_name = dataset.coco.images[index].file_name
    truth = draw_instances(image, target.masks, target.labels.tolist(), None, names, title=f"truth: {file_name}")
    detected = draw_instances(
        image,
        [coco_mask.decode(result["segmentation"]).astype(bool) for result in found],
        [dataset.labels[result["category_id"]] for result in found],
        [result["score"] for result in found],
        names,
        title=f"found (score >= {threshold:.2f}): F1 {f1:.2f}",
    )
    return side_by_side([truth, detected]), Path(file_name).stem
