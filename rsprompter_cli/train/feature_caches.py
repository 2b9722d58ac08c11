"""SAM outputs that a run caches on disk: their folder, their size, their removal."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from rsprompter_cli.config import AugmentConfig
from rsprompter_cli.data.transforms import train_transform
from rsprompter_cli.errors import OutputError, TrainingError, bytes_words, plural, shown_path
from rsprompter_cli.io.atomic import free_bytes
from rsprompter_cli.models.architectures.samcls import SamCls
from rsprompter_cli.models.sam.encoder_cache import EncoderCache, KeepsEncoderMaps
from rsprompter_cli.models.sam.mask_cache import AutomaskCache

_log = logging.getLogger(__name__)


def keep_encoder_maps(
    model: nn.Module,
    folder: Path,
    *,
    train_images: int,
    views: int,
    val_images: int,
    image_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Let the model keep the maps of its frozen encoder in `folder`, when there is room for them.

    Args:
        views: views of each training picture that the run will show.
        image_size: side of the model's input, pixels.

    Raises:
        OutputError: the disk is too small for the maps that are still to be written.
    """
    if not isinstance(model, KeepsEncoderMaps):
        raise ValueError(f"a {type(model).__name__} does not cache encoder maps")
    encoder = model.get_submodule("encoder")
    cache = EncoderCache(folder, encoder, device=device, dtype=dtype)
    each = cache.measure(encoder, image_size)
    total = each * (train_images * views + val_images)
    # Maps of other runs in a shared folder count as ours: better to begin in vain than to refuse in vain.
    missing = max(0, total - cache.stored_bytes())
    free = free_bytes(folder)
    _log.info(
        "features of the frozen encoder: about %s in %s, %s still to write, %s free",
        bytes_words(total),
        shown_path(folder),
        bytes_words(missing),
        bytes_words(free),
    )
    if missing > free:
        raise OutputError(
            f"{folder}: encoder maps need {bytes_words(missing)} more, the disk has {bytes_words(free)} free",
            "free disk space, choose another train.cache_folder, or lower train.cache_views (0 keeps no maps)",
        )
    model.encoder_cache = cache


def keep_automatic_masks(
    model: SamCls, folder: Path, *, augment: AugmentConfig, device: torch.device, dtype: torch.dtype
) -> None:
    """Let SAM-cls keep the masks of pictures in `folder`, and augment the crops that it makes of them.

    Args:
        augment: flips, turns and colours; the crop's own size takes the place of the large-scale jitter.
    """
    model.mask_cache = AutomaskCache(folder, model.segmenter, model.automask, device=device, dtype=dtype)
    model.crop_transform = train_transform(
        **(augment.model_dump() | {"image_size": model.crop_size, "scale": (1.0, 1.0)})
    )
    _log.info("automatic masks are computed once per image and cached in %s", folder)


def cache_of(model: nn.Module) -> EncoderCache | AutomaskCache | None:
    """Where a model keeps what SAM answers, None where it does not."""
    if isinstance(model, SamCls):
        return model.mask_cache
    return model.encoder_cache if isinstance(model, KeepsEncoderMaps) else None


def require_masks(model: nn.Module, train_images: int, own_images: int, everywhere: Callable[[bool], bool]) -> None:
    """Refuse to continue with SAM-cls when SAM found no mask in any image.

    Args:
        train_images: pictures of an epoch.
        own_images: those that this process sees; if it resumed it has not seen all of them at its first end.
        everywhere: whether something is so in all processes.

    Raises:
        TrainingError: its classifier has nothing to learn from.
    """
    if not isinstance(model, SamCls) or model.mask_cache is None:
        return
    cache = model.mask_cache
    if everywhere(cache.given == 0 and cache.hits + cache.misses >= own_images):
        raise TrainingError(
            f"SAM found no mask in {plural(train_images, 'training image')}: the classifier has nothing to learn from",
            "use another SAM (--sam), or lower model.automask.min_predicted_iou or min_stability",
        )


def remove_maps(folder: Path) -> None:
    """Remove the maps or masks of a run that no longer needs them."""
    if not folder.is_dir():
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        _log.warning("%s is no longer needed and cannot be removed: %s", folder, error)
