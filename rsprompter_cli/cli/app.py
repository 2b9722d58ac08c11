"""The `rsp` program: command registration and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from rsprompter_cli import __version__
from rsprompter_cli.cli.groups import Entry, LazyGroup
from rsprompter_cli.cli.output import print_error, route_foreign_messages, set_up_logging
from rsprompter_cli.cli.streams import DISK_FULL, discard, finish_streams, prepare_streams, run_again_in_utf8
from rsprompter_cli.errors import (
    INTERRUPTED_EXIT_CODE,
    NOT_UTF8,
    NOT_UTF8_WAY_OUT,
    InputError,
    OutputError,
    ResourceError,
    RspError,
    UsageError,
    shorten,
)
from rsprompter_cli.io.interrupt import command_to_continue
from rsprompter_cli.io.termination import end_in_order, exit_code_after

# A new command is one entry here: its name, where it is, the first line of its docstring (of a group: its help), and
# the panel of `rsp --help` that lists it.
FIND, MODEL, SETS, WEIGHTS, HELP = (
    "Find objects",
    "Train and evaluate models",
    "Data sets",
    "Models and weights",
    "Help",
)
COMMANDS = {
    "predict": Entry("predict:predict_command", "Find the objects of a scene and write their polygons.", FIND),
    "info": Entry("info:info_command", "Describe a scene and the cost of predicting on it.", FIND),
    "filter": Entry("filter:filter_command", "Select features by score, area or class.", FIND),
    "merge": Entry("merge:merge_command", "Join the parts that rsp predict --shard wrote.", FIND),
    "qgis-style": Entry("qgis_style:qgis_style_command", "Write a QGIS style beside a vector file.", FIND),
    "fit": Entry("fit:fit_command", "Fine-tune a model on your own polygons and measure it.", MODEL),
    "train": Entry("train:train_command", "Train a model on a COCO data set.", MODEL),
    "eval": Entry("eval:eval_command", "Compute the average precision of a model on a COCO data set.", MODEL),
    "eval-polygons": Entry(
        "eval_polygons:eval_polygons_command", "Compare predicted with true polygons and map the errors.", MODEL
    ),
    "convert": Entry("convert:app", "Convert data sets to and from COCO.", SETS),
    "data": Entry("data_cmd:app", "Check, show, count and split COCO data sets.", SETS),
    "models": Entry("models_cmd:models_command", "List the available models and SAM weights.", WEIGHTS),
    "download-sam": Entry(
        "download_sam:download_sam_command", "Download SAM weights and print the folder they are in.", WEIGHTS
    ),
    "checkpoint": Entry("checkpoint_cmd:app", "Import, export, show and merge checkpoints.", WEIGHTS),
    "config": Entry("config_cmd:app", "List, show and describe configurations.", WEIGHTS),
    "doctor": Entry("doctor:doctor_command", "Check that everything rsp needs is installed and works.", HELP),
    "help": Entry("help_cmd:help_command", "Show the help of rsp or of one of its commands.", HELP),
}
ABOUT = """Turn aerial and satellite imagery into instance polygons.

rsp help COMMAND shows what a command does and all of its options.

Examples:
    rsp predict scene.tif --out buildings.geojson
    rsp fit scene.tif labels.geojson --out my-model
    rsp help predict
"""


class _Program(LazyGroup):
    entries = COMMANDS


app = typer.Typer(
    name="rsp",
    cls=_Program,
    help=ABOUT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # cli/help.py draws the pages
    context_settings={"help_option_names": ["-h", "--help"]},
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
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Show more messages; -vv also debug messages.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show only errors on stderr.")] = False,
    log_file: Annotated[
        Path | None, typer.Option("--log-file", metavar="FILE", help="Also write all messages to this file.")
    ] = None,
) -> None:
    if verbose and quiet:
        raise UsageError("-v and -q are mutually exclusive")
    set_up_logging(verbose=verbose, quiet=quiet, log_file=log_file)


def main() -> None:
    """Run `rsp` and exit: errors are one line on stderr, tracebacks only with RSP_DEBUG=1."""
    run_again_in_utf8(sys.orig_argv[1:])
    prepare_streams()
    route_foreign_messages()
    end_in_order()
    sys.exit(finish_streams(exit_code_after(run(sys.argv[1:]))))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    command_to_continue()  # that of an earlier line in this process
    try:
        # A command that starts processes repeats its own line in them. Calling `app` itself would set sys.excepthook.
        result = get_command(app)(arguments, prog_name="rsp", standalone_mode=False, obj=list(arguments))
    except BaseException as error:
        if os.environ.get("RSP_DEBUG") == "1" and not isinstance(error, typer.Exit):
            raise
        return _exit_code(error)
    if result == INTERRUPTED_EXIT_CODE:  # typer swallows Ctrl-C and says nothing
        return _report_interruption()
    return result if isinstance(result, int) else 0


def _exit_code(error: BaseException) -> int:
    """Say what went wrong in one line and return the exit code that stands for it."""
    # Order matters: the specific kinds come before their parents.
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _report_interruption()
    if isinstance(error, RspError):
        return print_error(error.message, error.hint, exit_code=error.exit_code)
    if isinstance(error, typer.exceptions.TyperException):
        from rsprompter_cli.cli.usage_errors import explain

        problem = explain(error)
        return print_error(problem.message, problem.hint, exit_code=problem.exit_code)
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        # The reader of our stdout left, as `| head` does (typer makes a SystemExit of it). Python
        # would complain once more at exit.
        discard(sys.stdout)
        return 0
    if _is_out_of_memory(error):
        return print_error(
            "out of memory",
            "reduce the batch size, the number of workers or the image size, close other programs, "
            "or use a machine with more memory",
            exit_code=ResourceError.exit_code,
        )
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        discard(sys.stdout)
        name = "stdout or a file" if error.filename is None else os.fsdecode(error.filename)
        reason = f"{name} cannot be written: {error.strerror}"
        return print_error(reason, "free some space and run again", exit_code=OutputError.exit_code)
    if isinstance(error, OSError) and error.filename is not None:
        # A file that the system refuses in a place where none was expected to fail: it is named all the same.
        name = os.fsdecode(error.filename)
        reason = f"{name}: no such file" if isinstance(error, FileNotFoundError) else f"{name}: {error.strerror}"
        return print_error(reason, "run again with RSP_DEBUG=1 for the traceback", exit_code=InputError.exit_code)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        # A name that a library takes in UTF-8 only, in a place where none was looked at before.
        name = shorten(error.object).encode("utf-8", "backslashreplace").decode()
        return print_error(f"{name}: {NOT_UTF8}", NOT_UTF8_WAY_OUT, exit_code=InputError.exit_code)
    reason = f"internal error: {type(error).__name__}: {error}"
    return print_error(reason, "run again with RSP_DEBUG=1 for the traceback")


def _report_interruption() -> int:
    """Say that Ctrl-C ended the command, after what it had already given to stdout; the exit code."""
    with suppress(OSError, ValueError):  # stdout may be closed
        sys.stdout.flush()
    command = command_to_continue()
    return print_error(
        f"interrupted; continue with: {command}" if command else "interrupted",
        label="rsp:",
        exit_code=INTERRUPTED_EXIT_CODE,
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's, the GPU's and the CPU allocator's ways to say it; torch itself is not imported for that."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
