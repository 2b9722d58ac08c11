"""Ground truth drawn on its pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from rsprompter_cli.data.coco.entries import CocoImage
from rsprompter_cli.data.coco.read import CocoFile
from rsprompter_cli.data.dataset import CocoDataset
from rsprompter_cli.draw.overlays import draw_instances
from rsprompter_cli.errors import OutputError, plural
from rsprompter_cli.io.atomic import atomic_paths, refuse_existing
from rsprompter_cli.structures import Progress


def show_images(
    coco: CocoFile,
    root: str | Path,
    out: str | Path,
    *,
    count: int = 8,
    image_folder: str | None = None,
    overwrite: bool = False,
    on_picture: Progress | None = None,
) -> list[Path]:
    """Write overlays of `count` images as `out/{image id}_{name}.png`.

    Images with objects are taken, evenly spread over the file; those without only when there are
    too few of the others.

    Raises:
        InputError: a picture that is missing or not what its entry says.
        OutputError: an overlay exists, or `out` is a file.
    """
    if Path(out).is_file():
        raise OutputError(f"{out} is a file", "--out must be a folder")
    chosen = spread(coco, count)
    part = CocoFile(coco.path, chosen, tuple(a for i in chosen for a in coco.by_image[i.id]), coco.categories)
    dataset = CocoDataset(part, root, image_folder=image_folder)
    pictures = zip(chosen, dataset.paths, strict=True)
    files = [Path(out) / f"{image.id}_{Path(picture).stem}.png" for image, picture in pictures]
    for file in files:
        refuse_existing(file, overwrite=overwrite)
    with atomic_paths(files) as temporary:
        for index, file in enumerate(temporary):
            _draw(part, dataset, index).save(file)
            if on_picture:
                on_picture(index + 1, len(chosen))
    return files


def _draw(coco: CocoFile, dataset: CocoDataset, index: int) -> Image.Image:
    """The overlay of a picture of the data set, which has the same pictures as the file."""
    image = coco.images[index]
    pixels, target, _ = dataset[index]
    crowds = sum(annotation.iscrowd for annotation in coco.by_image[image.id])
    title = f"{image.file_name}  {image.width} x {image.height}  {plural(len(target.labels), 'object')}"
    return draw_instances(
        pixels.permute(1, 2, 0).numpy(),
        list(target.masks),
        target.labels.tolist(),
        None,
        coco.class_names,
        title=title + (f", {plural(crowds, 'crowd')} not shown" if crowds else ""),
    )


def spread(coco: CocoFile, count: int) -> tuple[CocoImage, ...]:
    """At most `count` images, those with objects first, evenly spread over the file, in file order."""
    full = [image for image in coco.images if coco.by_image[image.id]]
    empty = [image for image in coco.images if not coco.by_image[image.id]]
    taken = [full[place * len(full) // count] for place in range(count)] if len(full) > count else full
    taken = taken + empty[: count - len(taken)]
    wanted = {image.id for image in taken}
    return tuple(image for image in coco.images if image.id in wanted)
