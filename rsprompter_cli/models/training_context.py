"""What a training step knows beyond its pictures: where chance comes from, and what losses are divided by.

A model draws by `draw` and `uniform` and divides by `rank_mean` only. Outside of `training_step` chance is torch's
default generator and a count is what it is. Within, each picture has generators of its own, so that what is drawn for
it depends neither on its neighbours in the batch nor on the process that it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

Draw = Callable[[Sequence[int], tuple[int, ...], torch.device], Tensor]
"""Uniform draws from [0, 1), float32 [len(images), *shape] on a device, from (image of each row, shape, device)."""


@dataclass(frozen=True, eq=False)
class _Step:
    seeds: Sequence[int]
    mean: Callable[[Tensor], Tensor]
    generators: dict[tuple[int, torch.device], torch.Generator] = field(default_factory=dict)


_STEP: ContextVar[_Step | None] = ContextVar("training step", default=None)


@contextmanager
def training_step(seeds: Sequence[int], mean: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block models draw and divide as given here.

    Args:
        seeds: of the chance of each picture of the batch, 0 .. 2**63 - 1.
        mean: mean of a float tensor over all processes; it is called equally often in each of them.
    """
    token = _STEP.set(_Step(seeds, mean))
    try:
        yield
    finally:
        _STEP.reset(token)


def draw(count: int, most: int | None, device: torch.device, *, image: int) -> Tensor:
    """Choose at most `most` of `count` things at random.

    Chance is a generator on the CPU, whatever the device, so that one seed gives one choice everywhere. It
    is asked only when there are more than `most`.

    Args:
        count: things there are.
        most: things to choose at most; None: all.
        device: of the result.
        image: of the batch, for which it is drawn.

    Returns:
        their indices, int64; ascending where all are taken.
    """
    if most is None or count <= most:
        return torch.arange(count, device=device)
    return permutation(count, image=image)[:most].to(device)


def permutation(count: int, *, image: int) -> Tensor:
    """A random order of `count` things for an image of the batch, int64 on the CPU."""
    return torch.randperm(count, generator=_generator(image, torch.device("cpu")))


def random_seed(*, image: int) -> int:
    """A random number 0 .. 2**62 - 1 for an image of the batch."""
    return int(torch.randint(2**62, (), generator=_generator(image, torch.device("cpu"))))


def uniform(images: Sequence[int], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform draws for each row of a batch; see `Draw`.

    Args:
        images: the image of the batch that each row belongs to, rows of one image together.
    """
    if _STEP.get() is None:
        return torch.rand((len(images), *shape), device=device)
    parts = [
        torch.rand((len(list(rows)), *shape), device=device, generator=_generator(image, device))
        for image, rows in groupby(images)
    ]
    return torch.cat(parts) if parts else torch.rand((0, *shape), device=device)


def rank_mean(count: float | Tensor, like: Tensor) -> Tensor:
    """What a sum over a batch is divided by: the mean of `count` over all processes, itself where there is one.

    Every process must come by here equally often in a step, whatever its pictures hold.

    Args:
        count: a number, or a float32 scalar on the device.
        like: gives the device.

    Returns:
        float32 scalar; 1 where all processes count nothing, since then there is nothing to divide.
    """
    step = _STEP.get()
    # Not torch.tensor, which would make a GPU wait.
    value = count if isinstance(count, Tensor) else torch.full((), float(count), device=like.device)
    if step is not None:
        value = step.mean(value)
    return torch.where(value > 0, value, torch.ones_like(value))


def _generator(image: int, device: torch.device) -> torch.Generator | None:
    """The generator of an image of the batch; None for torch's own."""
    step = _STEP.get()
    if step is None:
        return None
    key = (image, device)
    if key not in step.generators:
        step.generators[key] = torch.Generator(device).manual_seed(step.seeds[image])
    return step.generators[key]
