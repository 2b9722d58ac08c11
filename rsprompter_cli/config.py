"""The configuration: one frozen tree, read from TOML, that knows no torch.

A preset is a complete file in `presets/`; `--set a.b=value` changes one key of it. An unknown
key is an error that names its path and the nearest valid one. Nothing below `cli` takes a
config object: builders flatten it into keywords.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from rsprompter_cli.errors import InputError, UsageError, did_you_mean

PRESET_FOLDER = Path(__file__).parent / "presets"
DEFAULT_PRESET = "rsprompter-anchor-whu"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class SamDecoderArch(_Frozen):
    """Sizes of SAM's prompt encoder and mask decoder."""

    hidden_size: PositiveInt = 256
    num_layers: PositiveInt = 2
    num_heads: PositiveInt = 8
    mlp_dim: PositiveInt = 2048
    attention_downsample_rate: PositiveInt = 2
    iou_head_hidden_dim: PositiveInt = 256
    iou_head_depth: PositiveInt = 3
    num_multimask_outputs: PositiveInt = 3
    mask_input_channels: PositiveInt = 16


class VitArch(_Frozen):
    """Sizes of SAM's ViT image encoder."""

    kind: Literal["vit"] = "vit"
    hidden_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    mlp_dim: PositiveInt
    global_attn_indexes: tuple[int, ...]
    window_size: PositiveInt = 14
    patch_size: PositiveInt = 16
    output_channels: PositiveInt = 256
    pretrained_image_size: PositiveInt = 1024
    decoder: SamDecoderArch = SamDecoderArch()


class TinyVitArch(_Frozen):
    """Sizes of the TinyViT image encoder of the MobileSAM family, in LiteMedSAM's stride-4 layout."""

    kind: Literal["tiny-vit"] = "tiny-vit"
    embed_dims: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (2, 4, 5, 10)
    window_sizes: tuple[int, ...] = (7, 7, 14, 7)
    output_channels: PositiveInt = 256
    pretrained_image_size: PositiveInt = 256
    decoder: SamDecoderArch = SamDecoderArch()


SamArch = Annotated[VitArch | TinyVitArch, Field(discriminator="kind")]

KNOWN_SAM: Mapping[str, VitArch | TinyVitArch] = {
    "base": VitArch(hidden_size=768, num_layers=12, num_heads=12, mlp_dim=3072, global_attn_indexes=(2, 5, 8, 11)),
    "large": VitArch(hidden_size=1024, num_layers=24, num_heads=16, mlp_dim=4096, global_attn_indexes=(5, 11, 17, 23)),
    "huge": VitArch(hidden_size=1280, num_layers=32, num_heads=16, mlp_dim=5120, global_attn_indexes=(7, 15, 23, 31)),
    "tiny-vit": TinyVitArch(),
}


class LoraConfig(_Frozen):
    """Low-rank adapters on the encoder's qkv projections."""

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: float = Field(0.05, ge=0, lt=1)


class NeckConfig(_Frozen):
    """Aggregator and splitter."""

    aggregator: Literal["layers", "last"] | None = Field(
        None, description="read several encoder states, or only the last map; None: last with LoRA, layers otherwise"
    )
    layers: tuple[int, ...] | None = Field(
        None, description="encoder states to read, 0 = patch embedding; None: the SAM's default"
    )
    hidden_channels: PositiveInt | None = Field(None, description="None: 32 for layers, 512 for last")
    out_channels: PositiveInt = 256


class RpnConfig(_Frozen):
    """Region proposals."""

    anchor_scales: tuple[float, ...] = (4.0, 8.0)
    nms_pre_train: PositiveInt = 2000
    nms_pre_test: PositiveInt = 1000
    max_proposals: PositiveInt = 1000
    nms_iou: float = Field(0.7, gt=0, le=1)
    samples: PositiveInt = 256


class RoiConfig(_Frozen):
    """Box head and post-processing of the two-stage models."""

    fc_channels: PositiveInt = 1024
    samples: PositiveInt = 256
    mask_samples: PositiveInt | None = Field(
        None, description="positives per image decoded for the mask loss, the costly part on a CPU; None: all"
    )
    score_threshold: float = Field(0.05, ge=0, lt=1)
    nms_iou: float = Field(0.5, gt=0, le=1)
    max_detections: PositiveInt = 100


class RSPrompterAnchorConfig(_Frozen):
    """RSPrompter-anchor: region features become prompts of the SAM mask decoder."""

    kind: Literal["rsprompter-anchor"] = "rsprompter-anchor"
    sam: str = Field("base", description="base, large, huge, tiny-vit, or a folder written by rsp download-sam")
    sam_arch: SamArch | None = Field(
        None, description="sizes of that SAM; None: looked up by name or read from the folder"
    )
    image_size: PositiveInt | None = Field(None, description="side of the square input, pixels; None: the SAM's own")
    encoder: Literal["frozen", "lora", "full"] = "frozen"
    decoder: Literal["train", "frozen"] = "train"
    lora: LoraConfig = LoraConfig()
    neck: NeckConfig = NeckConfig()
    rpn: RpnConfig = RpnConfig()
    roi: RoiConfig = RoiConfig()
    prompts_per_object: PositiveInt = 5
    box_prompts: bool = Field(
        False, description="prompt with the corners of the box too, as SAM was trained; masks need far less training"
    )
    mask_chunk: PositiveInt = Field(4, description="prompts decoded at a time; changes speed, never the result")


# One member today; each further model adds itself to this union.
ModelConfig = RSPrompterAnchorConfig


