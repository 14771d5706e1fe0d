"""Configurations of transformers' image classifiers that are small enough for a step in seconds."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

__all__ = ["tiny_configuration"]

SIZE = 32
WIDTH = 32
SETTINGS: dict[str, Any] = {
    "d_latents": WIDTH,
    "d_model": WIDTH,
    "head_dim": WIDTH // 2,
    "hidden_dim": WIDTH,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "n_embd": WIDTH,
    "n_head": 2,
    "n_layer": 2,
    "num_attention_heads": 2,
    "num_cross_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "num_latents": 8,
    "num_self_attends_per_block": 1,
    "num_self_attention_heads": 2,
    "pooler_output_size": WIDTH,
    "projection_dim": WIDTH,
    "projection_size": WIDTH,
    "vocab_size": 64,
}
"""Numbers that many architectures have in common. A setting that is a list keeps its length."""
WIDTHS = ("embed_dims", "hidden_sizes", "neck_hidden_sizes")
HEADS = ("num_attention_heads", "num_heads")
OVERRIDES: dict[str, dict[str, Any]] = {
    "beit": {"patch_size": 8, "use_relative_position_bias": True},
    "bit": {"embedding_size": 16, "num_groups": 4},
    "cvt": {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
    "data2vec-vision": {"patch_size": 8, "use_relative_position_bias": True},
    "dinat": {"embed_dim": 16, "dilations": [[1]] * 4},
    "donut-swin": {"embed_dim": 16, "num_heads": [1, 2, 2, 4], "window_size": 2, "image_size": 64},
    "efficientnet": {
        "width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320, "dropout_rate": 0.0,
        "drop_connect_rate": 0.0,
    },
    "focalnet": {"embed_dim": 16},
    "hgnet_v2": {
        "embedding_size": 16, "stem_channels": [3, 8, 16], "hidden_sizes": [16, 32, 48, 64],
        "stage_in_channels": [16, 16, 32, 48], "stage_mid_channels": [8, 16, 24, 32],
        "stage_out_channels": [16, 32, 48, 64], "stage_num_blocks": [1] * 4, "stage_numb_of_layers": [2] * 4,
    },
    "hiera": {"embed_dim": 16, "num_heads": [1, 1, 2, 2], "image_size": [64, 64]},
    "levit": {"hidden_sizes": [16, 32, 48], "image_size": 64, "patch_size": 16},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32]},
    "mobilevitv2": {
        "width_multiplier": 0.25, "base_attn_unit_dims": [32, 48, 64], "n_attn_blocks": [1, 1, 1], "image_size": 64,
    },
    "perceiver": {"image_size": SIZE, "num_self_attention_heads": 1, "num_cross_attention_heads": 1},
    "regnet": {"embedding_size": 16, "groups_width": 8},
    "resnet": {"embedding_size": 16},
    "swin": {"embed_dim": 16, "num_heads": [1, 2, 2, 4], "window_size": 2, "image_size": 64},
    "swinv2": {"embed_dim": 16, "num_heads": [1, 2, 2, 4], "window_size": 2},
    "textnet": {
        "stem_out_channels": 8, "hidden_sizes": [8, 8, 16, 24, 32], "conv_layer_kernel_sizes": [[[3, 3]]] * 4,
        "conv_layer_strides": [[2]] * 4,
    },
}  # fmt: skip
"""What one architecture needs besides: settings that others have not, or that must go together."""


def tiny_configuration(config_class: type[PreTrainedConfig], **settings: Any) -> PreTrainedConfig:
    """A configuration of the same architecture with few and small layers.

    Args:
        config_class: of an image classifier of transformers.
        **settings: of the configuration besides, such as `num_labels`.

    Example::

        tiny_configuration(ViTConfig, num_labels=3).hidden_size   # 32
    """
    default = config_class()
    found = {**_small(default.to_diff_dict() | default.to_dict()), **OVERRIDES.get(config_class.model_type, {})}
    return config_class(**found, **settings)


def _small(settings: Mapping[str, Any]) -> dict[str, Any]:
    small: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and name.endswith("_config"):
            small[name] = _small(value)
        elif isinstance(value, list):
            small.update(_small_list(name, value))
        elif name == "image_size" and isinstance(value, int):
            small[name] = SIZE
        elif name == "patch_size" and isinstance(value, int) and value >= 14:
            small[name] = 8
        elif name in SETTINGS and isinstance(value, int):
            small[name] = SETTINGS[name]
    return small


def _small_list(name: str, value: list[Any]) -> dict[str, Any]:
    if name == "depths":
        return {name: [1] * len(value)}
    if name in WIDTHS:
        return {name: [16 * (stage + 1) for stage in range(len(value))]}
    if name in HEADS:
        return {name: [2] * len(value)}
    if name == "image_size":
        return {name: [SIZE] * len(value)}
    return {}
