"""The pictures a model did worst and best on, truth beside detections."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsprompter_cli.draw.overlays import draw_instances, side_by_side
from rsprompter_cli.errors import OutputError
from rsprompter_cli.io.atomic import atomic_folder

if TYPE_CHECKING:
    from PIL import Image

    from rsprompter_cli.evaluate.coco import Evaluation

_DEFAULT_THRESHOLD = 0.5
"""Where no detection was right there is no best threshold."""

_OWN_NAME = re.compile(r"(worst|best)_\d{2,}_\d\.\d{2,3}_.*\.png", re.DOTALL)


def require_replaceable(folder: str | Path) -> None:
    """Refuse a folder that a gallery must not replace, because it holds other things than a gallery.

    Raises:
        OutputError: names the first thing that is not a picture of a gallery.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder", "choose another --show-dir")
    foreign = sorted(path.name for path in folder.iterdir() if not (_OWN_NAME.fullmatch(path.name) and path.is_file()))
    if foreign:
        raise OutputError(
            f"{folder} contains {foreign[0]!r}, which is not an image of a gallery: the folder is not replaced",
            f"choose a separate folder, for example --show-dir {folder / 'show'}",
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
                names.append(f"{word}_{rank:02d}_{f1:.3f}_{stem}.png")
                picture.save(temporary / names[-1], format="PNG")
    return names


def _draw(evaluation: Evaluation, image_id: int, f1: float) -> tuple[Image.Image, str]:
    """Truth and detections of one picture side by side, and the stem of its file name."""
    dataset = evaluation.dataset
    index = next(i for i, image in enumerate(dataset.coco.images) if image.id == image_id)
    return draw_beside_truth(evaluation, index, words=f"F1 {f1:.2f}"), Path(dataset.paths[index]).stem


def draw_beside_truth(
    evaluation: Evaluation, index: int, *, words: str = "", longest: int | None = None
) -> Image.Image:
    """Truth and detections of a picture side by side.

    Args:
        index: of the picture in the data set.
        words: added to the line above the detections.
        longest: pixels of the longer side up to which pictures are drawn; larger ones are reduced first.
    """
    from pycocotools import mask as coco_mask

    dataset, metrics = evaluation.dataset, evaluation.metrics
    pixels, target, image_id = dataset[index]
    image = pixels.permute(1, 2, 0).numpy()
    threshold = _DEFAULT_THRESHOLD if metrics.score_threshold is None else metrics.score_threshold
    found: list[Mapping[str, Any]] = [
        result for result in evaluation.results if result["image_id"] == image_id and result["score"] >= threshold
    ]
    true_masks = [mask.numpy() for mask in target.masks]
    masks = [coco_mask.decode(result["segmentation"]).astype(bool) for result in found]
    if longest is not None and max(image.shape[:2]) > longest:
        size = [max(1, round(side * longest / max(image.shape[:2]))) for side in image.shape[:2]]
        image = _reduced(image, size)
        true_masks, masks = ([_reduced(mask, size) for mask in some] for some in (true_masks, masks))
    names = [""] * (max(dataset.labels.values()) + 1)
    for category in dataset.coco.categories:
        names[dataset.labels[category.id]] = category.name
    title = f"ground truth: {dataset.coco.images[index].file_name}"
    truth = draw_instances(image, true_masks, target.labels.tolist(), None, names, title=title)
    detected = draw_instances(
        image,
        masks,
        [dataset.labels[result["category_id"]] for result in found],
        [result["score"] for result in found],
        names,
        title=f"detections (score >= {threshold:.2f})" + (f": {words}" if words else ""),
    )
    return side_by_side([truth, detected])


def _reduced(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A picture, uint8 [H, W, 3], or a mask, bool [H, W], at the (height, width) `size`."""
    from PIL import Image

    is_mask = image.dtype == bool
    picture = Image.fromarray(image.astype(np.uint8) * 255 if is_mask else image)
    smaller = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BOX))
    return smaller >= 128 if is_mask else smaller
