"""The order of training images: a function of (seed, epoch), so that a resumed run continues it.

All ranks of a run share one order. A batch of the run is `batch_size` pictures for each rank, in rank order; the last
batch of an epoch may be smaller, and its last ranks may get none: they are lent a picture that does not count.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from rsprompter_cli.data.dataset import CocoDataset, Item, Parcel, pack, unpack
from rsprompter_cli.errors import RspError
from rsprompter_cli.structures import Batch


class EpochBatches(Sampler[list[int]]):
    """All pictures once per epoch, shuffled by (seed, epoch).

    `begin` names the epoch and how much of it is done when the next iteration begins.

    Args:
        length: pictures in all.
        batch_size: of each rank.
        rank, ranks: whose part of each batch is given.
    """

    def __init__(self, length: int, batch_size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self._length = length
        self._own = batch_size
        self._whole = batch_size * ranks
        self._rank = rank
        self._seed = seed
        self._epoch = 0
        self._done = 0

    def begin(self, epoch: int, done: int = 0) -> None:
        """The next iteration gives the batches of `epoch` after its first `done` pictures."""
        self._epoch, self._done = epoch, done

    def __len__(self) -> int:
        return len(self.sizes(self._done))

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._length).tolist()
        for first in range(self._done, self._length, self._whole):
            whole = order[first : first + self._whole]
            own = whole[self._rank * self._own : (self._rank + 1) * self._own]
            yield own or whole[:1]

    def sizes(self, done: int = 0) -> list[int]:
        """How many pictures each batch of an epoch holds, all ranks together, after its first `done` pictures."""
        return [min(self._whole, self._length - first) for first in range(done, self._length, self._whole)]

    def own(self, size: int) -> int:
        """How many pictures of a batch of that size count for this rank."""
        return min(max(size - self._rank * self._own, 0), self._own)


class BatchSource(Protocol):
    """What a run trains on, as one of its ranks sees it; see `EpochLoader`."""

    def epoch(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """This rank's batches of `epoch` after its first `done` pictures."""

    def sizes(self, done: int = 0) -> list[int]:
        """How many pictures each batch of an epoch holds, all ranks together, after its first `done` pictures."""

    def own(self, size: int) -> int:
        """How many pictures of a batch of that size count for this rank."""

    def own_pictures(self) -> int:
        """How many pictures of an epoch this rank sees, those that it is only lent included."""


class EpochLoader:
    """The batches of one epoch after the other, read and augmented by `workers` processes.

    The workers outlive an epoch. Neither order nor augmentation depends on their number.

    Args:
        batch_size: pictures of each rank and batch.
        views: augmented views of each picture that take turns epoch by epoch; 0: a new one each epoch.
        rank, ranks: whose part of each batch is read.
        context: how processes start, None for the system's way; `spawn` is that of Windows and macOS.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        *,
        batch_size: int,
        seed: int,
        workers: int,
        views: int = 0,
        rank: int = 0,
        ranks: int = 1,
        context: str | None = None,
    ) -> None:
        self._dataset = dataset
        self._views = views
        self._batches = EpochBatches(len(dataset), batch_size, seed=seed, rank=rank, ranks=ranks)
        self._loader: DataLoader[Any] = DataLoader(
            _ErrorsAsItems(dataset),
            batch_sampler=self._batches,
            num_workers=workers,
            collate_fn=_pack,
            persistent_workers=workers > 0,
            # A run on a GPU has it at work by now, and copies from pinned memory while it computes.
            pin_memory=torch.cuda.is_initialized(),
            worker_init_fn=_leave_signals_to_the_parent if workers else None,
            multiprocessing_context=context if workers else None,
            # Its own generator: the default would draw from the model's at every epoch.
            generator=torch.Generator().manual_seed(seed),
        )

    def epoch(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """This rank's batches of `epoch` after its first `done` pictures.

        Raises:
            InputError: a picture cannot be read.
        """
        self._dataset.set_epoch(epoch % self._views if self._views else epoch)
        self._batches.begin(epoch, done)
        for parcel in self._loader:
            if isinstance(parcel, RspError):
                raise parcel
            yield unpack(parcel)

    def sizes(self, done: int = 0) -> list[int]:
        """How many pictures each batch of an epoch holds, all ranks together, after its first `done` pictures."""
        return self._batches.sizes(done)

    def own(self, size: int) -> int:
        """How many pictures of a batch of that size count for this rank."""
        return self._batches.own(size)

    def own_pictures(self) -> int:
        """How many pictures of an epoch this rank sees, those that it is only lent included."""
        return sum(max(self.own(size), 1) for size in self.sizes())


def picture_seeds(seed: int, epoch: int, image_ids: Sequence[int]) -> list[int]:
    """Seeds of what a model draws for each picture, 0 .. 2**63 - 1."""
    texts = (f"{seed} {epoch} {image_id}".encode() for image_id in image_ids)
    return [int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1 for text in texts]


class _ErrorsAsItems(Dataset[Item | RspError]):
    """A data set whose errors are values: a worker would wrap them in its own traceback."""

    def __init__(self, dataset: CocoDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> Item | RspError:
        try:
            return self._dataset[index]
        except RspError as error:
            return error


def _pack(items: Sequence[Item | RspError]) -> Parcel | RspError:
    for item in items:
        if isinstance(item, RspError):
            return item
    return pack([item for item in items if not isinstance(item, RspError)])


def _leave_signals_to_the_parent(_worker: int) -> None:
    # Ctrl-C reaches the whole process group; the parent finishes its step and needs its workers for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
