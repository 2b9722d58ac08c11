"""The order of training pictures: a function of (seed, epoch), so that a resumed run goes on in it."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from rsprompter_cli.data.collate import collate
from rsprompter_cli.data.dataset import CocoDataset, Item
from rsprompter_cli.errors import RspError
from rsprompter_cli.structures import Batch


class EpochBatches(Sampler[list[int]]):
    """All pictures once per epoch, shuffled by (seed, epoch); the last batch may be smaller.

    `begin` names the epoch and the first batch that the next iteration gives.
    """

    def __init__(self, length: int, batch_size: int, *, seed: int) -> None:
        self._length = length
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._start = 0

    def begin(self, epoch: int, start: int = 0) -> None:
        """The next iteration gives the batches of `epoch` from number `start` on."""
        self._epoch, self._start = epoch, start

    def __len__(self) -> int:
        return len(self.sizes()) - self._start

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._length).tolist()
        for first in range(self._start * self._batch_size, self._length, self._batch_size):
            yield order[first : first + self._batch_size]

    def sizes(self) -> list[int]:
        """How many pictures each batch of a whole epoch holds."""
        return [min(self._batch_size, self._length - first) for first in range(0, self._length, self._batch_size)]


class EpochLoader:
    """The batches of one epoch after the other, read and augmented by `workers` processes.

    The workers outlive an epoch. Neither order nor augmentation depends on their number.

    Args:
        views: augmented views of each picture that take turns epoch by epoch; 0: a new one each epoch.
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
        context: str | None = None,
    ) -> None:
        self._dataset = dataset
        self._views = views
        self._batches = EpochBatches(len(dataset), batch_size, seed=seed)
        self._loader: DataLoader[Any] = DataLoader(
            _Told(dataset),
            batch_sampler=self._batches,
            num_workers=workers,
            collate_fn=_collate,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_to_the_parent if workers else None,
            multiprocessing_context=context if workers else None,
            # Its own generator: the default would draw from the model's at every epoch.
            generator=torch.Generator().manual_seed(seed),
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on.

        Raises:
            InputError: a picture cannot be read.
        """
        self._dataset.set_epoch(epoch % self._views if self._views else epoch)
        self._batches.begin(epoch, start)
        for batch in self._loader:
            if isinstance(batch, RspError):
                raise batch
            yield batch

    def sizes(self) -> list[int]:
        """How many pictures each batch of an epoch holds."""
        return self._batches.sizes()


class _Told(Dataset[Item | RspError]):
    """A data set whose errors are values: a worker would wrap them in its own traceback."""

    def __init__(self, dataset: CocoDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> Item | RspError:
        try:
            return self._dataset[index]
        except RspError as error:
            return error


def _collate(items: Sequence[Item | RspError]) -> Batch | RspError:
    for item in items:
        if isinstance(item, RspError):
            return item
    return collate([item for item in items if not isinstance(item, RspError)])


def _leave_signals_to_the_parent(_worker: int) -> None:
    # Ctrl-C reaches the whole process group; the parent finishes its step and needs its workers for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
