"""A process that has the libraries loaded and forks a child for each `rsp` command it is told.

`python -m tests.make.forking_server` reads requests of `tests.make.forking`, one JSON object a line, and answers each
with three lines: the child's process id when the command begins, the writes that were counted, as a JSON list, and its
exit code. Loading PyTorch for every command would take the suite a quarter of an hour.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

from tests.make.failing_writes import answer_writes, ask_before_writes

_NOT_LOADED = (
    "rsprompter_cli.__main__",
    "rsprompter_cli.predict.backends.ray",
    "rsprompter_cli.predict.backends.ray_worker",
)


def main() -> None:
    """Serve until the input ends."""
    _load()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        counts = request["fails"] is not None
        parent, own = socket.socketpair()
        child = os.fork()
        if child == 0:
            parent.close()
            _be_the_command(request, own if counts else None)
        own.close()
        writes = []
        if counts:
            writes = answer_writes(parent, Path(request["folder"]), *request["fails"])
        parent.close()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(json.dumps(writes) + "\n")
        print(os.waitstatus_to_exitcode(status), flush=True)


def _load() -> None:
    import rsprompter_cli

    for module in walk_packages(rsprompter_cli.__path__, "rsprompter_cli."):
        if module.name not in _NOT_LOADED:
            import_module(module.name)
    for name in ("geopandas", "huggingface_hub", "pyogrio", "rich.live", "rich.progress_bar",
                 "rich.spinner", "rich.table", "torch.utils.tensorboard", "torchvision.transforms.v2",
                 "transformers.models.sam.modeling_sam", "peft", "timm"):  # fmt: skip
        import_module(name)


def _be_the_command(request: dict[str, Any], parent: socket.socket | None) -> None:
    """Become a session of its own on its streams, run the command line, and exit as `rsp` does.

    Args:
        parent: who is asked before each write; None: nobody.
    """
    code, answers, begun = 70, os.dup(1), False
    try:
        os.setsid()
        _open_streams(request["terminal"], request["stdout"], request["stderr"])
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        _wrap_streams(request["encoding"], request["closed"])
        _slow_down(request["pause"])
        from rsprompter_cli.cli import console
        from rsprompter_cli.cli.app import run
        from rsprompter_cli.cli.output import route_foreign_messages
        from rsprompter_cli.cli.streams import finish_streams, prepare_streams

        prepare_streams()
        route_foreign_messages()
        console._PID = os.getpid()  # the command itself, not a worker that was forked from it
        if parent is not None:
            ask_before_writes(parent)
        begun = bool(os.write(answers, b"%d\n" % os.getpid()))
        code = finish_streams(run(request["arguments"]))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        if not begun:
            os.write(answers, b"%d\n" % os.getpid())
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                code = 70
        os._exit(code)


def _open_streams(terminal: str | None, stdout: str | None, stderr: str | None) -> None:
    """Open the standard streams on a terminal, which controls the session, or on files."""
    first = os.open(terminal or os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(first, number)
    for number, path in ((1, stdout), (2, stderr)):
        if path is not None:
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)


def _wrap_streams(encoding: str, closed: Sequence[int]) -> None:
    """Give Python its standard streams as it finds them at its start: None for a closed one."""
    for number in closed:
        os.close(number)
    sys.stdin = None if 0 in closed else open(0, encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stdout = None if 1 in closed else open(1, "w", encoding=encoding, errors="strict", closefd=False)  # noqa: SIM115
    sys.stderr = None if 2 in closed else open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115


def _slow_down(pause: float) -> None:
    """Sleep after each update of a progress bar, so that it can be seen at work."""
    if not pause:
        return
    from rsprompter_cli.cli.progress import Bar

    update = Bar.update

    def slow(bar: Bar, *arguments: Any, **keywords: Any) -> None:
        update(bar, *arguments, **keywords)
        time.sleep(pause)

    Bar.update = slow  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
