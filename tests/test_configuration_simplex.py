"""The configuration keeps structure, roles and members consistent, and says what is wrong where they are not."""

from typing import Any

import pytest
from tiny import KINDS, backbone

from hf_simplex import SimplexConfig

STRUCTURE: dict[str, Any] = {"simplexes": [[0, 1], [2]], "roles": ["mode", "connector", "mode"]}


@pytest.mark.parametrize("kind", KINDS)
def test_it_survives_json_for_every_kind_of_backbone(kind: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    members = [[0.1 + 0.2, 1 - (0.1 + 0.2), 0.0], [0.0, 0.0, 1.0]]
    config = SimplexConfig(backbone_config=backbone(kind).config, members=members, sampling="volume", **STRUCTURE)
    config.save_pretrained(tmp_path)
    loaded = SimplexConfig.from_pretrained(tmp_path)
    assert loaded.members == members
    assert (loaded.simplexes, loaded.roles, loaded.sampling) == (config.simplexes, config.roles, "volume")
    assert loaded.num_labels == loaded.backbone_config.num_labels == 3
    assert type(loaded.backbone_config) is type(config.backbone_config)
    assert loaded.backbone_config.to_dict() == config.backbone_config.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"simplexes": [[0, 1], [5]]}, "vertex 5"),
        ({"simplexes": [[0, 1]]}, "belong to no simplex"),
        ({"roles": ["mode", "corner", "mode"]}, "'corner'"),
        ({"sampling": "some"}, "'some'"),
        ({"members": [[0.5, 0.6, 0.0]]}, "sum to 1"),
        ({"members": [[1.5, -0.5, 0.0]]}, "negative"),
        ({"members": [[0.5, 0.5]]}, "3 coordinates"),
        ({"members": [[0.5, 0.0, 0.5]]}, "outside the complex"),
        ({"members": [[float("nan"), 0.5, 0.5]]}, "finite"),
        ({"backbone_config": {"model_type": "no_such_model"}}, "'no_such_model'"),
    ],
)
def test_contradictions_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimplexConfig(**{**STRUCTURE, **change})
