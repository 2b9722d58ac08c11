"""DeepSpeed's ZeRO: the ranks share out the optimizer's state (stage 2), between steps the weights too (stage 3).

What a rank computes depends on its pictures: without an object no mask is decoded, with many it is decoded in parts.
DeepSpeed reduces gradients in the order in which they come, and fetches weights module by module, so ranks that
compute different things would mix up their gradients or wait for ever. So the gradients of a step are first found
by plain autograd, and DeepSpeed is given them as those of one module, the same in every rank.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rsprompter_cli.errors import DependencyError, TrainingError, UsageError
from rsprompter_cli.structures import Batch
from rsprompter_cli.train.distributed.ddp import (
    Losses,
    base_rates,
    changing,
    fits_the_model,
    forward,
    names_of,
    peak_memory,
    restore_weights,
    set_rates,
    statistics_of,
    total_loss,
)
from rsprompter_cli.train.distributed.processes import Ranks

_MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of each parameter, beside the number of steps."""


def import_deepspeed(device: torch.device) -> Any:
    """The package, made to work on the kind of `device`.

    Raises:
        DependencyError: it is not installed, or does not load.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError as error:
        raise DependencyError(
            f"--deepspeed: the package deepspeed cannot be loaded ({error})",
            "pip install 'rsprompter_cli[deepspeed]', or train without --deepspeed",
        ) from error
    # It calls torch under names that torch is about to change, once for each weight.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")
    # Else it compiles an exchange of its own for CPUs, which takes minutes; torch's gloo does the same.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


class DeepSpeedEngine:
    """See `TrainEngine`.

    Weights are float32 and the forward pass runs in `dtype` by autocast, as without DeepSpeed.

    Args:
        model: the network, already on `device`, with the weights of `state` where there is one.
        optimizer: over the parameters that train.
        stage: of ZeRO, 2 or 3.
        state: to continue from; see `TrainEngine.state`.

    Raises:
        DependencyError: the package is missing.
        UsageError: float16, whose loss DeepSpeed would have to scale.
        TrainingError: the state is that of another model.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        dtype: torch.dtype,
        clip_grad: float | None,
        stage: int,
        ranks: Ranks,
        mean: Callable[[Tensor], Tensor] | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        if dtype == torch.float16:
            raise UsageError("train.precision = fp16 is not supported with --deepspeed", "use bf16 or fp32")
        self._deepspeed = import_deepspeed(device)
        self.model = model
        self.device = device
        self.dtype = dtype
        self._mean = mean
        self._parameters = names_of(model, optimizer)
        self._base_rates = base_rates(optimizer)
        self._ranks = ranks
        self._stage = stage
        self._gradients: list[Tensor] | None = None
        self._weights = ExitStack()
        self._steps = 0
        if state is not None:
            restore_weights(model, state)
        module = _GivenGradients(model, list(self._parameters.values()))
        self._engine, *_ = self._deepspeed.initialize(
            model=module, optimizer=optimizer, config=_settings(stage, clip_grad), dist_init_required=False
        )
        assert isinstance(self._engine, self._deepspeed.DeepSpeedEngine)
        assert self._engine.zero_optimization_stage() == stage
        assert self._engine.world_size == ranks.count
        if state is not None:
            self._restore_moments(state)

    def forward(
        self, batch: Batch, *, seeds: Sequence[int] | None = None, counts: bool = True, last: bool = True
    ) -> dict[str, Tensor]:
        """See `TrainEngine.forward`; `backward` must follow, for which the weights stay whole."""
        self._weights.enter_context(self._whole_weights())
        return forward(
            self.model, batch, device=self.device, dtype=self.dtype, seeds=seeds, counts=counts, mean=self._mean
        )

    def backward(self, losses: Losses, *, weight: float) -> None:
        """See `TrainEngine.backward`."""
        parameters = list(self._parameters.values())
        found = torch.autograd.grad(total_loss(losses, weight), parameters, allow_unused=True)
        whole = [torch.zeros_like(p) if one is None else one for p, one in zip(parameters, found, strict=True)]
        former = self._gradients or [torch.zeros_like(one) for one in whole]
        self._gradients = [a + b for a, b in zip(former, whole, strict=True)]
        self._weights.close()

    def step(self, rate_factor: float) -> float:
        """See `TrainEngine.step`; the weights have moved already when it raises."""
        set_rates(self._engine.optimizer, self._base_rates, rate_factor)
        assert self._gradients is not None
        norm = self._move(self._gradients)
        self._gradients = None
        self._steps += 1
        if not math.isfinite(norm):
            raise TrainingError(f"the gradient is not finite (norm {norm})")
        return norm

    @contextmanager
    def whole(self) -> Iterator[None]:
        """See `TrainEngine.whole`."""
        self._ranks.copy_from_first(statistics_of(self.model))
        with self._whole_weights():
            yield

    def rate(self) -> float:
        """See `TrainEngine.rate`."""
        return float(self._engine.optimizer.param_groups[0]["lr"])

    def memory_bytes(self) -> int | None:
        """See `TrainEngine.memory_bytes`."""
        return peak_memory(self.device)

    def state(self) -> dict[str, Any]:
        """See `TrainEngine.state`."""
        read = self._deepspeed.utils.safe_get_full_optimizer_state
        moments: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self._parameters.items() if self._steps else ():
            moments[name] = {key: read(parameter, key).detach().cpu().clone() for key in _MOMENTS}
            moments[name]["step"] = torch.tensor(float(self._steps))
        with self.whole():
            weights = changing(self.model)
        return {"optimizer": moments, "scaler": {}, "changing": weights}

    def _restore_moments(self, state: dict[str, Any]) -> None:
        if not state["optimizer"]:
            return
        # A step at the rate 0 moves nothing and makes the optimizer's state, which is then overwritten.
        set_rates(self._engine.optimizer, self._base_rates, 0.0)
        with self._whole_weights():
            nothing = [torch.zeros_like(parameter) for parameter in self._parameters.values()]
        self._move(nothing)
        with fits_the_model():
            for name, parameter in self._parameters.items():
                for key in _MOMENTS:
                    self._write(parameter, state["optimizer"][name][key].to(self.device), key)
            steps = {float(moments["step"]) for moments in state["optimizer"].values()}
            (self._steps,) = map(int, steps)
        for own in self._engine.optimizer.optimizer.state.values():
            own["step"].fill_(self._steps)

    def _write(self, parameter: nn.Parameter, value: Tensor, key: str) -> None:
        """Set the optimizer's state of a parameter from its full value."""
        utils, ranks = self._deepspeed.utils, self._ranks
        if self._stage < 3:
            utils.safe_set_full_optimizer_state(parameter, value, key)
            return
        # The same of stage 3 fails where the ranks cannot have equal parts; the last part is filled up with zeros.
        size = -(-value.numel() // ranks.count)
        parts = nn.functional.pad(value.flatten(), (0, size * ranks.count - value.numel()))
        utils.safe_set_local_optimizer_state(parameter, parts[ranks.rank * size : (ranks.rank + 1) * size], key)

    def _move(self, gradients: Sequence[Tensor]) -> float:
        """One step of DeepSpeed's optimizer; the norm of the mean gradient."""
        self._engine.backward(self._engine(gradients))
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def _whole_weights(self) -> AbstractContextManager[None]:
        if self._stage < 3:
            return nullcontext()
        return self._deepspeed.zero.GatheredParameters(list(self.model.parameters()))


class _GivenGradients(nn.Module):
    """What DeepSpeed sees of a model: a sum whose gradient with respect to each parameter is one that is given.

    All parameters are its own, and the model is no part of it: DeepSpeed puts no hooks into the model's modules.
    """

    def __init__(self, model: nn.Module, moved: Sequence[nn.Parameter]) -> None:
        super().__init__()
        for index, parameter in enumerate(model.parameters()):
            self.register_parameter(f"weight{index}", parameter)
        self._moved = tuple(moved)

    def forward(self, gradients: Sequence[Tensor]) -> Tensor:
        """The sum, of which only the gradient means anything."""
        pairs = zip(self._moved, gradients, strict=True)
        return torch.stack([(parameter * gradient).sum() for parameter, gradient in pairs]).sum()


def _settings(stage: int, clip_grad: float | None) -> dict[str, Any]:
    """DeepSpeed's configuration; batches and their weights are ours."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip_grad or 0.0,
        "zero_optimization": {"stage": stage, "overlap_comm": False},
    }
