"""Checkpoint folders and foreign weights with random damage: one line or a result, never anything else."""

from __future__ import annotations

import functools
import io
import json
import logging
import pickle
import random
import shutil
import tempfile
import tomllib
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from rsprompter_cli.config import load_config
from rsprompter_cli.errors import RspError
from rsprompter_cli.io.model_files.checkpoint import CONFIG_FILE, META_FILE, WEIGHTS_FILE, write_checkpoint
from rsprompter_cli.io.model_files.original_file import read_original_file
from rsprompter_cli.io.model_files.sam_folder import config_from_arch, read_sam_folder
from rsprompter_cli.models.describe import describe_checkpoint, summary_rows
from tests.doors import mutate, pool
from tests.make.tiny_models import TINY_VIT, tiny_config, tiny_meta, tiny_model

FEW = 120


@functools.cache
def base() -> Path:
    """A sound checkpoint, made once in a process."""
    root = Path(tempfile.mkdtemp(prefix="rsp-fuzz-"))
    facts: dict[str, Any] = {"seconds_per_window": 1.5, "train": {"images": 3, "file": "a.json"}, "credits": ["a", "b"]}
    meta = tiny_meta(gsd_range=(0.2, 0.5), bands=(1, 2, 3), metrics={"segm_AP": 0.5}, provenance=facts)
    write_checkpoint(root / "model", tiny_model().state_dict(), tiny_config(), meta)
    return root / "model"


def config(rng: random.Random, folder: Path) -> None:
    path = folder / CONFIG_FILE
    content = path.read_bytes()
    if rng.random() < 0.75:
        try:
            content = tomli_w.dumps(mutate.damaged(tomllib.loads(content.decode()), rng)).encode()
        except (TypeError, AttributeError, ValueError, RecursionError):
            content = mutate.damaged_bytes(content, rng)  # a tree that TOML cannot hold
    else:
        content = mutate.damaged_bytes(content, rng)
    path.write_bytes(content)
    show(folder)


def override(rng: random.Random, folder: Path) -> None:
    long = "a" + ".b" * rng.choice((1, 20, 9000))
    key = rng.choice(("train.lr", "model.neck.layers", "model.sam_arch.depths", long))
    value = (
        json.dumps(mutate.hostile(rng)) if rng.random() < 0.7 else "{" + "a." * rng.choice((3, 500, 20_000)) + "b=1}"
    )
    load_config("rsprompter-anchor-whu", [f"{key}={value}"])


def meta(rng: random.Random, folder: Path) -> None:
    path = folder / META_FILE
    content = json.dumps(mutate.damaged(json.loads(path.read_bytes()), rng)).encode()
    path.write_bytes(mutate.damaged_bytes(content, rng) if rng.random() < 0.2 else content)
    show(folder)


def weights(rng: random.Random, folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    head, body = content[8 : 8 + size], content[8 + size :]
    if rng.random() < 0.6:
        head = json.dumps(mutate.damaged(json.loads(head), rng)).encode()
    else:
        head = mutate.damaged_bytes(head, rng)
    stated = len(head) if rng.random() < 0.8 else rng.choice((0, 7, 2**20, 2**31, 2**40, 2**64 - 1))
    path.write_bytes(stated.to_bytes(8, "little") + head + body)
    show(folder)


def sam_config(rng: random.Random, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(mutate.damaged(config_from_arch(TINY_VIT), rng)), encoding="utf-8")
    read_sam_folder(folder)


def foreign(rng: random.Random, folder: Path) -> None:
    tree: Any = {"state_dict": {"a.weight": 1, "b": [1, 2]}, "meta": {"epoch": 3, "classes": ["x"]}, "message_hub": {}}
    tree = mutate.damaged(tree, rng)
    if isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict) and rng.random() < 0.7:
        tree["state_dict"] = {"a.weight": torch.zeros(3, 4), "b": torch.ones(2)}
    packed = io.BytesIO()
    if rng.random() < 0.8:
        torch.save(tree, packed)
        content = packed.getvalue()
    else:
        content = pickle.dumps(tree, protocol=rng.choice((0, 2, 4)))
    if rng.random() < 0.5:
        content = _damaged_archive(content, rng)
    path = folder / "foreign.pth"
    path.write_bytes(content)
    read_original_file(path)


def _damaged_archive(content: bytes, rng: random.Random) -> bytes:
    """The bytes of an archive, or of one of its members, damaged."""
    if rng.random() < 0.5 or not content.startswith(b"PK"):
        return mutate.damaged_bytes(content, rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            new.writestr(name, mutate.damaged_bytes(member, rng) if name.endswith("data.pkl") else member)
    return packed.getvalue()


def show(folder: Path) -> None:
    facts = describe_checkpoint(folder)
    for name, value in summary_rows(facts):
        f"{name} {value}".encode()
    json.dumps(facts, allow_nan=False).encode()


def attempt(seed: int) -> None:
    """One input; an error must be one line of ours."""
    logging.disable(logging.CRITICAL)
    rng = random.Random(seed)
    fault: RspError | None = None
    with tempfile.TemporaryDirectory(prefix="rsp-fuzz-") as name:
        folder = Path(shutil.copytree(base(), Path(name, "model")))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # numpy's, of numbers beyond a float
                rng.choice((config, config, override, meta, meta, weights, sam_config, foreign))(rng, folder)
        except RspError as error:
            fault = error
        finally:
            logging.disable(logging.NOTSET)
    pool.check_fault(fault, exit_codes=(2, 3, 4))


def test_a_few_damaged_folders() -> None:
    assert pool.run_few(attempt, FEW) == []


@pytest.mark.slow
def test_tens_of_thousands_of_damaged_folders() -> None:
    pool.run_all(attempt, pool.count(100_000)).check()
