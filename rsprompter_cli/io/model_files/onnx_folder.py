"""A folder of ONNX graphs: the names of its files, and what is checked before one is written; knows no torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from rsprompter_cli.errors import DependencyError, OutputError, plural
from rsprompter_cli.io.atomic import refuse_existing

FORMAT = 1
META_FILE = "meta.json"
DETECTOR, ENCODER, DECODER = "detector", "encoder", "mask_decoder"
"""The graphs, each of which is a file NAME.onnx, with NAME.onnx.data beside it where its weights are large."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_packages() -> None:
    """Raise DependencyError where a package of the extra `onnx` is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"--format onnx needs {plural(len(missing), 'package')} that "
            f"{'is' if len(missing) == 1 else 'are'} not installed: {', '.join(missing)}",
            "pip install 'rsprompter_cli[onnx]'",
        )


def refuse_other_onnx(out: Path, *, overwrite: bool, inputs: list[Path]) -> None:
    """Refuse to write graphs where something else would be lost, before the work for them is done.

    Raises:
        OutputError: as `refuse_existing`, or the folder contains something else than such graphs.
    """
    refuse_existing(out, overwrite=overwrite, folder=True, inputs=inputs)
    own = (META_FILE, *(f"{name}.onnx{end}" for name in (DETECTOR, ENCODER, DECODER) for end in ("", ".data")))
    foreign = sorted(path.name for path in out.glob("*") if path.name not in own)
    if foreign:
        raise OutputError(f"{out} contains {foreign[0]!r}, which is not part of such a model", "choose another folder")
