"""The configuration: presets, overrides, and what a slip of the keyboard gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.config import (
    DEFAULT_PRESET,
    KNOWN_SAM,
    Config,
    SamModelConfig,
    dump_config,
    list_presets,
    load_config,
    parse_config,
    valid_keys,
)
from rsprompter_cli.errors import InputError, UsageError

PRESETS = sorted(list_presets())


def reload(config: Config, folder: Path) -> Config:
    file = folder / "config.toml"
    file.write_text(dump_config(config), encoding="utf-8")
    return load_config(file)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_round_trips(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert config.name == name
    assert reload(config, tmp_path) == config


@pytest.mark.parametrize("name", PRESETS)
def test_preset_opens_with_the_command_that_runs_it(name: str) -> None:
    first = list_presets()[name].read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"# rsp train {name} --data ")
    assert first.removeprefix(f"# rsp train {name} --data ").split()[0] == load_config(name).data.root


@pytest.mark.parametrize("name", PRESETS)
def test_preset_names_a_known_sam_or_none(name: str) -> None:
    model = load_config(name).model
    assert not isinstance(model, SamModelConfig) or model.sam in KNOWN_SAM


def test_default_preset_exists() -> None:
    assert DEFAULT_PRESET in PRESETS


def test_overrides_change_single_keys() -> None:
    changes = ["train.lr=1e-3", "model.encoder=lora", "train.augment.scale=[0.5, 1.5]", "train.epochs=3"]
    config = load_config(DEFAULT_PRESET, changes)
    assert config.train.lr == 1e-3
    assert config.model.encoder == "lora"
    assert config.train.augment.scale == (0.5, 1.5)
    assert config.train.epochs == 3
    assert config.model.rpn == load_config(DEFAULT_PRESET).model.rpn


def test_override_none_removes_a_key() -> None:
    assert load_config("rsprompter-anchor-cpu", ["train.clip_grad=none"]).train.clip_grad is None


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("train.lerning_rate=1", "train.lerning_rate", "train."),
        ("train.epoch=3", "unknown key 'train.epoch'", "train.epochs"),
        ("trian.lr=1", "unknown key 'trian'", "train"),
        ("model.roi.fc_chanels=3", "unknown key 'model.roi.fc_chanels'", "model.roi.fc_channels"),
        ("train.epochs=many", "train.epochs", ""),
        ("train.lr=-1", "train.lr", ""),
        ("train.lr=nan", "train.lr: must be a finite number", ""),
        ("train.lr=" + "[" * 5000, "--set train.lr: its value is nested more than 64 deep", ""),
        ("train.augment.scale=[2.0, 1.0]", "train.augment.scale", ""),
        ("train.lr", "key=value", ""),
        ("=3", "key=value", ""),
        ("name.x=3", "'name' is a value", ""),
    ],
)
def test_bad_override_is_named(override: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(DEFAULT_PRESET, [override])
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.epochs=many", "train.epochs: must be a whole number"),
        ("train.epochs=2.5", "train.epochs: must be a whole number"),
        ("train.epochs=[2]", "train.epochs: must be a whole number"),
        ("train.epochs=0", "train.epochs: must be more than 0"),
        ("train.lr=fast", "train.lr: must be a number"),
        ("train.workers=-1", "train.workers: must be 0 or more"),
        ("train.augment.hue=0.7", "train.augment.hue: must be 0.5 or less"),
        ("train.seed=9223372036854775808", "train.seed: must be less than 9223372036854775808"),
        ("train.augment.rotate90=perhaps", "train.augment.rotate90: must be true or false"),
        ("train.precision=fp8", "train.precision: must be 'auto', 'fp32', 'bf16' or 'fp16'"),
        ("train.augment.scale=1.5", "train.augment.scale: must be a list, such as [1, 2]"),
        ("train.augment.scale=[1, 2, 3]", "train.augment.scale: must have 2 items at most, has 3"),
        ("train.augment.scale=[1]", "train.augment.scale.1: is missing"),
        ("model.rpn.anchor_scales=[]", "model.rpn.anchor_scales: must have 1 or more items, has 0"),
        ("model.roi=3", "model.roi: must be a table of keys"),
        ("data.root=3", "data.root: must be text"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(change: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(DEFAULT_PRESET, [change])
    assert caught.value.message == f"{DEFAULT_PRESET}: {words}"


@pytest.mark.parametrize(
    "change",
    ["KEY=1", "train.KEY=1", "name.KEY=1", "train.lr.KEY=1", "KEY", "model.kind=KEY", "train.KEY=" + "[" * 5000],
)
def test_a_very_long_key_is_cut_in_errors(change: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(DEFAULT_PRESET, [change.replace("KEY", "a" * 3000)])
    assert "aaa..." in caught.value.message
    assert len(caught.value.message) < 250


def test_a_very_long_key_of_a_file_is_cut_in_errors(tmp_path: Path) -> None:
    file = tmp_path / "long.toml"
    file.write_text("b" * 3000 + " = 1\n" + dump_config(load_config(DEFAULT_PRESET)), encoding="utf-8")
    with pytest.raises(UsageError, match=r"unknown key 'b{57}\.\.\.'"):
        load_config(file)


@pytest.mark.parametrize("text", ["'a'\nname='b'", "1]\nb=[2", "'a' # b", "1, 2", "1,", "1]#", "", "C:\\new"])
def test_override_that_is_more_than_one_value_is_text(text: str) -> None:
    config = load_config(DEFAULT_PRESET, [f"data.root={text}"])
    assert str(config.data.root) == text
    assert config.name == DEFAULT_PRESET


def test_names_too_long_for_a_file_are_no_presets(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no preset or file named 'nnn"):
        load_config("n" * 300)
    deep = tmp_path / "deep.toml"
    deep.write_text("a = " + "[" * 5000, encoding="utf-8")
    with pytest.raises(InputError, match=r"deep\.toml: is nested more than 64 deep"):
        load_config(deep)


def test_misspelt_preset_offers_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        load_config("rsprompter-ancor-whu")
    assert "rsprompter-ancor-whu" in caught.value.message
    assert "rsprompter-anchor-whu" in caught.value.hint


def test_file_that_is_no_toml_is_an_input_error(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("name = ", encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.toml"):
        load_config(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"x\.toml"):
        load_config(file)


def test_missing_required_key_is_named() -> None:
    with pytest.raises(UsageError, match="name"):
        parse_config({"model": {"kind": "rsprompter-anchor"}}, origin="here.toml")


def test_unknown_key_in_sam_sizes_is_named_without_the_union_tag() -> None:
    tree = {"name": "x", "model": {"kind": "rsprompter-anchor", "sam_arch": {"kind": "tiny-vit", "depth": 3}}}
    with pytest.raises(UsageError, match=r"model\.sam_arch\.depth") as caught:
        parse_config(tree, origin="here.toml")
    assert "tiny-vit.depth" not in caught.value.message


def test_configuration_is_frozen() -> None:
    config = load_config(DEFAULT_PRESET)
    with pytest.raises(ValueError, match="frozen"):
        config.train.lr = 1.0  # type: ignore[misc]


def test_valid_keys_are_what_set_accepts() -> None:
    keys = valid_keys()
    assert {"train.lr", "model.roi.fc_channels", "model.sam_arch.hidden_size", "data.root", "name"} <= set(keys)
    assert keys == sorted(keys)


@settings(max_examples=40, deadline=None)
@given(
    lr=st.floats(1e-8, 1.0),
    epochs=st.integers(1, 10**6),
    clip=st.none() | st.floats(1e-3, 100),
    root=st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=20),
)
def test_any_valid_configuration_survives_the_file(
    lr: float, epochs: int, clip: float | None, root: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = load_config("rsprompter-anchor-cpu")
    train = base.train.model_copy(update={"lr": lr, "epochs": epochs, "clip_grad": clip})
    config = base.model_copy(update={"train": train, "data": base.data.model_copy(update={"root": root})})
    again = reload(config, tmp_path_factory.getbasetemp())
    # TOML has no null: a None that is left out reads as the default, which must then be None too.
    assert again == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.seed=-1", "train.seed"),
        ("train.seed=99999999999999999999999", "train.seed"),
        ("model.rpn.anchor_scales=[]", "model.rpn.anchor_scales"),
        ("model.rpn.anchor_scales=[-4.0]", "model.rpn.anchor_scales"),
        ("train.wandb=a/b", "train.wandb: must be a project name"),
        ("train.wandb=", "train.wandb: must be a project name"),
        ("train.augment.scale=[1e-9, 1e-9]", "train.augment.scale: two ascending numbers from 0.01 to 100"),
        (
            'model.sam_arch={kind = "vit", hidden_size = 33, num_layers = 4, num_heads = 4, mlp_dim = 64, '
            "global_attn_indexes = [1]}",
            "model.sam_arch: hidden_size 33: must be a multiple of num_heads 4",
        ),
        (
            'model.sam_arch={kind = "vit", hidden_size = 32, num_layers = 4, num_heads = 4, mlp_dim = 64, '
            "global_attn_indexes = [1, 9]}",
            "model.sam_arch: global_attn_indexes [9]: the layers are 0 to 3",
        ),
        ("model.backbone_weights=random", "unknown key 'model.backbone_weights'"),
    ],
)
def test_values_that_no_model_can_have_are_refused_by_their_key(change: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config("rsprompter-anchor-nwpu", [change])
    assert words in str(caught.value)


def test_a_key_is_near_by_its_own_name_not_by_its_table() -> None:
    with pytest.raises(UsageError) as caught:
        load_config("mask2former-nwpu", ["model.sam=tiny-vit"])
    assert "did you mean" not in str(caught.value)
    with pytest.raises(UsageError) as caught:
        load_config("mask2former-nwpu", ["model.query.querys=3"])
    assert "did you mean 'model.query.queries'?" in str(caught.value)
