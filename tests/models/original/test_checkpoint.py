"""Checkpoints of the original: the way in and out, on models of every kind at tiny size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rsprompter_cli.config import Config, ModelConfig, RSPrompterQueryConfig
from rsprompter_cli.errors import CheckpointError, OutputError, RspError, UsageError
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint, write_checkpoint
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.load import load_model
from rsprompter_cli.models.original.checkpoint import export_checkpoint, import_checkpoint, merge_checkpoint
from rsprompter_cli.models.original.rename import TABLES
from tests.make.original_files import save_like_mmengine
from tests.make.tiny_models import (
    tiny_mask2former_config,
    tiny_meta,
    tiny_model_config,
    tiny_query_config,
    tiny_samdet_config,
    tiny_samseg_maskrcnn_config,
)

CONFIGS: dict[str, Callable[..., ModelConfig]] = {
    "rsprompter-anchor": tiny_model_config,
    "rsprompter-query": tiny_query_config,
    "samdet": tiny_samdet_config,
    "samseg-mask2former": tiny_mask2former_config,
    "samseg-maskrcnn": tiny_samseg_maskrcnn_config,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in CONFIGS},
    "lora": ("rsprompter-anchor", {"encoder": "lora"}),
    "resized": ("rsprompter-anchor", {"image_size": 96}),
    "last map": ("samseg-maskrcnn", {"neck": {"aggregator": "last", "hidden_channels": 8, "out_channels": 16}}),
    "query-lora": ("rsprompter-query", {"encoder": "lora"}),
}
NAMES = ("class0", "class1", "class2")


def make_config(kind: str, name: str = "tiny", **changes: Any) -> Config:
    return Config(name=name, model=CONFIGS[kind](**changes))


def make_folder(folder: Path, kind: str, **changes: Any) -> Config:
    """A checkpoint folder of random weights, adapters and statistics included."""
    config = make_config(kind, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build_model(config.model, num_classes=3).state_dict()
        state = {
            key: torch.rand_like(value) if value.is_floating_point() else value + 5 for key, value in state.items()
        }
    write_checkpoint(folder, state, config, tiny_meta())
    return config


def original_state(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original's file of a tiny RSPrompter-anchor, without class names."""
    folder = tmp_path_factory.mktemp("exported")
    make_folder(folder / "model", "rsprompter-anchor")
    export_checkpoint(folder / "model", folder / "model.pth")
    path = folder / "epoch_12.pth"
    save_like_mmengine(path, original_state(folder / "model.pth"))
    return path


def test_every_kind_with_an_original_is_tested() -> None:
    assert set(CONFIGS) == set(TABLES)


@pytest.mark.parametrize("case", CASES)
def test_export_and_import_give_the_same_bits(case: str, tmp_path: Path) -> None:
    kind, changes = CASES[case]
    config = make_folder(tmp_path / "first", kind, **changes)
    export_checkpoint(tmp_path / "first", tmp_path / "first.pth")
    done = import_checkpoint(tmp_path / "first.pth", tmp_path / "second", config)
    assert list(done.changes) == []
    first, second = (read_checkpoint(tmp_path / name) for name in ("first", "second"))
    assert second.meta.class_names == NAMES
    before, after = first.tensors(), second.tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    load_model(tmp_path / "second")
    export_checkpoint(tmp_path / "second", tmp_path / "second.pth")
    state, again = original_state(tmp_path / "first.pth"), original_state(tmp_path / "second.pth")
    assert state.keys() == again.keys()
    assert all(torch.equal(state[key], again[key]) for key in state)


