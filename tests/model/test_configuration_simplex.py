"""The configuration keeps structure, roles and members consistent, and says what is wrong where they are not."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import KINDS, backbone
from transformers import AutoConfig

from hf_simplex import SimplexConfig
from hf_simplex.model.complexes import SimplicialComplex

STRUCTURE: dict[str, Any] = {"simplexes": [[0, 1], [2]], "roles": ["mode", "connector", "mode"]}


@pytest.mark.parametrize("kind", KINDS)
def test_it_survives_json_for_every_kind_of_backbone(kind: str, tmp_path: Path) -> None:
    members = [[0.1 + 0.2, 1 - (0.1 + 0.2), 0.0], [0.0, 0.0, 1.0]]
    config = SimplexConfig(
        backbone_config=backbone(kind).config, members=members, sampling="volume", provenance={"a": [1]}, **STRUCTURE
    )
    config.save_pretrained(tmp_path / "one")
    loaded = AutoConfig.from_pretrained(tmp_path / "one")
    assert type(loaded) is SimplexConfig
    assert loaded.members == members
    assert (loaded.simplexes, loaded.roles, loaded.sampling) == (config.simplexes, config.roles, "volume")
    assert loaded.provenance == {"a": [1]}
    assert loaded.complex == SimplicialComplex(3, ((0, 1), (2,)))
    assert loaded.num_labels == loaded.backbone_config.num_labels == 3
    assert type(loaded.backbone_config) is type(config.backbone_config)
    assert loaded.backbone_config.to_dict() == config.backbone_config.to_dict()
    loaded.save_pretrained(tmp_path / "two")
    assert (tmp_path / "two" / "config.json").read_bytes() == (tmp_path / "one" / "config.json").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_alone_a_backbone_is_one_simplex_of_one_vertex_with_its_labels(kind: str) -> None:
    module = backbone(kind, labels=4)
    module.config.id2label = {0: "ant", 1: "bee", 2: "cat", 3: "dog"}
    config = SimplexConfig(backbone_config=module.config)
    assert (config.simplexes, config.roles, config.members) == ([[0]], ["pretrained"], [])
    assert config.id2label == module.config.id2label
    assert config.num_labels == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"simplexes": [[0, 1], [5]]}, "vertex 5"),
        ({"simplexes": [[0, 1]]}, "belong to no simplex"),
        ({"simplexes": [[0, 1], [1], [2]]}, "is a face of"),
        ({"simplexes": 3}, "simplexes is 3"),
        ({"roles": ["mode", "corner", "mode"]}, "'corner'"),
        ({"roles": ["mode", ["mode"], "mode"]}, r"\['mode'\]"),
        ({"roles": ["mode"]}, "the 1 vertices"),
        ({"roles": None}, "roles None"),
        ({"sampling": "some"}, "'some'"),
        ({"members": [[0.5, 0.6, 0.0]]}, "sum to 1"),
        ({"members": [[1.5, -0.5, 0.0]]}, "negative"),
        ({"members": [[0.5, 0.5]]}, "3 coordinates"),
        ({"members": [[0.5, 0.0, 0.5]]}, "outside the complex"),
        ({"members": [[1.0, 0.0, 0.0]] * 10_001}, "10001 points were given; expected at most 10000"),
        ({"members": [*[[1.0, 0.0, 0.0]] * 9_998, [0.5, 0.0, 0.5]]}, "Point 9998, .* lies outside the complex"),
        ({"members": [[float("nan"), 0.5, 0.5]]}, "finite"),
        ({"members": [0.5, 0.5, 0.0]}, r"members \[0.5, 0.5, 0.0\]"),
        ({"members": [["much", 0.5, 0.0]]}, "'much'"),
        ({"backbone_config": {"model_type": "no_such_model"}}, "'no_such_model'"),
        ({"backbone_config": {}}, "'None'"),
        ({"backbone_config": "vit"}, "backbone_config is 'vit'"),
    ],
)
def test_contradictions_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimplexConfig(**{**STRUCTURE, **change})


def test_lists_are_taken_over_by_copy() -> None:
    simplexes, members = [[0, 1], [2]], [[0.5, 0.5, 0.0]]
    config = SimplexConfig(simplexes=simplexes, roles=STRUCTURE["roles"], members=members)
    config.simplexes[0].append(7)
    config.members[0][0] = 9.0
    config.roles.append("mode")
    assert (simplexes, members) == ([[0, 1], [2]], [[0.5, 0.5, 0.0]])
    assert STRUCTURE["roles"] == ["mode", "connector", "mode"]


def test_points_between_simplexes_and_vertices_are_told_apart() -> None:
    config = SimplexConfig(**STRUCTURE)
    config.check_points([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(ValueError, match="outside the complex"):
        config.check_points([[0.25, 0.75, 0.0], [0.25, 0.0, 0.75]])


def test_no_other_file_than_the_index_says_where_the_weights_are(tmp_path: Path) -> None:
    SimplexConfig(backbone_config=backbone("vit").config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "transformers_weights": "adapter_model.bin"}))
    assert not hasattr(SimplexConfig.from_pretrained(tmp_path), "transformers_weights")


NAMES = {0: "ant", 1: "bee", 2: "cat"}


@pytest.mark.parametrize(
    ("id2label", "label2id", "message"),
    [
        ({0: "ant", 2: "cat", 3: "dog"}, None, "id2label has no label 1; expected 3 labels from 0 to 2"),
        ({1: "ant", 2: "bee", 3: "cat"}, None, "id2label has no label 0"),
        ({"ant": 0, "bee": 1, "cat": 2}, None, "id2label has the key 'ant'; expected each of 0 to 2 once"),
        ({0: "ant", "0": "bee", 1: "cat"}, None, "id2label has the key '0'"),
        ({-1: "ant", 0: "bee", 1: "cat"}, None, "id2label has the key -1"),
        ({0: "ant", 1: 7, 2: "cat"}, None, "names label 1 7; expected a string"),
        ({0: "ant", 1: None, 2: "cat"}, None, "names label 1 None"),
        (["ant", "bee", "cat"], None, r"id2label is \['ant', 'bee', 'cat'\]; expected a dictionary"),
        (NAMES, {"ant": 0, "bee": 2, "cat": 1}, "label2id gives 'bee' the label 2"),
        (NAMES, {"ant": 0, "bee": 1}, "label2id lacks 'cat'"),
        (NAMES, {"ant": 0, "bee": 1, "cat": 2, "dog": 3}, "label2id gives 'dog' the label 3"),
        (NAMES, 3, "label2id is 3"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(id2label: Any, label2id: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimplexConfig(backbone_config=backbone("vit").config, id2label=id2label, label2id=label2id)


def test_labels_may_have_keys_of_json_and_the_same_name_twice() -> None:
    config = SimplexConfig(id2label={"0": "crane", "1": "bee", "2": "crane"}, label2id={"bee": 1, "crane": 0})
    assert config.id2label == {0: "crane", 1: "bee", 2: "crane"}
    assert config.label2id == {"bee": 1, "crane": 0}


def test_names_of_a_backbone_without_the_way_back_get_it() -> None:
    module = backbone("vit", labels=3)
    module.config.id2label = NAMES
    assert SimplexConfig(backbone_config=module.config).label2id == {"ant": 0, "bee": 1, "cat": 2}
    module.config.label2id = {"ant": 2, "bee": 1, "cat": 0}
    with pytest.raises(ValueError, match="label2id gives 'ant' the label 2"):
        SimplexConfig(backbone_config=module.config)


@pytest.mark.parametrize("labels", [{"ant": 0, "bee": 1, "cat": 2}, {"cat": "2", "ant": "0", "bee": "1"}])
def test_label2id_alone_names_the_labels(labels: dict[str, Any], tmp_path: Path) -> None:
    config = SimplexConfig(backbone_config=backbone("vit").config, label2id=labels)
    assert config.id2label == NAMES and list(config.id2label) == [0, 1, 2] and config.num_labels == 3
    SimplexConfig(backbone_config=backbone("vit").config).save_pretrained(tmp_path)
    assert SimplexConfig.from_pretrained(tmp_path, label2id=labels).id2label == NAMES


@pytest.mark.parametrize(
    ("label2id", "further", "message"),
    [
        ({"ant": 0, "bee": 2}, {}, "label2id is .*'bee': 2.*, without id2label.* no label 1"),
        ({"ant": 0, "bee": 0, "cat": 1}, {}, "label2id gives 'ant' the label 0"),
        ({"ant": "first"}, {}, "the key 'first'"),
        ({0: "ant", 1: "bee"}, {}, "the key 'ant'"),
        (["ant", "bee", "cat"], {}, r"label2id is \['ant'"),
        ({"ant": 0, "bee": 1}, {"num_labels": 3}, "num_labels=3 contradicts the 2 labels of label2id"),
    ],
)
def test_label2id_alone_that_contradicts_itself_is_refused(
    label2id: Any, further: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        SimplexConfig(backbone_config=backbone("vit").config, label2id=label2id, **further)
    SimplexConfig(backbone_config=backbone("vit").config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        SimplexConfig.from_pretrained(tmp_path, label2id=label2id, **further)
