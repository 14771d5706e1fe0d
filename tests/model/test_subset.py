"""A part of an ensemble is an ensemble of its own: which simplexes, vertices and members it has, and its tensors."""

from pathlib import Path

import pytest
import torch
from tiny import KINDS, ensemble, images, same_tensors
from transformers import AutoModelForImageClassification

from hf_simplex import SimplexConfig, SimplexForImageClassification
from hf_simplex.model.subset import select_part

# Two triangles on the edge from 2 to 3, and an edge apart.
SHARED = {
    "simplexes": [[0, 2, 3], [1, 2, 3], [4, 5]],
    "roles": ["mode", "mode", "connector", "connector", "mode", "connector"],
    "members": [
        [0, 0.5, 0.25, 0.25, 0, 0],
        [0.5, 0, 0.25, 0.25, 0, 0],
        [0, 0, 0, 0, 0.5, 0.5],
        [0, 0, 0.5, 0.5, 0, 0],
    ],
    "provenance": {"data_set": "digits", "stages": [{"vertex": v, "epochs": 1.0, "loss": 0.1} for v in range(6)]},
}


def names() -> list[str]:
    kinds = [f"vertices.{v}.head.weight" for v in range(6)]
    kinds += [f"members.{j}.norm.running_mean" for j in range(4)]
    return kinds + [f"centroids.{s}.norm.running_mean" for s in range(3)]


def test_a_simplex_keeps_its_vertices_and_the_members_that_lie_in_it() -> None:
    config = SimplexConfig(**SHARED)
    part, renamed = select_part(config, names(), simplex=1)
    assert part.simplexes == [[0, 1, 2]] and part.roles == ["mode", "connector", "connector"]
    # The last lies on the edge that both triangles share.
    assert part.members == [[0.5, 0.25, 0.25], [0, 0.5, 0.5]]
    assert [stage["vertex"] for stage in part.provenance["stages"]] == [0, 1, 2]
    assert renamed == {
        "vertices.1.head.weight": "vertices.0.head.weight",
        "vertices.2.head.weight": "vertices.1.head.weight",
        "vertices.3.head.weight": "vertices.2.head.weight",
        "members.0.norm.running_mean": "members.0.norm.running_mean",
        "members.3.norm.running_mean": "members.1.norm.running_mean",
        "centroids.1.norm.running_mean": "centroids.0.norm.running_mean",
    }
    assert config.to_dict() == SimplexConfig(**SHARED).to_dict(), "the whole is left as it is"


def test_the_first_members_bring_the_simplexes_that_they_lie_in_and_no_others() -> None:
    config = SimplexConfig(**SHARED)
    assert select_part(config, names(), num_members=1)[0].simplexes == [[0, 1, 2]]
    both, _ = select_part(config, names(), num_members=2)
    assert both.simplexes == [[0, 2, 3], [1, 2, 3]] and both.members == [m[:4] for m in SHARED["members"][:2]]
    whole, renamed = select_part(config, names(), num_members=4)
    assert whole.to_dict() == config.to_dict() and renamed == {name: name for name in names()}


def test_simplexes_come_in_the_order_that_was_asked_for() -> None:
    part, renamed = select_part(SimplexConfig(**SHARED), names(), simplex=[2, 0], num_members=1)
    assert part.simplexes == [[3, 4], [0, 1, 2]] and part.members == [[0.5, 0.25, 0.25, 0, 0]]
    assert renamed["centroids.2.norm.running_mean"] == "centroids.0.norm.running_mean"


def test_the_start_of_a_leaf_is_renumbered_and_left_out_where_the_part_lacks_it() -> None:
    stages = [{"vertex": 3, "start": 1}, {"vertex": 2, "start": 0}]
    config = SimplexConfig(**{**SHARED, "provenance": {"stages": stages}})
    part, _ = select_part(config, names(), simplex=1)
    assert part.provenance["stages"] == [{"vertex": 2, "start": 0}, {"vertex": 1}]
    assert config.provenance["stages"] == stages


def test_what_there_is_not_is_named() -> None:
    config = SimplexConfig(**SHARED)
    with pytest.raises(ValueError, match="num_members is 5: expected 1 to 4"):
        select_part(config, names(), num_members=5)
    with pytest.raises(ValueError, match="num_members is 2: expected 1 to 1, the members in simplex 2"):
        select_part(config, names(), simplex=2, num_members=2)
    with pytest.raises(ValueError, match="num_members is 0"):
        select_part(config, names(), num_members=0)
    with pytest.raises((ValueError, IndexError), match="3"):
        select_part(config, names(), simplex=3)
    with pytest.raises(ValueError, match="empty"):
        select_part(config, names(), simplex=[])
    with pytest.raises(TypeError, match="'0'"):
        select_part(config, names(), simplex="0")


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_predicts_as_the_component_that_it_was(kind: str, tmp_path: Path) -> None:
    components = [ensemble(kind, seed=0), ensemble(kind, seed=5)]
    SimplexForImageClassification.disjoint_union(components).save_pretrained(tmp_path / "whole")
    for index, component in enumerate(components):
        part = AutoModelForImageClassification.from_pretrained(tmp_path / "whole", simplex=index)
        assert same_tensors(part, component) and not part.training
        assert torch.equal(part(images()).logits, component(images()).logits)
    part.save_pretrained(tmp_path / "part")
    again = SimplexForImageClassification.from_pretrained(tmp_path / "part")
    assert same_tensors(again, component) and again.config.members == component.config.members
    whole = SimplexForImageClassification.from_pretrained(tmp_path / "whole")
    three = SimplexForImageClassification.from_pretrained(tmp_path / "whole", num_members=3)
    members = whole(images(), output_member_probabilities=True).member_probabilities
    assert torch.allclose(three(images()).logits.exp(), members[:, :3].mean(dim=1), atol=1e-6)
    assert len(three.config.simplexes) == 1 and torch.equal(three.log_volumes(), components[0].log_volumes())


def test_a_part_takes_the_other_arguments_of_loading(tmp_path: Path) -> None:
    model = SimplexForImageClassification.disjoint_union([ensemble("resnet", seed=0), ensemble("resnet", seed=5)])
    model.save_pretrained(tmp_path / "run" / "ensemble")
    names = {0: "ant", 1: "bee", 2: "cat"}
    part, info = SimplexForImageClassification.from_pretrained(
        tmp_path / "run",
        subfolder="ensemble",
        simplex=1,
        num_members=2,
        id2label=names,
        dtype=torch.bfloat16,
        device_map="cpu",
        output_loading_info=True,
    )
    assert part.dtype == torch.bfloat16 and part.config.id2label == names
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert part(images().bfloat16()).logits.shape == (6, 3)
