"""rsp checkpoint and rsp models, as typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from rsprompter_cli.cli.app import run
from rsprompter_cli.config import Config, dump_config
from rsprompter_cli.io.model_files.checkpoint import BUNDLED_MODEL, WEIGHTS_FILE, write_checkpoint
from tests.make.coco_sets import CLASSES, make_set
from tests.make.original_configs import Expression, changed, config_tree, pretty_text, without
from tests.make.original_files import save_like_mmengine
from tests.make.tiny_models import TINY_VIT, tiny_config, tiny_meta, tiny_model, tiny_samseg_maskrcnn_config

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


def test_import_lists_what_it_took_from_the_configuration_and_what_it_assumed(
    folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    state = torch.load(folder / "model.pth", weights_only=True)["state_dict"]
    tree = config_tree(tiny_config(encoder="lora", image_size=64).model)
    changed(tree, "model.backbone.peft_config.lora_alpha", 8)
    changed(tree, "model.roi_head.bbox_head.loss_cls.loss_weight", 3.0)
    changed(tree, "model.test_cfg.rcnn.score_thr", Expression("float('0.3')"))
    without(tree, "model.rpn_head.anchor_generator.scales")
    save_like_mmengine(tmp_path / "epoch_1.pth", state, classes=("x", "y", "z"), cfg=pretty_text(tree))
    words = ["checkpoint", "import", str(tmp_path / "epoch_1.pth"), "--preset", str(folder / "preset.toml")]
    words += ["--out", str(tmp_path / "out"), "--overwrite"]
    assert run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["configuration"] == {"found_in": "meta.cfg", "problem": None}
    settings = {setting["key"]: setting for setting in told["settings"]}
    assert settings["model.lora.alpha"] == {
        "key": "model.lora.alpha",
        "value": 8,
        "source": "configuration",
        "entry": "model.backbone.peft_config.lora_alpha",
        "preset": 32,
    }
    assert settings["model.lora.r"]["source"] == settings["model.image_size"]["source"] == "tensors"
    assert told["assumed"] == ["model.rpn.anchor_scales", "model.roi.score_threshold"]
    assert told["not_understood"] == ["model.test_cfg.rcnn.score_thr"]
    assert told["training_differences"] == {"model.roi_head.bbox_head.loss_cls.loss_weight": "3.0, rsp trains with 1.0"}
    assert run(words) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "configuration meta.cfg",
        "from configuration lora.alpha = 8 (preset: 32)",
        "assumed rpn.anchor_scales = [4.0, 8.0]",
        "assumed roi.score_threshold = 0.01",
        "not understood test_cfg.rcnn.score_thr",
        "trained with roi_head.bbox_head.loss_cls.loss_weight = 3.0, rsp trains with 1.0",
    ):
        assert line in lines
    more = ["--set", "model.lora.alpha=16", "--set", "model.rpn.anchor_scales=[3.0, 9.0]", "--json"]
    assert run([*words, *more]) == 0
    told = json.loads(capsys.readouterr().out)
    settings = {setting["key"]: setting for setting in told["settings"]}
    assert (settings["model.lora.alpha"]["value"], settings["model.lora.alpha"]["source"]) == (16, "--set")
    assert told["assumed"] == ["model.roi.score_threshold"]
    # Without a configuration all of it is assumed, and said.
    assert run(import_words(folder, "model.pth", "--out", str(tmp_path / "out"), "--overwrite")) == 0
    out = capsys.readouterr().out
    assert "none in the file" in out
    assert "lora.alpha = 32" in out
    assert "pixel mean" in out
    assert run(["checkpoint", "show", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["assumed_settings"]["lora.alpha"] == 32
    changed(tree, "model.backbone.peft_config.r", 4)
    save_like_mmengine(tmp_path / "epoch_1.pth", state, classes=("x", "y", "z"), cfg=pretty_text(tree))
    assert "tensors have adapters (LoRA) of rank 16" in error_of(words, 4, capsys)


def test_import_ends_in_one_line_with_its_exit_code(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert "LoRA" in error_of(import_words(folder, "epoch_12.pth", *out, "--set", "model.encoder=frozen"), 4, capsys)
    assert "--classes has 1 name" in error_of(import_words(folder, "epoch_12.pth", *out, "--classes", "a"), 2, capsys)
    words = ["checkpoint", "import", str(folder / "epoch_12.pth"), "--preset", "rsprompter-anchor-nwpu-peft-512", *out]
    assert "instead of the preset's base" in error_of(words, 4, capsys)
    words[4] = "rsprompter-anchor-cpu"
    assert "ViT encoder" in error_of(words, 4, capsys)
    words[4] = "rsprompter-anchor-wuh"
    assert "rsprompter-anchor-whu" in error_of(words, 2, capsys)
    words[4] = "samseg-maskrcnn-nwpu"
    assert "contains a rsprompter-anchor model, the preset describes a samseg-maskrcnn model" in error_of(
        words, 4, capsys
    )
    words[4] = "maskrcnn-nwpu"
    assert "no model of the kind maskrcnn" in error_of(words, 2, capsys)
    words[2] = str(cut_in_half(folder / "model" / WEIGHTS_FILE, tmp_path / "cut.safetensors"))
    words[4] = "rsprompter-anchor-nwpu"
    assert "cut.safetensors: damaged" in error_of(words, 4, capsys)
    assert not (tmp_path / "out").exists()


def cut_in_half(source: Path, target: Path) -> Path:
    content = source.read_bytes()
    target.write_bytes(content[: len(content) // 2])
    return target


def write_attack(path: Path, marker: Path) -> Path:
    """A weights file that creates `marker` where it is read without care."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"open({str(marker)!r}, 'w')",)

    torch.save({"state_dict": {"w": torch.zeros(1)}, "meta": Evil()}, path)
    return path


