"""The checkpoint folder: what is written is read back, and damage is named."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from rsprompter_cli.config import load_config
from rsprompter_cli.errors import CheckpointError, OutputError, UsageError
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta, read_checkpoint, read_safetensors, write_checkpoint

META = CheckpointMeta(
    class_names=("building", "tank"),
    category_ids=(0, 7),
    image_size=256,
    gsd_range=(0.13, 0.3),
    bands=(3, 2, 1),
    sam={"name": "tiny-vit"},
    metrics={"segm_AP50": 0.25},
)


def write(folder: Path, value: float = 1.0) -> dict[str, torch.Tensor]:
    tensors = {"a.weight": torch.full((2, 3), value), "b.half": torch.tensor([value], dtype=torch.float16)}
    write_checkpoint(folder, tensors, load_config("rsprompter-anchor-cpu"), META)
    return tensors


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    tensors = write(tmp_path / "best")
    checkpoint = read_checkpoint(tmp_path / "best")
    assert checkpoint.meta == META
    assert checkpoint.config == load_config("rsprompter-anchor-cpu")
    loaded = checkpoint.tensors()
    assert loaded.keys() == tensors.keys()
    for key, value in tensors.items():
        assert loaded[key].dtype == value.dtype
        assert torch.equal(loaded[key], value)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permissions of this kind")
def test_every_file_has_the_permissions_of_a_new_file(tmp_path: Path) -> None:
    write(tmp_path / "best")
    (tmp_path / "new").touch()
    files = [*(tmp_path / "best").iterdir(), tmp_path / "new"]
    assert len({path.stat().st_mode for path in files}) == 1


def test_shared_and_strided_tensors_are_stored_whole(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    tensors = {"all": base, "turned": base.T, "part": base[:, 1]}
    write_checkpoint(tmp_path / "x", tensors, load_config("rsprompter-anchor-cpu"), META)
    loaded = read_checkpoint(tmp_path / "x").tensors()
    assert all(torch.equal(loaded[key], value) for key, value in tensors.items())


def test_meta_is_plain_json(tmp_path: Path) -> None:
    write(tmp_path / "best")
    fields = json.loads((tmp_path / "best" / "meta.json").read_text(encoding="utf-8"))
    assert fields["class_names"] == ["building", "tank"]
    assert fields["category_ids"] == [0, 7]


def test_meta_without_a_number_stays_json(tmp_path: Path) -> None:
    meta = replace(META, metrics={"f1": 0.5, "segm_APs": math.nan}, provenance={"losses": [1.0, math.inf]})
    write_checkpoint(tmp_path / "x", {"w": torch.zeros(1)}, load_config("rsprompter-anchor-cpu"), meta)
    text = (tmp_path / "x" / "meta.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    fields = json.loads(text, parse_constant=pytest.fail)
    assert fields["metrics"] == {"f1": 0.5, "segm_APs": None}
    assert fields["provenance"] == {"losses": [1.0, None]}
    back = read_checkpoint(tmp_path / "x").meta
    assert back.metrics["f1"] == 0.5
    assert math.isnan(back.metrics["segm_APs"])


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such checkpoint folder"):
        read_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.safetensors", "config.toml", "meta.json"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "best")
    (tmp_path / "best" / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        read_checkpoint(tmp_path / "best")


def cut_meta(fields: dict[str, object]) -> None:
    fields["class_names"] = []


def add_meta(fields: dict[str, object]) -> None:
    fields["surprise"] = 1


def later_meta(fields: dict[str, object]) -> None:
    fields["format_version"] = 99


def drop_meta(fields: dict[str, object]) -> None:
    del fields["image_size"]


@pytest.mark.parametrize("change", [cut_meta, add_meta, later_meta, drop_meta])
def test_meta_that_is_not_ours_is_refused(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "best")
    file = tmp_path / "best" / "meta.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    change(fields)
    file.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"best/meta\.json: damaged"):
        read_checkpoint(tmp_path / "best")


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", "null", '"text"'])
def test_damaged_meta_is_one_line(tmp_path: Path, content: str) -> None:
    write(tmp_path / "best")
    (tmp_path / "best" / "meta.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "best")
    assert "\n" not in str(caught.value)


def test_damaged_config_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "best")
    (tmp_path / "best" / "config.toml").write_text("name = ", encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path / "best")


def test_unknown_key_in_config_is_named(tmp_path: Path) -> None:
    write(tmp_path / "best")
    file = tmp_path / "best" / "config.toml"
    file.write_text("surprise = 1\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UsageError, match="surprise"):
        read_checkpoint(tmp_path / "best")


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_truncated_weights_are_refused(tmp_path: Path, keep: int) -> None:
    write(tmp_path / "best")
    file = tmp_path / "best" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        read_checkpoint(tmp_path / "best").tensors()


def test_pickle_under_the_weights_name_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    write(tmp_path / "best")
    torch.save({"w": Bomb()}, tmp_path / "best" / "model.safetensors")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "best").tensors()
    assert not marker.exists()


def test_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_safetensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_full_disk_while_saving_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    write(tmp_path / "last", value=1.0)

    def no_space(*_: object, **__: object) -> None:
        raise kind("I/O error: No space left on device")  # safetensors wraps it, the file system does not

    monkeypatch.setattr("safetensors.torch.save_file", no_space)
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "last", value=2.0)
    monkeypatch.undo()
    assert float(read_checkpoint(tmp_path / "last").tensors()["a.weight"][0, 0]) == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_folder_caught_between_the_renames_is_read_where_it_lies(tmp_path: Path) -> None:
    write(tmp_path / "last", value=3.0)
    (tmp_path / "last").rename(tmp_path / ".last.old")
    found = read_checkpoint(tmp_path / "last")
    assert found.meta == META
    assert float(found.tensors()["a.weight"][0, 0]) == 3.0
    assert [path.name for path in tmp_path.iterdir()] == [".last.old"]
    write(tmp_path / "last", value=4.0)
    assert float(read_checkpoint(tmp_path / "last").tensors()["a.weight"][0, 0]) == 4.0
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_reading_leaves_the_leftover_of_a_finished_replacement_to_its_writer(tmp_path: Path) -> None:
    write(tmp_path / "last", value=2.0)
    write(tmp_path / ".last.old", value=1.0)
    assert float(read_checkpoint(tmp_path / "last").tensors()["a.weight"][0, 0]) == 2.0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".last.old", "last"]


def test_class_names_and_category_ids_must_be_as_many(tmp_path: Path) -> None:
    meta = replace(META, category_ids=(1,))
    write_checkpoint(tmp_path / "x", {"w": torch.zeros(1)}, load_config("rsprompter-anchor-cpu"), meta)
    with pytest.raises(CheckpointError, match="the same length"):
        read_checkpoint(tmp_path / "x")