@pytest.mark.parametrize("case", ["lora", "query-lora"])
def test_both_generations_of_peft_are_read_and_written_back(case: str, tmp_path: Path) -> None:
    kind, changes = CASES[case]
    config = make_folder(tmp_path / "model", kind, **changes)
    export_checkpoint(tmp_path / "model", tmp_path / "new.pth")
    state = original_state(tmp_path / "new.pth")
    prefix = "backbone.vision_encoder.base_model.model.layers.0.attn.qkv."
    assert f"{prefix}base_layer.weight" in state
    assert f"{prefix}lora_A.default.weight" in state
    old = {key.replace(".qkv.base_layer.", ".qkv."): value for key, value in state.items()}
    save_like_mmengine(tmp_path / "old.pth", old, classes=NAMES)
    import_checkpoint(tmp_path / "old.pth", tmp_path / "imported", config)
    export_checkpoint(tmp_path / "imported", tmp_path / "again.pth")
    assert original_state(tmp_path / "again.pth").keys() == old.keys()
    before, after = read_checkpoint(tmp_path / "model").tensors(), read_checkpoint(tmp_path / "imported").tensors()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_sizes_that_differ_from_the_preset_are_read_off(exported: Path, tmp_path: Path) -> None:
    preset = make_config(
        "rsprompter-anchor",
        image_size=128,
        prompts_per_object=2,
        neck={"aggregator": "last"},
        roi={"fc_channels": 1024},
    )
    done = import_checkpoint(exported, tmp_path / "out", preset, class_names=NAMES)
    told = " ".join(done.changes)
    for name in ("image_size = 64", "prompts_per_object = 5", "neck.aggregator = layers", "roi.fc_channels = 32"):
        assert name in told
    assert done.meta.image_size == 64
    load_model(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "named", "expected", "source"),
    [
        ("x", ("a", "b", "c"), ("a", "b", "c"), "--classes"),
        ("x", None, NAMES, "the file"),
    ],
)
def test_class_names(
    exported: Path, tmp_path: Path, name: str, named: tuple[str, ...] | None, expected: tuple[str, ...], source: str
) -> None:
    path = save_like_mmengine(tmp_path / "named.pth", original_state_of(exported), classes=NAMES)
    done = import_checkpoint(path, tmp_path / "out", make_config("rsprompter-anchor", name), class_names=named)
    assert (done.meta.class_names, done.classes_from) == (expected, source)
    assert done.meta.category_ids == (1, 2, 3)


def original_state_of(path: Path) -> dict[str, Tensor]:
    from rsprompter_cli.io.model_files.original_file import read_original_file

    return read_original_file(path).tensors


def test_class_names_of_the_preset_are_taken_when_they_fit(tmp_path: Path) -> None:
    config = make_config("samseg-maskrcnn", "samseg-maskrcnn-whu")
    state = build_model(config.model, num_classes=1).state_dict()
    write_checkpoint(tmp_path / "model", state, config, tiny_meta(num_classes=1))
    export_checkpoint(tmp_path / "model", tmp_path / "model.pth")
    save_like_mmengine(tmp_path / "unnamed.pth", original_state(tmp_path / "model.pth"), classes=["one", "two"])
    done = import_checkpoint(tmp_path / "unnamed.pth", tmp_path / "out", config)
    assert done.meta.class_names == ("building",)


def test_provenance_says_where_it_comes_from(exported: Path, tmp_path: Path) -> None:
    done = import_checkpoint(exported, tmp_path / "out", make_config("rsprompter-anchor"), class_names=NAMES)
    told = done.meta.provenance
    assert told["imported"] == "epoch_12.pth"
    assert len(told["imported_sha256"]) == 64
    assert told["original_epoch"] == 12
    assert told["imported_weights"] == "as trained"


def test_averaged_weights_are_chosen_unless_told_otherwise(exported: Path, tmp_path: Path) -> None:
    mean = original_state_of(exported)
    trained = {f"module.{key}": value + 1 for key, value in mean.items()}
    path = save_like_mmengine(
        tmp_path / "ema.pth", mean, classes=NAMES, ema_state_dict={"steps": torch.tensor(9), **trained}
    )
    config = make_config("rsprompter-anchor")
    first = import_checkpoint(path, tmp_path / "mean", config)
    second = import_checkpoint(path, tmp_path / "trained", config, ema=False)
    assert (first.weights, second.weights) == ("averaged", "as trained")
    key = "rpn.conv.bias"
    assert torch.equal(
        read_checkpoint(tmp_path / "trained").tensors()[key], read_checkpoint(tmp_path / "mean").tensors()[key] + 1
    )


