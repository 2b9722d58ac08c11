"""Every file that a prediction writes is found to be free before anything is read; knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rsprompter_cli.errors import OutputError, UsageError
from rsprompter_cli.predict.options import PredictOptions
from rsprompter_cli.predict.output.layout import Layout, ManyOutputs
from rsprompter_cli.predict.output.preview import claim_preview
from rsprompter_cli.predict.output.write import OutputKind, check_output_crs, claim_output
from rsprompter_cli.predict.report import claim_report


def claim_one(out: str | Path | None, inputs: Sequence[str | Path], options: PredictOptions) -> OutputKind | None:
    """The family of the output of one scene, after every file that is to be written was found to be free.

    Args:
        inputs: files and folders that are read.

    Raises:
        UsageError: an unknown extension, or a CRS that the format cannot have.
        OutputError: a file exists and may not be replaced, is an input, or is named twice.
    """
    kind = claim_output(out, inputs, overwrite=options.overwrite)
    check_output_crs(out, kind, options.output)
    others = [] if out is None else [out]
    claim_preview(options.preview, [*inputs, *others], overwrite=options.overwrite)
    claim_report(options.report, [*inputs, *others], out=out, overwrite=options.overwrite)
    if out is not None and options.report is not None and Path(out).resolve() == Path(options.report).resolve():
        raise OutputError(f"--out and --report both name {options.report}", "name two files")
    return kind


def refuse_preview_of_many(options: PredictOptions) -> None:
    """Raise UsageError for a map of several scenes."""
    if options.preview is not None:
        raise UsageError("--preview: a map shows one scene", "omit it, or predict that scene alone with --out FILE")


def claim_many(outputs: ManyOutputs, inputs: Sequence[str | Path], options: PredictOptions) -> None:
    """Refuse outputs of several scenes that could not be written.

    Args:
        inputs: files and folders that are read beside the scenes.

    Raises:
        UsageError, OutputError: see `claim_one`.
    """
    first = outputs.out if outputs.layout is Layout.MERGED else outputs.files[0]
    check_output_crs(first, outputs.kind, options.output)
    outputs.claim(inputs, overwrite=options.overwrite, only=() if outputs.manifest.exists() else None)
    outputs.try_names()
    named = [*inputs, *outputs.scenes, *outputs.files, outputs.out]
    claim_report(options.report, named, out=outputs.out, overwrite=options.overwrite)