class DataConfig(_Frozen):
    """Where the pictures of a COCO set lie."""

    root: str = Field("data/WHU", description="default of --data")
    image_folder: str | None = Field(
        None, description="image folder below the root, may contain {split}; None: images, imgs, imgs/{split}/image"
    )
    val_split: str = "val"


class AugmentConfig(_Frozen):
    """Training augmentation: large-scale jitter as in the original, plus what aerial pictures allow."""

    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    vertical_flip: float = Field(0.0, ge=0, le=1)
    rotate90: bool = False
    scale: tuple[float, float] = Field((0.1, 2.0), description="range of the resize, 1 = fits the image size")
    brightness: float = Field(0.0, ge=0, le=1, description="largest relative change")
    contrast: float = Field(0.0, ge=0, le=1)
    saturation: float = Field(0.0, ge=0, le=1)
    hue: float = Field(0.0, ge=0, le=0.5)


class TrainConfig(_Frozen):
    """Optimisation and bookkeeping of a run."""

    epochs: PositiveInt = 300
    lr: float = Field(2e-4, gt=0)
    batch_size: PositiveInt = Field(2, description="images per process and step")
    accumulate: PositiveInt = Field(1, description="steps whose gradients are summed before the optimizer moves")
    weight_decay: float = Field(0.05, ge=0)
    warmup_steps: int = Field(50, ge=0, description="linear warm-up from a thousandth of the rate, optimizer steps")
    clip_grad: float | None = Field(None, gt=0, description="largest norm of the gradient; None: not clipped")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    eval_every: PositiveInt = Field(3, description="epochs between evaluations")
    save_minutes: float = Field(10.0, gt=0, description="minutes between checkpoints, besides those at evaluations")
    seed: int = 0
    workers: int = Field(2, ge=0, description="processes that read and augment pictures")
    cache_views: int = Field(
        0, ge=0, description="frozen encoder: augmented views per picture whose encoder maps are kept on disk; 0: none"
    )
    cache_folder: str | None = Field(None, description="where those maps lie; None: in the run folder")
    augment: AugmentConfig = AugmentConfig()


class Config(_Frozen):
    """A whole run."""

    name: str = Field(description="names the run folder runs/NAME")
    model: ModelConfig
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        low, high = self.train.augment.scale
        if not 0 < low <= high:
            raise ValueError("train.augment.scale: the range must be positive and ascending")
        if self.train.cache_views and self.model.encoder != "frozen":
            raise ValueError("train.cache_views: only a frozen encoder gives the same maps twice; set it to 0")
        return self


def list_presets() -> dict[str, Path]:
    """Names of the built-in presets and their files, sorted."""
    return {path.stem: path for path in sorted(PRESET_FOLDER.glob("*.toml"))}


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a preset name or a TOML file, with `a.b=value` overrides applied.

    Raises:
        UsageError: no such preset, an unknown key or a bad value; the message names the key's path.
        InputError: a file that is not TOML.
    """
    presets = list_presets()
    path = presets.get(str(source), Path(source))
    if str(source) not in presets and not path.is_file():
        raise UsageError(f"no preset or file named {str(source)!r}", did_you_mean(str(source), presets))
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
    for text in overrides:
        _apply_override(tree, text)
    return parse_config(tree, origin=str(source))


def parse_config(tree: Mapping[str, Any], origin: str) -> Config:
    """A validated tree; `origin` is the file or preset named in errors."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"{origin}: {_first_problem(error)}", _hint(error)) from error


def dump_config(config: Config) -> str:
    """The configuration as TOML that `load_config` reads back equal; a None is left out."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def valid_keys() -> list[str]:
    """Every settable key as a dotted path, sorted."""
    return sorted(_leaf_paths(Config, ""))


def _leaf_paths(model: type[BaseModel], prefix: str, *, tables: bool = False) -> list[str]:
    paths: list[str] = []
    for name, field in model.model_fields.items():
        nested = [kind for kind in _members(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        here = f"{prefix}{name}"
        paths.extend(path for kind in nested for path in _leaf_paths(kind, here + ".", tables=tables))
        if tables or not nested:
            paths.append(here)
    return paths


def _members(annotation: Any) -> list[Any]:
    """The types an annotation is made of, unions and Annotated opened."""
    from typing import get_args

    inner = [kind for part in get_args(annotation) for kind in _members(part)]
    return inner or [annotation]


def _apply_override(tree: dict[str, Any], text: str) -> None:
    key, sign, raw = text.partition("=")
    if not sign or not key.strip():
        raise UsageError(f"--set {text!r}: write it as key=value, for instance train.lr=1e-4")
    path = key.strip().split(".")
    node = tree
    for part in path[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise UsageError(f"--set {key}: {part!r} is a value, not a table", did_you_mean(key, valid_keys()))
        node = child
    if raw.strip().lower() == "none":
        node.pop(path[-1], None)
    else:
        node[path[-1]] = _toml_value(raw.strip())


def _toml_value(raw: str) -> Any:
    """A TOML value, or the text itself when it is none (so that strings need no quotes)."""
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _location(parts: Sequence[int | str]) -> str:
    # A union puts its tag ("vit") between the field and its key: it is not part of what the user typed.
    return ".".join(str(part) for part in parts if part not in ("vit", "tiny-vit"))


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = _location(first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}"
    return f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")


def _hint(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] != "extra_forbidden":
        return ""
    where = _location(first["loc"])
    parent = where.rpartition(".")[0]
    depth = where.count(".")
    known = [key for key in _leaf_paths(Config, "", tables=True) if key.count(".") == depth and key.startswith(parent)]
    return did_you_mean(where, known)