def refused(path: Path, out: Path, config: Config, kind: type[RspError] = CheckpointError, **options: Any) -> str:
    """The one line that an import ends with; nothing is written."""
    with pytest.raises(kind) as caught:
        import_checkpoint(path, out, config, **({"class_names": NAMES} | options))
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", sorted(set(CONFIGS) - {"rsprompter-anchor"}))
def test_another_kind_of_model_is_named(exported: Path, tmp_path: Path, kind: str) -> None:
    told = refused(exported, tmp_path / "out", make_config(kind))
    assert f"contains a rsprompter-anchor model, the preset describes a {kind} model" in told


def test_no_model_of_the_original_at_all(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    told = refused(tmp_path / "other.pth", tmp_path / "out", make_config("samdet"))
    assert "contains no model of the original" in told


def test_another_class_count_is_named(exported: Path, tmp_path: Path) -> None:
    config = make_config("rsprompter-anchor")
    told = refused(exported, tmp_path / "out", config, UsageError, class_names=("a", "b"))
    assert "2 names" in told
    assert "a model of 3" in told
    told = refused(exported, tmp_path / "out", config, UsageError, class_names=None)
    assert "--classes" in told
    told = refused(exported, tmp_path / "out", make_config("rsprompter-anchor", "a-whu"), UsageError, class_names=None)
    assert "data set has 1" in told


def test_another_sam_is_named(exported: Path, tmp_path: Path) -> None:
    config = Config(name="x", model=tiny_model_config(sam="large", sam_arch=None))
    told = refused(exported, tmp_path / "out", config)
    assert "instead of the preset's large" in told
    assert "hidden_size 16, not 1024" in told
    arch = tiny_model_config().sam_arch
    assert arch is not None
    moved = arch.model_copy(update={"global_attn_indexes": (0, 3)})
    told = refused(exported, tmp_path / "out", make_config("rsprompter-anchor", sam_arch=moved))
    assert "layer 0 attends over 3 cells, not 4" in told


def test_adapters_are_compared_with_the_preset(exported: Path, tmp_path: Path) -> None:
    told = refused(exported, tmp_path / "out", make_config("rsprompter-anchor", encoder="lora"))
    assert "has no adapters" in told
    make_folder(tmp_path / "lora", "rsprompter-anchor", encoder="lora")
    export_checkpoint(tmp_path / "lora", tmp_path / "lora.pth")
    told = refused(tmp_path / "lora.pth", tmp_path / "out", make_config("rsprompter-anchor"))
    assert "rank 16" in told
    other = make_config("rsprompter-anchor", encoder="lora", lora={"r": 4, "alpha": 8})
    told = refused(tmp_path / "lora.pth", tmp_path / "out", other)
    assert "rank 16, the preset's 4" in told


def test_missing_and_unknown_keys_are_listed(exported: Path, tmp_path: Path) -> None:
    state = original_state_of(exported)
    config = make_config("rsprompter-anchor")
    short = {key: value for key, value in state.items() if key != "rpn_head.rpn_cls.bias"}
    torch.save(short, tmp_path / "short.pth")
    assert "1 missing key: rpn_head.rpn_cls.bias" in refused(tmp_path / "short.pth", tmp_path / "out", config)
    torch.save({**state, "rpn_head.rpn_cls.scale": torch.zeros(1)}, tmp_path / "more.pth")
    assert "1 unexpected key: rpn_head.rpn_cls.scale" in refused(tmp_path / "more.pth", tmp_path / "out", config)
    torch.save({**state, "rpn_head.rpn_conv.bias": torch.zeros(3)}, tmp_path / "other.pth")
    assert "rpn_head.rpn_conv.bias [3] instead of [16]" in refused(tmp_path / "other.pth", tmp_path / "out", config)
    part = {key: value for key, value in state.items() if "fc_cls" not in key}
    torch.save(part, tmp_path / "part.pth")
    assert "roi_head.bbox_head.fc_cls.weight" in refused(tmp_path / "part.pth", tmp_path / "out", config)


@pytest.mark.parametrize("change", ["complex", "integer", "bool", "sparse", "nan", "infinite"])
def test_numbers_that_no_model_has_are_refused(exported: Path, tmp_path: Path, change: str) -> None:
    state, key = original_state_of(exported), "rpn_head.rpn_conv.weight"
    changed = {
        "complex": state[key].to(torch.complex64),
        "integer": state[key].to(torch.int32),
        "bool": state[key] > 0.5,
        "sparse": state[key].to_sparse(),
        "nan": state[key].index_fill(0, torch.tensor([2]), torch.nan),
        "infinite": state[key].index_fill(0, torch.tensor([2]), torch.inf),
    }
    path = save_like_mmengine(tmp_path / "odd.pth", state | {key: changed[change]}, classes=NAMES)
    told = refused(path, tmp_path / "out", make_config("rsprompter-anchor"))
    assert f"odd.pth: 1 of {len(state)} tensors " in told
    assert key in told
    assert told.endswith((")", "in floating point", "that the training wrote"))


def test_weights_in_half_and_double_precision_are_taken(exported: Path, tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.float64):
        state = {key: value.to(dtype) for key, value in original_state_of(exported).items()}
        path = save_like_mmengine(tmp_path / "rounded.pth", state, classes=NAMES)
        import_checkpoint(path, tmp_path / "out", make_config("rsprompter-anchor"), overwrite=True)
        load_model(tmp_path / "out")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("a", "b", "a"), "classes 1 and 3 are both named 'a'"),
        (("a", " ", "c"), "class 2 has no name"),
        (("a", "b", "\x1b[31mc"), r"class 3, '\x1b[31mc', has a control character"),
    ],
)
def test_class_names_that_none_can_have_are_refused(
    exported: Path, tmp_path: Path, names: tuple[str, ...], told: str
) -> None:
    path, config = tmp_path / "named.pth", make_config("rsprompter-anchor")
    save_like_mmengine(path, original_state_of(exported), classes=names)
    line = refused(path, tmp_path / "out", config, class_names=None)
    assert f"named.pth: its class names cannot be used: {told}" in line
    assert "--classes a,b,c" in line
    assert f"--classes: {told}" in refused(path, tmp_path / "out", config, UsageError, class_names=names)
    assert import_checkpoint(path, tmp_path / "out", config, class_names=NAMES).meta.class_names == NAMES


