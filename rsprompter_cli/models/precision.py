"""Which device and which arithmetic a model runs in; the one place that decides."""

from __future__ import annotations

import contextlib
import functools
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from rsprompter_cli.errors import DependencyError, plural

_FAST_BF16_FLAGS = ("amx_bf16", "avx512_bf16")


def resolve_device(name: str) -> torch.device:
    """The torch device of `auto | cpu | cuda | mps`.

    Raises:
        DependencyError: the device is asked for and this machine or this torch lacks it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise DependencyError("--device cuda: torch sees no CUDA GPU here", "use --device auto or cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise DependencyError("--device mps: torch sees no Apple GPU here", "use --device auto or cpu")
    return torch.device(name)


def require_gpus(count: int) -> None:
    """Raise DependencyError where torch sees fewer than `count` CUDA GPUs."""
    here = torch.cuda.device_count()
    if here < count:
        raise DependencyError(
            f"--gpus {count}: torch sees {plural(here, 'CUDA GPU')} here",
            f"--gpus {here}" if here else "use --procs N to start processes on the CPU",
        )


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of `auto | fp32 | bf16 | fp16`; auto is bf16 where the hardware multiplies in it, else fp32.

    float16 is never chosen by itself: its range is too small for these losses.
    """
    if name == "auto":
        return torch.bfloat16 if _has_fast_bf16(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Mixed precision in `dtype` on `device`; nothing at all for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and _cpu_has_fast_bf16()


@functools.cache
def _cpu_has_fast_bf16() -> bool:
    # Only Linux reports the flags without a further package; elsewhere float32 is the safe answer.
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return any(flag in flags for flag in _FAST_BF16_FLAGS)
