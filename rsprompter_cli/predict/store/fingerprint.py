"""What tells one prediction from any other: the input, the model, and the settings that change what is found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsprompter_cli import __version__
from rsprompter_cli.geo.raster import source as source_module
from rsprompter_cli.geo.raster.scene import Scene
from rsprompter_cli.geo.windows import WindowGrid
from rsprompter_cli.io.network.remote import remote_facts
from rsprompter_cli.predict.aoi import AreaOfInterest
from rsprompter_cli.predict.options import PredictOptions

if TYPE_CHECKING:
    from rsprompter_cli.models.load import LoadedModel

_SAMPLE = 1 << 16
"""Bytes read at the start and at the end of a file, and of each tensor of a model."""


def run_identity(
    source: str | Path,
    scene: Scene,
    grid: WindowGrid,
    loaded: LoadedModel,
    options: PredictOptions,
    *,
    score: float,
    area: AreaOfInterest | None = None,
) -> dict[str, Any]:
    """JSON values by what they are of; two runs with equal ones find the same.

    Args:
        source, scene, grid, options, score, area: see `scene_identity`.
        loaded: the model.
    """
    return {
        **scene_identity(source, scene, grid, options, score=score, area=area),
        **model_identity(loaded),
    }


def scene_identity(
    source: str | Path,
    scene: Scene,
    grid: WindowGrid,
    options: PredictOptions,
    *,
    score: float,
    area: AreaOfInterest | None = None,
) -> dict[str, Any]:
    """The identity of a run but for its model.

    What only shapes the output (simplifying, the smallest area) is not in it, nor what changes a detection by
    no more than rounding (the batch, the device): a run may go on with other ones.

    Args:
        source: as the user named it.
        scene, grid: how it is read.
        options: of the run.
        score: lowest score kept.
        area: where objects are looked for, which decides what windows are read.
    """
    settings = {
        **{name: value for name, value in asdict(options.reading).items() if not name.startswith("max_")},
        "score": score,
        "precision": options.precision,
        "window": grid.size,
        "overlap_px": grid.overlap_px,
        "extent": list(grid.extent),
        "aoi": None if area is None else area.digest(),
    }
    return {
        "input": {**file_facts(source), "size": [scene.height, scene.width], "place": list(scene.georef.transform)},
        "settings": settings,
        "version of rsp": __version__,
    }


def file_facts(source: str | Path) -> dict[str, Any]:
    """What tells a file from another one of that name, without reading all of it.

    Of one behind an https address that is what its server says of it; of one in a bucket (s3) the address alone.

    Raises:
        InputError: the server does not answer.
    """
    path = Path(source)
    if not path.is_file():
        address = str(source)
        web = address.lower().startswith(("https://", "http://"))
        return {"address": address} | (
            remote_facts(address, timeout=source_module.FIRST_ANSWER, retries=source_module.HTTP_RETRIES) if web else {}
        )
    facts = path.stat()
    with path.open("rb") as file:
        ends = hashlib.sha256(file.read(_SAMPLE))
        file.seek(max(0, facts.st_size - _SAMPLE))
        ends.update(file.read(_SAMPLE))
    return {"bytes": facts.st_size, "changed": facts.st_mtime_ns, "ends": ends.hexdigest()}


def unchanging(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a file but for the time it was changed: each machine may have a copy of it."""
    return {name: value for name, value in facts.items() if name != "changed"}


def model_identity(loaded: LoadedModel) -> dict[str, Any]:
    """What tells a model from another one."""
    return {"model": model_digest(loaded), "kind of model": loaded.config.model.kind}


def model_digest(loaded: LoadedModel) -> str:
    """A hash of the kind of model, of what it says of itself, and of the ends of each of its tensors."""
    import torch  # parts are joined without it

    digest = hashlib.sha256(f"{type(loaded.model).__qualname__} {loaded.meta}".encode())
    for name, tensor in sorted(loaded.model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        flat = tensor.detach().reshape(-1)
        kept = max(1, _SAMPLE // 4 // max(1, flat.element_size()))
        ends = torch.cat([flat[:kept], flat[-kept:]]).cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(ends.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
