"""The configuration: one frozen tree, read from TOML, that knows no torch.

A preset is a complete file in `presets/`; `--set a.b=value` changes one key of it. An unknown
key is an error that names its path and the nearest valid one. Nothing below `cli` takes a
config object: builders flatten it into keywords.
"""

from rsprompter_cli.config.load import (
    DEFAULT_PRESET,
    PRESET_FOLDER,
    dump_config,
    list_presets,
    load_config,
    parse_config,
    valid_keys,
)
from rsprompter_cli.config.models import (
    AutomaskConfig,
    BoxConfig,
    LoraConfig,
    Mask2FormerConfig,
    Mask2FormerQueryConfig,
    MaskRcnnConfig,
    ModelConfig,
    NeckConfig,
    OneScaleRpnConfig,
    QueryConfig,
    ResNetConfig,
    RoiConfig,
    RpnConfig,
    RSPrompterAnchorConfig,
    RSPrompterQueryConfig,
    SamclsConfig,
    SamdetConfig,
    SamModelConfig,
    SamsegMask2FormerConfig,
    SamsegMaskRcnnConfig,
    TrainedSamConfig,
    TransformersQueryConfig,
)
from rsprompter_cli.config.run import AugmentConfig, Config, DataConfig, TrainConfig
from rsprompter_cli.config.sam import KNOWN_SAM, SamArch, SamDecoderArch, TinyVitArch, VitArch

__all__ = [
    "DEFAULT_PRESET",
    "KNOWN_SAM",
    "PRESET_FOLDER",
    "AugmentConfig",
    "AutomaskConfig",
    "BoxConfig",
    "Config",
    "DataConfig",
    "LoraConfig",
    "Mask2FormerConfig",
    "Mask2FormerQueryConfig",
    "MaskRcnnConfig",
    "ModelConfig",
    "NeckConfig",
    "OneScaleRpnConfig",
    "QueryConfig",
    "RSPrompterAnchorConfig",
    "RSPrompterQueryConfig",
    "ResNetConfig",
    "RoiConfig",
    "RpnConfig",
    "SamArch",
    "SamDecoderArch",
    "SamModelConfig",
    "SamclsConfig",
    "SamdetConfig",
    "SamsegMask2FormerConfig",
    "SamsegMaskRcnnConfig",
    "TinyVitArch",
    "TrainConfig",
    "TrainedSamConfig",
    "TransformersQueryConfig",
    "VitArch",
    "dump_config",
    "list_presets",
    "load_config",
    "parse_config",
    "valid_keys",
]
