"""rsp checkpoint and rsp models, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rsprompter_cli.cli.app import run
from rsprompter_cli.config import dump_config
from rsprompter_cli.io.checkpoint import BUNDLED_MODEL, WEIGHTS_FILE, write_checkpoint
from tests.make.original_files import save_like_mmengine
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with adapters, and beside it its preset and what the original would have saved."""
    root = tmp_path_factory.mktemp("checkpoints")
    config = tiny_config(encoder="lora")
    meta = tiny_meta(gsd_range=(0.1, 0.3), metrics={"segm_AP": 0.5, "bbox_AP_large": float("nan")})
    write_checkpoint(root / "model", tiny_model(encoder="lora").state_dict(), config, meta)
    (root / "preset.toml").write_text(dump_config(config), encoding="utf-8")
    assert run(["-q", "checkpoint", "export", str(root / "model"), "--out", str(root / "model.pth")]) == 0
    state = torch.load(root / "model.pth", weights_only=True)["state_dict"]
    save_like_mmengine(root / "epoch_12.pth", state, classes=("class0", "class1", "class2"))
    return root


def error_of(arguments: list[str], code: int, capsys: Captured) -> str:
    """The one line on stderr of a command that ends with `code`."""
    capsys.readouterr()
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    return err


def import_words(folder: Path, file: str, *more: str) -> list[str]:
    return ["checkpoint", "import", str(folder / file), "--preset", str(folder / "preset.toml"), *more]


def test_import_says_what_it_took(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "imported"
    assert run(import_words(folder, "epoch_12.pth", "--out", str(out), "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["variant"] == "rsprompter-anchor"
    assert told["weights"] == "as trained"
    assert told["class_names"] == ["class0", "class1", "class2"]
    assert told["classes_from"] == "the file"
    assert told["changes"] == []
    assert (out / WEIGHTS_FILE).read_bytes() == (folder / "model" / WEIGHTS_FILE).read_bytes()
    more = ["--out", str(out), "--overwrite", "--classes", "a, b,c", "--set", "model.roi.fc_channels=64"]
    assert run(import_words(folder, "epoch_12.pth", *more)) == 0
    text = capsys.readouterr().out
    assert "a, b, c (from --classes)" in text
    assert "roi.fc_channels = 32 (preset: 64)" in text


def test_import_ends_in_one_line_with_its_exit_code(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert "LoRA" in error_of(import_words(folder, "epoch_12.pth", *out, "--set", "model.encoder=frozen"), 4, capsys)
    assert "--classes names 1" in error_of(import_words(folder, "epoch_12.pth", *out, "--classes", "a"), 2, capsys)
    words = ["checkpoint", "import", str(folder / "epoch_12.pth"), "--preset", "rsprompter-anchor-nwpu-peft-512", *out]
    assert "instead of the preset's base" in error_of(words, 4, capsys)
    words[4] = "rsprompter-anchor-cpu"
    assert "ViT encoder" in error_of(words, 4, capsys)
    words[4] = "rsprompter-anchor-wuh"
    assert "rsprompter-anchor-whu" in error_of(words, 2, capsys)
    assert not (tmp_path / "out").exists()


def test_a_pickle_that_would_run_code_does_not(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"open({str(marker)!r}, 'w')",)

    torch.save({"state_dict": {"w": torch.zeros(1)}, "meta": Evil()}, path)
    words = ["checkpoint", "import", str(path), "--preset", str(folder / "preset.toml"), "--out", str(tmp_path / "out")]
    assert "eval" in error_of(words, 4, capsys)
    assert not marker.exists()


def test_export_does_not_replace_unasked(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    words = ["checkpoint", "export", str(folder / "model"), "--out", str(tmp_path / "model.pth")]
    assert run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tensors"] == len(torch.load(tmp_path / "model.pth", weights_only=True)["state_dict"])
    assert "--overwrite" in error_of(words, 7, capsys)
    assert "TinyViT" in error_of(
        ["checkpoint", "export", str(BUNDLED_MODEL), "--out", str(tmp_path / "x.pth")], 4, capsys
    )


def test_show_tells_parameters_classes_and_resolution(folder: Path, capsys: Captured) -> None:
    assert run(["checkpoint", "show", str(folder / "model"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["variant"] == "rsprompter-anchor"
    assert told["trainable"] == sum(block["trainable"] for block in told["blocks"]) < told["parameters"]
    assert told["class_names"] == ["class0", "class1", "class2"]
    assert told["gsd_range"] == [0.1, 0.3]
    assert told["metrics"] == {"segm_AP": 0.5, "bbox_AP_large": None}
    assert run(["checkpoint", "show", str(folder / "model")]) == 0
    text = capsys.readouterr().out
    for words in ("3: class0, class1, class2", "0.1 to 0.3 m/px", "segm_AP 0.500", "encoder lora"):
        assert words in text


def test_show_compares_the_weights(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (folder / "model").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / WEIGHTS_FILE).write_bytes((folder / "model" / WEIGHTS_FILE).read_bytes()[:5000])
    assert "damaged" in error_of(["checkpoint", "show", str(broken)], 4, capsys)


def test_merged_adapters_are_gone(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "merged"
    assert run(["checkpoint", "merge-lora", str(folder / "model"), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(out), "merged": 4}
    assert run(["checkpoint", "show", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["encoder"] == "frozen"
    assert told["provenance"]["merged_adapters"] == 4
    assert "no adapters" in error_of(
        ["checkpoint", "merge-lora", str(out), "--out", str(tmp_path / "again")], 4, capsys
    )


def test_models_lists_kinds_folders_and_sams(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path))
    (tmp_path / "sam" / "odd").mkdir(parents=True)
    (tmp_path / "sam" / "odd" / "config.json").write_text("{", encoding="utf-8")
    assert run(["models", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    kinds = {variant["kind"]: variant for variant in told["variants"]}
    assert "rsprompter-anchor-whu" in kinds["rsprompter-anchor"]["presets"]
    assert len(kinds) == 8
    models = {model["name"]: model for model in told["models"]}
    assert models["bundled"]["class_names"] == ["building"]
    assert models["bundled"]["problem"] is None
    mine = models[str(folder / "model")]
    assert (mine["kind"], mine["image_size"], mine["gsd_range"]) == ("rsprompter-anchor", 64, [0.1, 0.3])
    sams = {sam["name"]: sam for sam in told["sam"]}
    assert sams["base"]["folder"] is None
    assert sams["odd"]["problem"]
    assert run(["models", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "0.1 to 0.3 m/px" in text
    assert "rsp download-sam base" in text
