"""How `rsp predict` shares a scene: `--procs`, `--gpus` and `--ray` do all of it, `--shard` a part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsprompter_cli.cli.options import SPEED, Device
from rsprompter_cli.cli.processes import device_kind, refuse_other_device
from rsprompter_cli.errors import plural
from rsprompter_cli.predict.backends.ray_package import require_ray

if TYPE_CHECKING:
    from rsprompter_cli.cli.progress import Display
    from rsprompter_cli.predict.model_source import ModelSource
    from rsprompter_cli.predict.options import PredictOptions
    from rsprompter_cli.predict.scene import ScenePrediction
    from rsprompter_cli.predict.shard import Shard

RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        rich_help_panel=SPEED,
        help="Predict on the Ray cluster at this address, or local; --procs and --gpus limit the workers.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        rich_help_panel=SPEED,
        help="Predict only shard K of N, such as 3/8; rsp merge joins the parts.",
    ),
]


@dataclass(frozen=True, slots=True)
class Workers:
    """Who predicts a scene: this process, where nothing is said."""

    procs: int | None
    gpus: int | None
    ray: str | None
    threads: int | None

    def device(self, device: Device) -> str:
        """The kind of device that the options ask for.

        Raises:
            UsageError: they contradict each other.
            DependencyError: Ray is not there.
        """
        refuse_other_device(device, gpus=self.gpus, procs=self.procs)
        if self.ray is not None:
            require_ray()
        return device_kind(device, gpus=self.gpus, procs=self.procs)

    def predict(
        self, source: str, out: Path | None, options: PredictOptions, *, model: ModelSource, display: Display
    ) -> ScenePrediction:
        """Predict a scene; the display counts its windows."""
        from rsprompter_cli.predict.stats import RunStats

        stats = RunStats()
        progress = display.bar("windows", details=stats.describe)
        how: dict[str, Any] = {"model": model, "progress": progress, "stats": stats}
        shared = {**how, "gpus": self.gpus, "threads": self.threads}
        if self.ray is not None:
            from rsprompter_cli.predict.backends.ray import predict_on_ray

            return predict_on_ray(source, out, options, address=self.ray, workers=self.procs, **shared)
        if self.procs or self.gpus:
            from rsprompter_cli.predict.backends.processes import predict_in_processes

            return predict_in_processes(source, out, options, procs=self.procs, **shared)
        from rsprompter_cli.predict.scene import predict_scene

        return predict_scene(source, out, options, **how)


@dataclass(frozen=True, slots=True)
class PartPrediction:
    """What `--shard` did."""

    out: Path
    shard: Shard
    windows: int
    instances: int

    def summary(self) -> str:
        """One line for people."""
        return f"wrote {self.out}: shard {self.shard}, {plural(self.windows, 'window')}; join all shards with rsp merge"

    def files(self) -> tuple[Path, ...]:
        """None beside `out`."""
        return ()

    def check(self) -> None:
        """Nothing: what fails raises at once."""

    def as_dict(self) -> dict[str, Any]:
        """Facts for `--json`."""
        facts = {"out": str(self.out), "shard": str(self.shard)}
        return {**facts, "windows": self.windows, "instances": self.instances}


def predict_part(
    source: str, out: Path, shard: str, options: PredictOptions, *, model: ModelSource, display: Display
) -> PartPrediction:
    """Write the part of one shard."""
    from rsprompter_cli.predict.shard import parse_shard
    from rsprompter_cli.predict.shards import predict_shard
    from rsprompter_cli.predict.stats import RunStats

    stats = RunStats()
    progress = display.bar("windows", details=stats.describe)
    which = parse_shard(shard)
    done = predict_shard(source, out, which, options, model=model, progress=progress, stats=stats)
    return PartPrediction(out, which, done.windows, stats.instances)