def test_a_pickle_that_would_run_code_does_not(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    path = write_attack(tmp_path / "evil.pth", tmp_path / "ran")
    words = ["checkpoint", "import", str(path), "--preset", str(folder / "preset.toml"), "--out", str(tmp_path / "out")]
    assert "eval" in error_of(words, 4, capsys)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO set of two classes, and beside it a preset."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        make_set(root / "set", split=split, count=2)
    (root / "tiny.toml").write_text(dump_config(tiny_config(train={"epochs": 1})), encoding="utf-8")
    return root


def words_of(command: str, data: Path, model: Path, out: Path) -> list[str]:
    """A command that takes a checkpoint."""
    own = {
        "eval": [str(model), "--data", str(data / "set"), "--split", "val", "--save-detections"],
        "predict": [str(data / "set/images/val_0.png"), "--model", str(model), "--pixel-coords", "--out"],
        "train": [str(data / "tiny.toml"), "--data", str(data / "set"), "--load-from", str(model), "--out"],
    }
    return [command, *own[command], str(out / {"train": "run"}.get(command, "found.json"))]


WIDER = TINY_VIT.model_copy(update={"hidden_size": 32})
UNFIT: dict[str, tuple[Config, int, str]] = {
    "variant": (Config(name="x", model=tiny_samseg_maskrcnn_config()), 2, "missing keys: mask_head."),
    "classes": (tiny_config(), 3, "contains a model of 3 classes, meta.json lists 2"),
    "sam": (tiny_config(sam_arch=WIDER), 2, "vit.pos_embed [1, 4, 4, 16] instead of [1, 4, 4, 32]"),
}
"""What a folder's config.toml says, how many classes its weights have, and what is told of it."""


@pytest.mark.parametrize("command", ["eval", "predict", "train"])
@pytest.mark.parametrize("fault", UNFIT)
def test_weights_that_are_not_what_their_folder_says(
    fault: str, command: str, data: Path, tmp_path: Path, capsys: Captured
) -> None:
    config, count, told = UNFIT[fault]
    meta = tiny_meta(num_classes=2, class_names=CLASSES)
    write_checkpoint(tmp_path / "model", tiny_model(num_classes=count).state_dict(), config, meta)
    if command == "train" and fault == "variant":
        told = "contains a samseg-maskrcnn model, the configuration describes a rsprompter-anchor model"
    assert told in error_of(words_of(command, data, tmp_path / "model", tmp_path), 4, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("command", ["eval", "predict", "train"])
def test_damaged_and_foreign_weights(command: str, data: Path, tmp_path: Path, capsys: Captured) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    out.mkdir()
    meta = tiny_meta(num_classes=2, class_names=CLASSES)
    write_checkpoint(model, tiny_model(num_classes=2).state_dict(), tiny_config(), meta)
    words = words_of(command, data, model, out)
    cut_in_half(model / WEIGHTS_FILE, model / WEIGHTS_FILE)
    assert f"{WEIGHTS_FILE}: damaged or not a safetensors file" in error_of(words, 4, capsys)
    write_attack(model / WEIGHTS_FILE, tmp_path / "ran")
    assert f"{WEIGHTS_FILE}: damaged or not a safetensors file" in error_of(words, 4, capsys)
    evil = write_attack(tmp_path / "evil.pth", tmp_path / "ran")
    told = error_of(words_of(command, data, evil, out), 4, capsys)
    assert "evil.pth: a file, not a checkpoint folder" in told
    assert "rsp checkpoint import" in told
    assert f"(give {model})" in error_of(words_of(command, data, model / WEIGHTS_FILE, out), 4, capsys)
    assert not (tmp_path / "ran").exists()
    assert list(out.iterdir()) == []


def test_training_does_not_start_from_another_model(data: Path, tmp_path: Path, capsys: Captured) -> None:
    model = tmp_path / "model"
    meta = tiny_meta(num_classes=2, class_names=CLASSES)
    write_checkpoint(model, tiny_model(num_classes=2, sam_arch=WIDER).state_dict(), tiny_config(sam_arch=WIDER), meta)
    words = words_of("train", data, model, tmp_path)
    assert "its SAM base differs in size from the SAM base of the configuration" in error_of(words, 4, capsys)
    told = error_of(["train", "rsprompter-anchor-cpu", *words[2:]], 4, capsys)
    assert "the SAM tiny-vit of the configuration (use --sam base)" in told
    # Of the same sizes, but of pictures of another size.
    write_checkpoint(model, tiny_model(num_classes=2, image_size=96).state_dict(), tiny_config(image_size=96), meta)
    assert "vit.pos_embed [1, 6, 6, 16] instead of [1, 4, 4, 16]" in error_of(words, 4, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_export_does_not_replace_unasked(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    words = ["checkpoint", "export", str(folder / "model"), "--out", str(tmp_path / "model.pth")]
    assert run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tensors"] == len(torch.load(tmp_path / "model.pth", weights_only=True)["state_dict"])
    assert "--overwrite" in error_of(words, 7, capsys)
    assert "TinyViT" in error_of(
        ["checkpoint", "export", str(BUNDLED_MODEL), "--out", str(tmp_path / "x.pth")], 4, capsys
    )


def test_inputs_and_foreign_files_are_never_replaced(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    keep = tmp_path / "keep"
    (keep / "sub").mkdir(parents=True)
    shutil.copytree(folder / "model", keep / "model")
    shutil.copy(folder / "epoch_12.pth", keep / "epoch_12.pth")
    foreign = tmp_path / "foreign"
    shutil.copytree(folder / "model", foreign)
    (foreign / "thesis.txt").write_text("years of work", encoding="utf-8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    preset = ["--preset", str(folder / "preset.toml")]
    source, model = str(keep / "epoch_12.pth"), str(keep / "model")
    tried = {
        "is a file": ["import", source, *preset, "--out", source],
        "contains the input": ["import", source, *preset, "--out", str(keep)],
        "'thesis.txt', which is not part of a checkpoint": ["import", source, *preset, "--out", str(foreign)],
        "has no name": ["import", source, *preset, "--out", ""],
        "is the input": ["merge-lora", model, "--out", f"{keep}/sub/../model"],
    }
    for words, command in tried.items():
        assert words in error_of(["checkpoint", *command, "--overwrite"], 7, capsys)
    for name in (WEIGHTS_FILE, "meta.json"):
        wrong = ["checkpoint", "export", model, "--out", f"{model}/{name}", "--overwrite"]
        assert "ends in .pth" in error_of(wrong, 2, capsys)
    image = str(Path(__file__).parents[2] / "examples/scene/town.tif")
    command = ["predict", image, "--model", model, "--out", f"{model}/meta.json", "--overwrite"]
    assert "is a part of the input" in error_of(command, 7, capsys)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


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


def test_models_names_a_folder_that_is_not_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert "nosuch: no such folder" in error_of(["models", str(folder), "nosuch"], 3, capsys)
    assert "preset.toml: a file, not a folder" in error_of(["models", str(folder / "preset.toml")], 3, capsys)
    assert "no such folder" in error_of(["models", "runs"], 3, capsys)
    # The default may be absent.
    assert run(["models"]) == 0
    out, err = capsys.readouterr()
    assert "bundled" in out
    assert err == ""


def test_models_lists_checkpoint_folders_of_the_current_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("my-model", "bundled", ".hidden", "lacking", "runs/one/best", "other/deep/model"):
        shutil.copytree(folder / "model", tmp_path / name)
    (tmp_path / "lacking" / WEIGHTS_FILE).unlink()
    assert run(["models", "--json"]) == 0
    names = [one["name"] for one in json.loads(capsys.readouterr().out)["models"]]
    assert names == ["bundled", str(Path("runs/one/best")), "./bundled", "my-model"]
    assert run(["models"]) == 0
    assert "my-model" in capsys.readouterr().out
    assert run(["models", "runs", "--json"]) == 0
    assert "my-model" not in capsys.readouterr().out


def test_import_of_a_folder_and_of_odd_class_names_is_one_line(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    out = ["--out", str(tmp_path / "out")]
    told = error_of(import_words(folder, "model", *out), 4, capsys)
    assert "model: a checkpoint folder, which needs no import" in told
    for classes, words in {
        "a,,c": "--classes: class 2 has no name",
        "a,b,a": "--classes: classes 1 and 3 are both named 'a'",
        "a,b,\x1b[2Jc": r"--classes: class 3, '\x1b[2Jc', has a control character",
    }.items():
        told = error_of(import_words(folder, "epoch_12.pth", *out, "--classes", classes), 2, capsys)
        assert words in told
    assert not (tmp_path / "out").exists()


def test_import_refuses_what_deepspeed_wrote_and_names_its_script(tmp_path: Path, capsys: Captured) -> None:
    step = tmp_path / "run" / "global_step12"
    step.mkdir(parents=True)
    (tmp_path / "run" / "latest").write_text("global_step12")
    parts = ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"]
    for name in parts:
        (step / name).write_bytes(b"a pickle that is not read")
    for given in (tmp_path / "run", step, *(step / name for name in parts)):
        command = ["checkpoint", "import", str(given), "--preset", "rsprompter-anchor-nwpu"]
        error = error_of([*command, "--out", str(tmp_path / "out")], 4, capsys)
        assert f"{given}: " in error
        assert "zero_to_fp32.py" in error
    assert not (tmp_path / "out").exists()


def test_the_bundled_model_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["checkpoint", "show", "bundled"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[1].split() == ["model", "bundled"]
    assert str(BUNDLED_MODEL) not in shown
    assert run(["checkpoint", "show", "bundled", "--json"]) == 0
    named = capsys.readouterr().out
    assert run(["checkpoint", "show", "--json"]) == 0
    assert capsys.readouterr().out == named
    assert run(["models", "bundled", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["models"]] == ["bundled"]
    assert "bundled: its encoder is a TinyViT" in error_of(
        ["checkpoint", "export", "bundled", "--out", "bundled.pth"], 4, capsys
    )
    assert "bundled: has no adapters" in error_of(["checkpoint", "merge-lora", "bundled", "--out", "m"], 4, capsys)
    for split in ("train", "test"):
        make_set(tmp_path / "set", split=split)
    assert "bundled: contains a rsprompter-anchor model" in error_of(
        ["train", "samseg-maskrcnn-whu", "--data", "set", "--load-from", "bundled"],
        4,
        capsys,
    )


def test_a_folder_called_bundled_is_told_from_the_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "give bundled without ./" in error_of(["checkpoint", "show", "./bundled"], 4, capsys)
    shutil.copytree(folder / "model", "bundled")
    assert run(["checkpoint", "show", "./bundled", "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert (own["name"], own["class_names"][0]) == ("./bundled", "class0")
    assert run(["checkpoint", "show", "bundled", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["class_names"] == ["building"]
    assert "bundled give ./bundled" in captured.err


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bundeld", "did you mean 'bundled'?"),
        ("BUNDLED", "did you mean 'bundled'?"),
        ("my-modle", "did you mean 'my-model'?"),
        ("runs/town/bset", "did you mean 'runs/town/best'?"),
        ("elsewhere", "models here: bundled, my-model, runs/town/best; rsp models lists them"),
        ("base", "base is a SAM"),
        ("rsprompter-anchor-whu", "is a preset, which has no weights"),
        ("runs/town", "give runs/town/best"),
    ],
)
def test_an_unknown_model_is_answered_with_those_there_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, name: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "model", "my-model")
    shutil.copytree(folder / "model", "runs/town/best")
    assert hint in error_of(["checkpoint", "show", name], 4, capsys)