def test_keys_are_told_before_class_names(exported: Path, tmp_path: Path) -> None:
    state = original_state_of(exported)
    del state["rpn_head.rpn_cls.bias"]
    path = save_like_mmengine(tmp_path / "both.pth", state, classes=("a", "a", ""))
    for named in (None, ("a",), ("a", "a", "")):
        told = refused(path, tmp_path / "out", make_config("rsprompter-anchor"), class_names=named)
        assert "1 missing key: rpn_head.rpn_cls.bias" in told


@pytest.mark.parametrize(
    ("kind", "preset", "words"),
    [
        ("rsprompter-query", {"query": {"heads": 4}}, "--set model.query.heads=... --set model.query.points=..."),
        ("samseg-mask2former", {"query": {"points": 4}}, "--set model.query.heads=... --set model.query.points=..."),
        ("rsprompter-anchor", {"rpn": {"anchor_scales": (8.0,)}}, "--set model.rpn.anchor_scales=[...]"),
        ("samdet", {"rpn": {"anchor_scales": (4.0, 8.0)}}, "--set model.rpn.anchor_scales=[...]"),
    ],
)
def test_sizes_that_no_tensor_shows_are_named_by_their_settings(
    tmp_path: Path, kind: str, preset: dict[str, Any], words: str
) -> None:
    config = make_folder(tmp_path / "model", kind)
    export_checkpoint(tmp_path / "model", tmp_path / "model.pth")
    (table,) = preset
    whole = getattr(config.model, table).model_dump() | preset[table]
    told = refused(tmp_path / "model.pth", tmp_path / "out", make_config(kind, **{table: whole}))
    assert "shape mismatch" in told
    assert words in told


