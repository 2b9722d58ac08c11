"""Forward, backward and the optimizer's step: one process alone, or several whose gradients torch's DDP averages.

This file, deepspeed.py, processes.py and launch.py are the only ones that know torch.distributed and deepspeed.
Everything above them speaks of batches, losses and rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rsprompter_cli.errors import TrainingError, UsageError, some
from rsprompter_cli.models.precision import autocast
from rsprompter_cli.models.training_context import training_step
from rsprompter_cli.structures import Batch, Target
from rsprompter_cli.train.distributed.processes import Ranks

_SMALLEST_SCALE = 1.0
"""Loss scale of float16 under which the gradients themselves must be infinite."""

Losses = Mapping[str, Tensor]


class TrainEngine(Protocol):
    """What trains a model. Every method but `rate` and `memory_bytes` is for all ranks together.

    model: as it was given, with its present weights within `whole`.
    """

    model: nn.Module
    device: torch.device
    dtype: torch.dtype

    def forward(
        self, batch: Batch, *, seeds: Sequence[int] | None = None, counts: bool = True, last: bool = True
    ) -> dict[str, Tensor]:
        """The scalar losses of this rank's batch, by name, with their graph.

        Args:
            seeds: of each picture's chance; None: torch's generator.
            counts: False for a batch that was only lent to this rank, whose pictures are another's.
            last: a step follows when its gradient is added.
        """

    def backward(self, losses: Losses, *, weight: float) -> None:
        """Add the gradient of `weight` times the sum of the losses."""

    def step(self, rate_factor: float) -> float:
        """Move the parameters at `rate_factor` times the base rate and clear the gradient.

        Returns:
            Norm of the gradient, mean over the ranks, before clipping.

        Raises:
            TrainingError: the gradient is not finite.
        """

    def whole(self) -> AbstractContextManager[None]:
        """Within it `model` holds all its weights in every rank, which are those of rank 0."""

    def rate(self) -> float:
        """The learning rate of the last step."""

    def memory_bytes(self) -> int | None:
        """Peak memory so far: of the GPU, else of this process; None if not available."""

    def state(self) -> dict[str, Any]:
        """What another engine of the same model, of any kind and on any number of ranks, needs to continue."""


class Engine:
    """One process on one device, or one of several that hold the same weights.

    Args:
        model: the network, already on `device`; its parameters stay float32 whatever the arithmetic.
        optimizer: over the parameters that train.
        dtype: arithmetic of the forward pass; float16 scales the loss.
        clip_grad: largest norm of the gradient over all parameters, None for no limit.
        ranks: the processes of the run; None: this one alone.
        mean: what normalisers of losses are averaged by, None: each rank divides by its own counts.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        dtype: torch.dtype,
        clip_grad: float | None,
        ranks: Ranks | None = None,
        mean: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.device = device
        self.dtype = dtype
        self._clip_grad = clip_grad
        self._mean = mean
        self._ranks = ranks or Ranks()
        self._base_rates = base_rates(optimizer)
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self._network = model if self._ranks.count == 1 else _wrapped(model, device)

    def forward(
        self, batch: Batch, *, seeds: Sequence[int] | None = None, counts: bool = True, last: bool = True
    ) -> dict[str, Tensor]:
        """See `TrainEngine.forward`."""
        if isinstance(self._network, DistributedDataParallel):
            # As its no_sync, which spans the forward and the backward pass.
            self._network.require_backward_grad_sync = last
        return forward(
            self._network, batch, device=self.device, dtype=self.dtype, seeds=seeds, counts=counts, mean=self._mean
        )

    def backward(self, losses: Losses, *, weight: float) -> None:
        """See `TrainEngine.backward`."""
        self._scaler.scale(total_loss(losses, weight)).backward()

    def step(self, rate_factor: float) -> float:
        """See `TrainEngine.step`; float16 skips the move where the gradient is infinite."""
        set_rates(self.optimizer, self._base_rates, rate_factor)
        for parameter in parameters_of(self.optimizer):
            if parameter.grad is None:
                # A loss without an object has the gradient zero, not none: the same for every engine.
                parameter.grad = torch.zeros_like(parameter)
        self._scaler.unscale_(self.optimizer)
        norm = self._gradient_norm()
        overflows = self._scaler.is_enabled() and self._scaler.get_scale() > _SMALLEST_SCALE
        if not math.isfinite(norm) and not overflows:
            self.optimizer.zero_grad(set_to_none=True)
            raise TrainingError(f"the gradient is not finite (norm {norm})")
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.model.zero_grad(set_to_none=True)
        return norm

    @contextmanager
    def whole(self) -> Iterator[None]:
        """See `TrainEngine.whole`; ranks differ in nothing but the statistics of their batch norms."""
        self._ranks.copy_from_first(statistics_of(self.model))
        yield

    def rate(self) -> float:
        """See `TrainEngine.rate`."""
        return float(self.optimizer.param_groups[0]["lr"])

    def memory_bytes(self) -> int | None:
        """See `TrainEngine.memory_bytes`."""
        return peak_memory(self.device)

    def state(self) -> dict[str, Any]:
        """See `TrainEngine.state`."""
        names = names_of(self.model, self.optimizer)
        moments = {
            name: {key: value.detach().cpu().clone() for key, value in self.optimizer.state[parameter].items()}
            for name, parameter in names.items()
            if parameter in self.optimizer.state
        }
        return {"optimizer": moments, "scaler": self._scaler.state_dict(), "changing": changing(self.model)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`, bit for bit.

        Raises:
            TrainingError: the state is that of another model.
        """
        restore_weights(self.model, state)
        with fits_the_model():
            for name, parameter in names_of(self.model, self.optimizer).items():
                if name in state["optimizer"]:
                    # The number of steps stays on the CPU, where the optimizer keeps it.
                    self.optimizer.state[parameter] = {
                        key: value.clone() if value.ndim == 0 else value.to(parameter.device, copy=True)
                        for key, value in state["optimizer"][name].items()
                    }
            self._scaler.load_state_dict(state["scaler"])

    def _gradient_norm(self) -> float:
        limit = math.inf if self._clip_grad is None else self._clip_grad
        return float(nn.utils.clip_grad_norm_(parameters_of(self.optimizer), limit))


def _wrapped(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    # Which parameters a picture without objects reaches differs from rank to rank: none may wait for another's.
    # Statistics of batch norms are shared where they are read (`whole`), not in every step. The switch has a new name.
    known = signature(DistributedDataParallel.__init__).parameters
    switch = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {"find_unused_parameters": True, switch: False}
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None, **options)


def share_norms(model: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """The model with batch norms that take their statistics from the batches of all ranks (train.sync_bn).

    Raises:
        UsageError: on the CPU, which torch has no such norms for.
    """
    if device.type != "cuda":
        raise UsageError(
            f"train.sync_bn = true: torch synchronises batch norm on GPUs only, the device is {device.type}"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model) if ranks.count > 1 else model


def forward(
    network: nn.Module,
    batch: Batch,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seeds: Sequence[int] | None,
    counts: bool,
    mean: Callable[[Tensor], Tensor] | None,
) -> dict[str, Tensor]:
    """Losses of a batch by `network`; see `TrainEngine.forward`."""
    images = [image.to(device, non_blocking=True) for image in batch.images]
    targets = [_to_device(target, device) for target in batch.targets]
    shared = _itself if mean is None else mean
    normaliser = shared if counts else lambda value: shared(value * 0)
    chance = nullcontext() if seeds is None else training_step(seeds, normaliser)
    with chance, autocast(device, dtype):
        losses: dict[str, Tensor] = network(images, targets)
    return losses


def _itself(value: Tensor) -> Tensor:
    return value


def total_loss(losses: Losses, weight: float) -> Tensor:
    """`weight` times the sum of the losses, float32."""
    return torch.stack([loss.float() for loss in losses.values()]).sum() * weight


def loss_values(losses: Losses) -> dict[str, float]:
    """The losses as numbers, with one wait for the device."""
    values: Sequence[float] = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
    return dict(zip(losses, values, strict=True))


def base_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """The learning rate of each group."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def set_rates(optimizer: torch.optim.Optimizer, base: Sequence[float], factor: float) -> None:
    """Let each group move at `factor` times its base rate."""
    for group, rate in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = rate * factor


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters that an optimizer moves, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def names_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """The parameters that an optimizer moves by the names that the model gives them, in the optimizer's order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: parameter for parameter in parameters_of(optimizer)}


def changing(model: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU of the parameters that train and of all stored buffers (norm statistics), by key."""
    return {key: value.detach().cpu().clone() for key, value in changing_tensors(model).items()}


def changing_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train and all stored buffers themselves, by key."""
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    return {key: value for key, value in model.state_dict().items() if key not in frozen}


def statistics_of(model: nn.Module) -> list[Tensor]:
    """The stored buffers of a model: statistics of its batch norms, in which ranks may differ."""
    parameters = {key for key, _ in model.named_parameters()}
    return [value for key, value in model.state_dict().items() if key not in parameters]


def restore_weights(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Put the weights and statistics of a state into a model.

    Raises:
        TrainingError: the state is that of another model.
    """
    own, saved = changing_tensors(model), state["changing"]
    if own.keys() != saved.keys():
        odd = sorted(own.keys() ^ saved.keys())
        raise TrainingError(f"the saved state belongs to another model; keys that differ: {some(odd)}")
    with fits_the_model(), torch.no_grad():
        for key, value in own.items():
            value.copy_(saved[key])


@contextmanager
def fits_the_model() -> Iterator[None]:
    """Raise TrainingError where a saved state turns out not to fit."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        raise TrainingError(f"the saved state does not fit the model: {error}") from error


def peak_memory(device: torch.device) -> int | None:
    """Peak memory so far: of the GPU, else of this process; None if not available."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _peak_resident_bytes()


def _to_device(target: Target, device: torch.device) -> Target:
    return Target(
        boxes=target.boxes.to(device, non_blocking=True),
        labels=target.labels.to(device, non_blocking=True),
        masks=target.masks.to(device, non_blocking=True),
    )


def _peak_resident_bytes() -> int | None:
    import sys

    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kilobytes
