"""Forward, backward and the optimizer's step on one device; the only file to know how many there are.

Everything above it speaks of batches, losses and rates, so several processes change this file alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rsprompter_cli.errors import TrainingError
from rsprompter_cli.models.precision import autocast
from rsprompter_cli.structures import Batch, Target

_SMALLEST_SCALE = 1.0
"""Loss scale of float16 under which the gradients themselves must be infinite."""


class Engine:
    """One process, one device.

    Args:
        model: the network, already on `device`; its parameters stay float32 whatever the arithmetic.
        optimizer: over the parameters that train.
        dtype: arithmetic of the forward pass; float16 scales the loss.
        clip_grad: largest norm of the gradient over all parameters, None for no limit.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        dtype: torch.dtype,
        clip_grad: float | None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.device = device
        self.dtype = dtype
        self._clip_grad = clip_grad
        self._base_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The scalar losses of one batch, by name, with their graph."""
        images = [image.to(self.device, non_blocking=True) for image in batch.images]
        targets = [_to_device(target, self.device) for target in batch.targets]
        with autocast(self.device, self.dtype):
            losses: dict[str, Tensor] = self.model(images, targets)
        return losses

    def backward(self, losses: dict[str, Tensor], *, weight: float) -> None:
        """Add the gradient of `weight` times the sum of the losses."""
        total = torch.stack([loss.float() for loss in losses.values()]).sum() * weight
        self._scaler.scale(total).backward()

    def step(self, rate_factor: float) -> float:
        """Move the parameters at `rate_factor` times the base rate and clear the gradient.

        Returns:
            Norm of the gradient before clipping; float16 skips the move where it is infinite.

        Raises:
            TrainingError: the gradient is not finite.
        """
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * rate_factor
        self._scaler.unscale_(self.optimizer)
        norm = self._gradient_norm()
        overflows = self._scaler.is_enabled() and self._scaler.get_scale() > _SMALLEST_SCALE
        if not math.isfinite(norm) and not overflows:
            self.optimizer.zero_grad(set_to_none=True)
            raise TrainingError(f"the gradient is not finite (norm {norm})")
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def memory_bytes(self) -> int | None:
        """Peak memory so far: of the GPU, else of this process; None where the system does not tell."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return _peak_resident_bytes()

    def state(self) -> dict[str, Any]:
        """What `restore` needs: optimizer, loss scale and everything of the model that can change."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "changing": {key: value.detach().cpu().clone() for key, value in self._changing().items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`, bit for bit.

        Raises:
            TrainingError: the state is that of another model.
        """
        changing = self._changing()
        if changing.keys() != state["changing"].keys():
            odd = sorted(changing.keys() ^ state["changing"].keys())
            raise TrainingError(f"the saved state is of another model: {odd[0]} and {len(odd) - 1} more keys differ")
        try:
            with torch.no_grad():
                for key, value in changing.items():
                    value.copy_(state["changing"][key])
            self.optimizer.load_state_dict(state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(f"the saved state does not fit the model: {error}") from error

    def _changing(self) -> dict[str, Tensor]:
        """Parameters that train and all stored buffers (norm statistics), by key."""
        frozen = {key for key, parameter in self.model.named_parameters() if not parameter.requires_grad}
        return {key: value for key, value in self.model.state_dict().items() if key not in frozen}

    def _gradient_norm(self) -> float:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        limit = math.inf if self._clip_grad is None else self._clip_grad
        return float(nn.utils.clip_grad_norm_(parameters, limit))


def loss_values(losses: dict[str, Tensor]) -> dict[str, float]:
    """The losses as numbers, with one wait for the device."""
    values: Sequence[float] = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
    return dict(zip(losses, values, strict=True))


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
