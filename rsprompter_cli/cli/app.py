"""The `rsp` program: command registration and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli import __version__
from rsprompter_cli.cli.groups import Entry, LazyGroup
from rsprompter_cli.cli.output import print_error, set_up_logging
from rsprompter_cli.errors import INTERRUPTED_EXIT_CODE, InputError, ResourceError, RspError, UsageError

# A new command is one line here: its name, where it is, and the first line of its docstring (of a group: its help).
COMMANDS = {
    "download-sam": Entry(
        "download_sam:download_sam_command", "Get SAM weights, check them, and print the folder they are in."
    ),
    "fit": Entry("fit:fit_command", "Fine-tune a model on your own polygons, and measure it on ground held back."),
    "train": Entry("train:train_command", "Train a model on a COCO set."),
    "eval": Entry("eval:eval_command", "Box and mask average precision of a checkpoint on a COCO split."),
    "eval-polygons": Entry(
        "eval_polygons:eval_polygons_command",
        "Compare predicted polygons with true ones: precision, recall, F1 and AP, and a map of the errors.",
    ),
    "predict": Entry("predict:predict_command", "Find the objects of a scene and write their polygons."),
    "merge": Entry(
        "merge:merge_command",
        "Join the parts that rsp predict --shard wrote, to what one run over the scene would have written.",
    ),
    "filter": Entry(
        "filter:filter_command",
        "Keep the features that reach a score, an area or have one of some classes; the model is not run.",
    ),
    "info": Entry(
        "info:info_command",
        "Say what a scene is, at which resolution it would be read, in how many windows, time and memory.",
    ),
    "models": Entry(
        "models_cmd:models_command",
        "List the kinds of model, the models on this machine, and the SAMs to train on.",
    ),
    "doctor": Entry("doctor:doctor_command", "Look whether all that rsp needs is here and works, and say what to do."),
    "qgis-style": Entry(
        "qgis_style:qgis_style_command", "Write the QGIS style of a vector file beside it, and say how to look at it."
    ),
    "checkpoint": Entry("checkpoint_cmd:app", "Import, export, show and merge checkpoints."),
    "config": Entry("config_cmd:app", "List, show and describe configurations."),
    "data": Entry("data_cmd:app", "Check, show, count and split COCO sets."),
    "convert": Entry("convert:app", "Convert data sets from and to COCO."),
}


class _Program(LazyGroup):
    entries = COMMANDS


app = typer.Typer(
    name="rsp",
    cls=_Program,
    help="Aerial and satellite imagery in, instance polygons out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # to draw help with rich takes longer than all the rest of it
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rsp {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; twice for debug talk.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    log_file: Annotated[Path | None, typer.Option("--log-file", help="Also write all talk to this file.")] = None,
) -> None:
    if verbose and quiet:
        raise UsageError("-v and -q exclude each other")
    set_up_logging(verbose=verbose, quiet=quiet, log_file=log_file)


def main() -> None:
    """Run `rsp` and exit: errors are one line on stderr, tracebacks only with RSP_DEBUG=1."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        # A command that starts processes repeats its own line in them.
        result = app(arguments, prog_name="rsp", standalone_mode=False, obj=list(arguments))
    except BaseException as error:
        if os.environ.get("RSP_DEBUG") == "1" and not isinstance(error, typer.Exit):
            raise
        return _exit_code(error)
    if result == INTERRUPTED_EXIT_CODE:  # typer swallows Ctrl-C and says nothing
        print_error("interrupted", exit_code=INTERRUPTED_EXIT_CODE)
    return result if isinstance(result, int) else 0


def _exit_code(error: BaseException) -> int:
    """Say what went wrong in one line and return the exit code that stands for it."""
    # Order matters: the specific kinds come before their parents.
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return print_error("interrupted", exit_code=INTERRUPTED_EXIT_CODE)
    if isinstance(error, RspError):
        return print_error(error.message, error.hint, exit_code=error.exit_code)
    if isinstance(error, typer.exceptions.TyperException):
        return print_error(error.format_message(), exit_code=UsageError.exit_code)
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        # The reader of our stdout left, as `| head` does (typer makes a SystemExit of it). Python
        # would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if _is_out_of_memory(error):
        return print_error(
            "out of memory",
            "lower what the command takes at once (batch, workers, picture size), end other programs, "
            "or use a machine with more memory",
            exit_code=ResourceError.exit_code,
        )
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    if isinstance(error, OSError) and error.filename is not None:
        # A file that the system refuses in a place where none was expected to fail: it is named all the same.
        reason = f"{error.filename}: {error.strerror}"
        return print_error(reason, "run again with RSP_DEBUG=1 for the traceback", exit_code=InputError.exit_code)
    reason = f"internal error: {type(error).__name__}: {error}"
    return print_error(reason, "run again with RSP_DEBUG=1 for the traceback")


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's, the GPU's and the CPU allocator's ways to say it; torch itself is not imported for that."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