@pytest.mark.parametrize(("key", "value"), [("heads", 3), ("norm_groups", 5)])
def test_a_width_that_the_presets_settings_do_not_divide_is_told_with_the_file(
    tmp_path: Path, key: str, value: int
) -> None:
    config = make_folder(tmp_path / "model", "rsprompter-query")
    export_checkpoint(tmp_path / "model", tmp_path / "model.pth")
    assert isinstance(config.model, RSPrompterQueryConfig)
    query = config.model.query.model_dump() | {"channels": 15 * 4, key: value}
    told = refused(tmp_path / "model.pth", tmp_path / "out", make_config("rsprompter-query", query=query), UsageError)
    assert (
        f"model.pth: with the sizes of its tensors, model.query.channels = 16: must be a multiple of model.query.{key}"
        in told
    )
    assert f"--set model.query.{key}=" in told


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("roi_head.bbox_head.fc_cls.weight", (1, 32)),
        ("backbone.vision_encoder.patch_embed.projection.weight", (16, 3)),
        ("backbone.vision_encoder.layers.0.attn.rel_pos_h", (5, 0)),
        ("roi_head.mask_head.point_emb.8.weight", (0, 16)),
    ],
)
def test_shapes_of_which_no_model_can_be_made(exported: Path, tmp_path: Path, key: str, shape: tuple[int, ...]) -> None:
    state = original_state_of(exported)
    assert key in state
    torch.save(state | {key: torch.zeros(shape)}, tmp_path / "odd.pth")
    assert "odd.pth: " in refused(tmp_path / "odd.pth", tmp_path / "out", make_config("rsprompter-anchor"))


def test_copies_must_agree(tmp_path: Path) -> None:
    config = make_folder(tmp_path / "model", "samdet")
    export_checkpoint(tmp_path / "model", tmp_path / "model.pth")
    state = original_state(tmp_path / "model.pth")
    (copy,) = TABLES["samdet"].copies
    assert copy in state
    torch.save({key: value for key, value in state.items() if key != copy}, tmp_path / "without.pth")
    import_checkpoint(tmp_path / "without.pth", tmp_path / "out", config, class_names=NAMES)
    torch.save({**state, copy: state[copy] + 1}, tmp_path / "other.pth")
    assert "of which it must be a copy" in refused(tmp_path / "other.pth", tmp_path / "none", config)


def test_a_damaged_or_unsafe_file_is_one_line(exported: Path, tmp_path: Path) -> None:
    config = make_config("rsprompter-anchor")
    content = exported.read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    assert "damaged" in refused(tmp_path / "cut.pth", tmp_path / "out", config)
    assert "no such file" in refused(tmp_path / "absent.pth", tmp_path / "out", config)
    assert "no such file" in refused(tmp_path / f"{'n' * 300}.pth", tmp_path / "out", config)
    torch.save({"state_dict": original_state_of(exported), "evil": print}, tmp_path / "evil.pth")
    told = refused(tmp_path / "evil.pth", tmp_path / "out", config)
    assert "print" in told
    assert "refused" in told


def test_an_existing_folder_stays(exported: Path, tmp_path: Path) -> None:
    config = make_config("rsprompter-anchor")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="--overwrite"):
        import_checkpoint(exported, tmp_path / "out", config, class_names=NAMES)
    import_checkpoint(exported, tmp_path / "out", config, class_names=NAMES, overwrite=True)
    load_model(tmp_path / "out")


def test_a_part_that_the_original_lacks_is_not_exported(tmp_path: Path) -> None:
    make_folder(tmp_path / "model", "rsprompter-anchor", box_prompts=True)
    with pytest.raises(CheckpointError, match="corner_embed"):
        export_checkpoint(tmp_path / "model", tmp_path / "model.pth")
    assert not (tmp_path / "model.pth").exists()


@pytest.mark.parametrize("case", ["lora", "query-lora"])
def test_merged_adapters_answer_the_same(case: str, tmp_path: Path) -> None:
    kind, changes = CASES[case]
    config = make_config(kind, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config.model, num_classes=3)
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    write_checkpoint(tmp_path / "model", model.state_dict(), config, tiny_meta())
    assert merge_checkpoint(tmp_path / "model", tmp_path / "merged") == 4
    before, after = load_model(tmp_path / "model"), load_model(tmp_path / "merged")
    assert not [key for key in after.model.state_dict() if ".lora_" in key]
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = before.model.encoder(pixels), after.model.encoder(pixels)  # type: ignore[operator]
    assert not torch.equal(ours.embedding, ours.embedding * 0)
    torch.testing.assert_close(theirs.embedding, ours.embedding, rtol=1e-5, atol=1e-5)
    with pytest.raises(CheckpointError, match="no adapters"):
        merge_checkpoint(tmp_path / "merged", tmp_path / "again")
