"""Devices and arithmetic that torch uses on this machine, and the models installed on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from rsprompter_cli.doctor.findings import Finding, State, gigabytes
from rsprompter_cli.errors import bytes_words


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
    if not _built_for(torch.cuda.get_arch_list(), facts.major, facts.minor):
        return Finding(
            "devices",
            name,
            State.WARNING,
            f"{text}: not supported by this torch build",
            "install a torch build that supports it, or use --device cpu",
        )
    return Finding("devices", name, State.OK, text)


def _built_for(architectures: list[str], major: int, minor: int) -> bool:
    """Code for a GPU runs on later ones of the same generation; `compute_` is compiled on any later one."""
    for name in architectures:
        kind, _, number = name.partition("_")
        digits = "".join(letter for letter in number if letter.isdigit())
        if not digits:
            continue
        made = int(digits[:-1] or 0), int(digits[-1])
        if kind == "compute" and made <= (major, minor):
            return True
        if kind == "sm" and made[0] == major and made[1] <= minor:
            return True
    return not architectures


def model_findings() -> Iterator[Finding]:
    """The bundled model, and the SAMs that were downloaded."""
    from rsprompter_cli.models.describe import find_models, find_sams

    (bundled,) = find_models([])
    if bundled.problem is None:
        text = f"{', '.join(bundled.class_names)}, {bytes_words(bundled.size or 0)}"
        yield Finding("models", "bundled model", State.OK, text)
    else:
        yield Finding("models", "bundled model", State.PROBLEM, bundled.problem, "reinstall rsp")
    sams = [sam for sam in find_sams() if sam.folder is not None]
    for sam in sams:
        if sam.problem is None:
            text = f"{bytes_words(sam.size or 0)} in {sam.folder}"
            yield Finding("models", f"SAM {sam.name}", State.OK, text)
        else:
            way_out = f"rsp download-sam {sam.name} --overwrite"
            yield Finding("models", f"SAM {sam.name}", State.WARNING, sam.problem, way_out)
    if not sams:
        text = "none; training and --everything need one (rsp download-sam)"
        yield Finding("models", "SAM", State.OK, text)
