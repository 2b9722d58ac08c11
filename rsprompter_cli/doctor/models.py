"""Devices and arithmetic that torch uses on this machine, and the models installed on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rsprompter_cli.doctor.findings import Finding, State, gigabytes, judged
from rsprompter_cli.errors import bytes_words

if TYPE_CHECKING:
    import torch


def device_findings() -> Iterator[Finding]:
    """The devices that torch sees, and what `--device auto` and `--precision auto` take."""
    import torch

    from rsprompter_cli.models.cpu.linear import by_onednn
    from rsprompter_cli.models.precision import resolve_device, resolve_precision

    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        yield _cuda_finding(index)
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        build = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        way_out = "install a torch build for the driver version that nvidia-smi shows, or use --device cpu"
        yield Finding(
            "devices", "CUDA", State.WARNING, f"an NVIDIA driver is installed, but torch finds no GPU: {build}", way_out
        )
    if torch.backends.mps.is_available():
        yield Finding("devices", "MPS", State.OK, "Apple GPU")
    device = resolve_device("auto")
    bf16 = resolve_precision("auto", device) == torch.bfloat16
    text = "bfloat16" if bf16 else "float32 (no fast bfloat16)"
    yield Finding("devices", "--device auto", State.OK, f"{device.type}, {text}")
    if device.type == "cpu":
        level = torch.backends.cpu.get_cpu_capability()
        library = "oneDNN, with AVX-512" if by_onednn() else f"torch kernels ({level}); oneDNN is not faster here"
        yield Finding("devices", "float32 products", State.OK, library)
        yield Finding("devices", "matrix products", State.OK, _rates(bf16=bf16))
        yield Finding("devices", "CPU threads", State.OK, f"{torch.get_num_threads()} (change it with --threads)")


def _rates(*, bf16: bool) -> str:
    """How fast the CPU multiplies matrices now, in the arithmetic that it is made for."""
    import torch

    from rsprompter_cli.models.cpu.matrix_rate import matrix_rate

    dtypes = {"float32": torch.float32, **({"bfloat16": torch.bfloat16} if bf16 else {})}
    return ", ".join(f"{matrix_rate(dtype) / 1e9:.0f} GFLOP/s in {name}" for name, dtype in dtypes.items())


def _cuda_finding(index: int) -> Finding:
    import torch

    facts = torch.cuda.get_device_properties(index)
    name = f"CUDA {index}"
    free, total = torch.cuda.mem_get_info(index)
    text = f"{facts.name}, {gigabytes(free)} of {gigabytes(total)} free, compute capability {facts.major}.{facts.minor}"
    try:
        _multiply(torch.device("cuda", index))
    except RuntimeError as error:  # of CUDA: this build has no code for the GPU, the driver is too old, memory is full
        fault = f"{text}: does not work with this torch build: {str(error).partition(chr(10))[0]}"
    else:
        fault = ""
    return judged("devices", name, text, fault, "install a torch build that supports it, or use --device cpu")


def _multiply(device: torch.device) -> None:
    """A small matrix product, waited for."""
    import torch

    one = torch.ones(16, 16, device=device)
    (one @ one).cpu()


def model_findings() -> Iterator[Finding]:
    """The bundled model, and the SAMs that were downloaded."""
    from rsprompter_cli.models.describe import find_models, find_sams

    (bundled,) = find_models([])
    text = f"{', '.join(bundled.class_names)}, {bytes_words(bundled.size or 0)}"
    yield judged("models", "bundled model", text, bundled.problem, "reinstall rsp", worst=State.PROBLEM)
    sams = [sam for sam in find_sams() if sam.folder is not None]
    for sam in sams:
        text = f"{bytes_words(sam.size or 0)} in {sam.folder}"
        way_out = f"rsp download-sam {sam.name} --overwrite"
        yield judged("models", f"SAM {sam.name}", text, sam.problem, way_out)
    if not sams:
        text = "none; training and --everything need one (rsp download-sam)"
        yield Finding("models", "SAM", State.OK, text)
