"""Run folders whose files are damaged or were put there by others: refused at the start, by name."""

from __future__ import annotations

import os
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rsprompter_cli.errors import OutputError, TrainingError
from rsprompter_cli.train.loggers import LOG_FILE, read_log
from rsprompter_cli.train.loop import train
from rsprompter_cli.train.run import StepReport
from rsprompter_cli.train.run_folder import LAST, STATE_FILE, check_folder, only_run
from rsprompter_cli.train.state import load_state, require_fitting
from tests.make.tiny_models import tiny_config
from tests.train.runs import make_data, run

EPOCHS, PICTURES = 2, 6
NOTHING = object()
STEP = '{"kind": "step", "step": 1, "loss": 1.0, "losses": {"a": 1.0}}'
NAN, HUGE = float("nan"), 10**18


def _stop(_report: StepReport) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), train=PICTURES)


@pytest.fixture(scope="module")
def models() -> list[nn.Module]:
    """The model of the stopped run, once that has begun."""
    return []


@pytest.fixture(scope="module")
def stopped(data: Path, models: list[nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after a step."""
    out = tmp_path_factory.mktemp("stopped")
    run(data, out, {"epochs": EPOCHS}, on_step=_stop, on_model=models.append)
    return out


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


def _content(folder: Path) -> dict[str, Any]:
    return torch.load(folder / STATE_FILE, weights_only=True)


def _set(tree: Any, keys: tuple[Any, ...], value: Any) -> None:
    """Put a value into a tree, in the place of what is there; `...` is the first key."""
    *above, last = keys
    for key in above:
        tree = tree[next(iter(tree)) if key is ... else key]
    last = next(iter(tree)) if last is ... else last
    if value is NOTHING:
        del tree[last]
    else:
        tree[last] = value(tree[last]) if callable(value) else value


def _require_refusal(folder: Path, action: Callable[[], object]) -> str:
    with pytest.raises(TrainingError) as caught:
        action()
    assert caught.value.exit_code == 8
    assert caught.value.message.startswith(f"{folder / STATE_FILE}: the saved state cannot be restored: ")
    assert "--load-from" in caught.value.hint
    return caught.value.message


def _doubled() -> tuple[Any, ...]:
    value: tuple[Any, ...] = ("x",)
    for _ in range(40):
        value = (value, value)
    return value


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        *((("cursor", "epoch"), value) for value in ("x", None, 1.5, [], NAN, -1, HUGE, True, torch.tensor(1))),
        *((("cursor", "done"), value) for value in ("x", None, -1, NAN, HUGE)),
        *((("cursor", "step"), value) for value in ("x", None, -1, NAN, HUGE)),
        *((("cursor", "best"), value) for value in ("x", [], NAN, 0.5)),
        (("cursor", "best_step"), 1),
        (("cursor", "images"), "x"),
        (("cursor", "surprise"), 1),
        (("cursor",), []),
        (("identity", ...), _doubled()),
        (("identity", ...), "x" * 2_000_000),
        (("identity", 5), "x"),
        (("identity",), "x"),
        (("format_version",), _doubled()),
        (("engine",), []),
        (("engine",), NOTHING),
        (("engine", "changing"), "x"),
        (("engine", "optimizer"), "x"),
        (("engine", "scaler"), {"scale": "x"}),
        (("random",), "x"),
        (("random",), []),
        (("random", 0), {}),
        (("random", 0, "torch"), "x"),
        (("random", 0, "torch"), torch.zeros(3, dtype=torch.uint8)),
        (("random", 0, "torch"), torch.zeros_like),
        (("random", 0, "cuda"), ["x"]),
        (("random", 0, "numpy"), None),
        (("random", 0, "numpy", 1), [1, 2]),
        (("random", 0, "numpy", 1), _doubled()),
        (("random", 0, "numpy", 2), 10**6),
        (("random", 0, "numpy", 4), NAN),
        (("random", 0, "python"), (3, (), None)),
        (("random", 0, "python"), (_doubled(), (), None)),
        (("random", 0, "python"), lambda state: (state[0], state[1], "x")),
        (("random", 0, "python"), lambda state: (state[0], (-1, *state[1][1:]), None)),
    ],
)
def test_a_state_of_another_form_is_refused_when_it_is_read(folder: Path, keys: tuple[Any, ...], value: Any) -> None:
    content = _content(folder)
    _set(content, keys, value)
    torch.save(content, folder / STATE_FILE)
    assert len(_require_refusal(folder, lambda: load_state(folder))) < 1000


@pytest.mark.parametrize("value", [[], "x", torch.zeros(3)])
def test_a_state_that_is_no_table_is_refused(folder: Path, value: Any) -> None:
    torch.save(value, folder / STATE_FILE)
    _require_refusal(folder, lambda: load_state(folder))


def test_a_state_that_takes_more_memory_than_disk_is_refused(folder: Path) -> None:
    path = folder / STATE_FILE
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x60\x85R.")
    assert "bytearray" in _require_refusal(folder, lambda: load_state(folder))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    assert "compressed" in _require_refusal(folder, lambda: load_state(folder))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("cursor", "epoch"), 3),
        (("cursor", "epoch"), 1),
        (("cursor", "done"), 7),
        (("cursor", "step"), 0),
        (("cursor", "step"), 7),
        (("cursor", "images"), 1),
        (("engine", "changing", ...), "x"),
        (("engine", "changing", ...), lambda tensor: tensor.to(torch.float8_e5m2)),
        (("engine", "changing", ...), lambda tensor: tensor[None]),
        (("engine", "changing", ...), lambda tensor: tensor.to_sparse()),
        (("engine", "changing", ...), NOTHING),
        (("engine", "changing", 5), "x"),
        (("engine", "optimizer"), {}),
        (("engine", "optimizer", ...), NOTHING),
        (("engine", "optimizer", ...), None),
        (("engine", "optimizer", ...), {}),
        (("engine", "optimizer", ..., "step"), "x"),
        (("engine", "optimizer", ..., "step"), torch.tensor(NAN)),
        (("engine", "optimizer", ..., "step"), torch.tensor(9.0)),
        (("engine", "optimizer", ..., "exp_avg"), torch.zeros(1, 2, 3)),
        (("engine", "optimizer", ..., "exp_avg_sq"), NOTHING),
    ],
)
def test_a_state_that_does_not_fit_is_refused_before_anything_is_written(
    folder: Path, models: list[nn.Module], keys: tuple[Any, ...], value: Any
) -> None:
    content = _content(folder)
    _set(content, keys, value)
    torch.save(content, folder / STATE_FILE)
    state = load_state(folder)
    _require_refusal(folder, lambda: require_fitting(folder, state, models[0], epochs=EPOCHS, pictures=PICTURES))


def test_the_honest_state_fits(stopped: Path, models: list[nn.Module]) -> None:
    require_fitting(stopped, load_state(stopped), models[0], epochs=EPOCHS, pictures=PICTURES)


def _resume(data: Path, folder: Path) -> None:
    train(tiny_config(train={"epochs": EPOCHS}), data=data, out=folder, resume=True, device="cpu", random_sam=True)


def test_a_resumed_run_checks_its_state_first(data: Path, folder: Path) -> None:
    content = _content(folder)
    content["engine"]["optimizer"] = {}
    torch.save(content, folder / STATE_FILE)
    before = (folder / LOG_FILE).read_bytes()
    assert "engine.optimizer" in _require_refusal(folder, lambda: _resume(data, folder))
    assert (folder / LOG_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"a": 1}', "kind"),
        ('{"kind": ["step"], "step": 1}', "kind"),
        ('{"kind": "step", "step": "x"}', "step"),
        ('{"kind": "stop", "step": 1' + "0" * 400 + "}", "step"),
        ('{"kind": "step", "step": 1, "loss": 1.0}', "losses"),
        ('{"kind": "step", "step": 1, "losses": {}}', "loss"),
        ('{"kind": "step", "step": 1, "loss": NaN, "losses": {}}', "loss"),
        ('{"kind": "step", "step": 1, "loss": 1, "losses": {"a": null}}', "losses"),
        ('{"kind": "evaluation", "step": 1}', "metrics"),
        ('{"kind": "evaluation", "step": 1, "metrics": 3}', "metrics"),
        ('{"kind": "evaluation", "step": 1, "metrics": {"segm_AP": "x"}}', "metrics"),
        ("[1]", "JSON object"),
        ("{", "JSON object"),
        ("\udcff\udcfe", "JSON object"),
    ],
)
def test_a_line_that_no_run_writes_is_named_at_the_start(folder: Path, line: str, words: str) -> None:
    path = folder / LOG_FILE
    path.write_bytes(f"{STEP}\n{line}\n{STEP}\n".encode(errors="surrogateescape"))
    with pytest.raises(TrainingError, match=f"line 2: {words}|line 2: is not a {words}") as caught:
        check_folder(folder, resume=True, overwrite=False)
    assert caught.value.message.startswith(f"{path}: ")
    assert "without it" in caught.value.hint


def test_what_a_run_writes_is_read_even_when_it_was_cut(folder: Path) -> None:
    figures = '{"kind": "evaluation", "step": 1, "metrics": {"segm_AP": null, "f1": 0}}'
    (folder / LOG_FILE).write_text(f'{STEP}\n{figures}\n{{"kind": "st')
    assert [record["kind"] for record in read_log(folder)] == ["step", "evaluation"]


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 30)


def _many_lines(path: Path) -> None:
    path.write_bytes(b"\n" * 2_000_000)


@pytest.mark.parametrize(
    ("make", "error"),
    [(_pipe, OutputError), (Path.mkdir, OutputError), (_sparse, TrainingError), (_many_lines, TrainingError)],
)
def test_a_log_that_is_no_file_of_some_length_is_refused(
    folder: Path, make: Callable[[Path], None], error: type[Exception]
) -> None:
    (folder / LOG_FILE).unlink()
    make(folder / LOG_FILE)
    with pytest.raises(error, match=r"log\.jsonl: (is not a regular file|has more than)"):
        check_folder(folder, resume=True, overwrite=False)


@pytest.mark.parametrize("make", [_pipe, Path.touch])
@pytest.mark.parametrize("name", ["best", LAST, "tensorboard", "pictures"])
def test_a_file_in_the_place_of_a_folder_is_refused(folder: Path, name: str, make: Callable[[Path], None]) -> None:
    shutil.rmtree(folder / name, ignore_errors=True)
    make(folder / name)
    with pytest.raises(OutputError, match=f"{name}: is not a folder"):
        check_folder(folder, resume=True, overwrite=False)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name", [LOG_FILE, "state", "tensorboard", "best", "curves.png", "ranks"])
def test_a_link_out_of_the_run_folder_is_refused(folder: Path, tmp_path: Path, name: str, resume: bool) -> None:
    path, outside = folder / name, tmp_path / "outside"
    if path.is_dir():
        path.rename(outside)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(outside)
    with pytest.raises(OutputError, match=f"{name}: is a symbolic link") as caught:
        check_folder(folder, resume=resume, overwrite=not resume)
    assert caught.value.exit_code == 7


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "outside")
    with pytest.raises(OutputError, match="symbolic link"), only_run(tmp_path / "run"):
        pass
    assert not (tmp_path / "outside").exists()


def test_the_run_folder_itself_may_be_a_link(data: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    _resume(data, tmp_path / "link")
    assert read_log(folder)[-1]["kind"] == "end"


def test_a_loss_scaler_is_read_and_may_have_skipped_every_step(folder: Path, models: list[nn.Module]) -> None:
    content = _content(folder)
    content["engine"] |= {"scaler": torch.amp.GradScaler("cpu").state_dict(), "optimizer": {}}
    torch.save(content, folder / STATE_FILE)
    require_fitting(folder, load_state(folder), models[0], epochs=EPOCHS, pictures=PICTURES)
    content["engine"]["scaler"]["_growth_tracker"] = HUGE
    torch.save(content, folder / STATE_FILE)
    assert "engine.scaler" in _require_refusal(folder, lambda: load_state(folder))
