"""rsprompter_cli: aerial and satellite imagery in, instance polygons out.

The names below are the Python API. They are looked up on first use, so that importing
the package loads no heavy library.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate_coco", "evaluate_polygons", "fit", "load_model", "predict_scene", "predict_scenes"]

if TYPE_CHECKING:
    from rsprompter_cli.evaluate.coco import evaluate_coco
    from rsprompter_cli.evaluate.polygons import evaluate_polygons
    from rsprompter_cli.models.load import load_model
    from rsprompter_cli.predict.scene import predict_scene
    from rsprompter_cli.predict.scenes import predict_scenes
    from rsprompter_cli.train.finetune.run import fit

_HOMES = {
    "evaluate_coco": "rsprompter_cli.evaluate.coco",
    "evaluate_polygons": "rsprompter_cli.evaluate.polygons",
    "fit": "rsprompter_cli.train.finetune.run",
    "load_model": "rsprompter_cli.models.load",
    "predict_scene": "rsprompter_cli.predict.scene",
    "predict_scenes": "rsprompter_cli.predict.scenes",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
