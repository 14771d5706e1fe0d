"""What is computed is right, travels in one file, and a broken file is refused by name."""

from pathlib import Path

import pytest
import torch
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file
from tiny import backbone, batches
from tiny_explorer import explored, named, pictures

from hf_simplex import SimplexForImageClassification
from hf_simplex.data.image_transforms import build_transforms
from hf_simplex.explorer.answers import Answers
from hf_simplex.explorer.exploration import Exploration, find_exploration
from hf_simplex.explorer.layout import paths_of, regions_of
from hf_simplex.explorer.wandering import move, wander_state
from hf_simplex.hub.publishing import publish_folder
from hf_simplex.model.complexes import SimplicialComplex


@pytest.fixture(scope="module")
def model() -> SimplexForImageClassification:
    return named("resnet")


@pytest.fixture(scope="module")
def exploration(model: SimplexForImageClassification) -> Exploration:
    return explored(model)


def test_losses_are_those_of_the_points(model: SimplexForImageClassification, exploration: Exploration) -> None:
    _, transform = build_transforms(model.image_processor)
    images = torch.stack([transform(row["image"]) for row in pictures()])
    labels = torch.tensor(pictures()["label"])
    assert exploration.batch == len(images) and exploration.resolution == 4
    for shares in ([1.0, 0.0, 0.0], [0.5, 0.25, 0.25], [0.0, 0.5, 0.5]):
        with torch.no_grad():
            logits = model.backbone_at(shares, batches())(pixel_values=images).logits
        expected = torch.nn.functional.cross_entropy(logits, labels)
        loss, accuracy = exploration.loss_at(shares)
        assert loss == pytest.approx(float(expected), abs=1e-5)
        assert accuracy == pytest.approx(float((logits.argmax(-1) == labels).double().mean()))


def test_a_point_answers_as_the_model_does(model: SimplexForImageClassification, exploration: Exploration) -> None:
    """At lattice points BatchNorm statistics are those that were computed, between them they are interpolated."""
    answers = Answers(model, exploration)
    assert answers.is_interpolated and not answers.jumps
    pixel_values = answers.read(pictures()[3]["image"])
    for shares in ([0.0, 1.0, 0.0], [0.25, 0.25, 0.5], [0.5, 0.5, 0.0]):
        with torch.no_grad():
            expected = model.backbone_at(shares, batches())(pixel_values=pixel_values).logits.softmax(dim=-1)[0]
        assert torch.allclose(answers.at(pixel_values, shares).probabilities, expected, atol=1e-6)
    score = answers.score([0.25, 0.25, 0.5])
    assert (score.nll, score.accuracy) == pytest.approx(exploration.loss_at([0.25, 0.25, 0.5]), abs=1e-6)
    between = answers.at(pixel_values, [0.125, 0.25, 0.625]).probabilities
    ends = [answers.at(pixel_values, shares).probabilities for shares in ([0.0, 0.25, 0.75], [0.25, 0.25, 0.5])]
    assert float((between - (ends[0] + ends[1]) / 2).abs().max()) < 0.3
    for wrong in ([0.5, 0.5], [0.5, 0.5, 0.5], [2.0, -1.0, 0.0], [float("nan"), 0.0, 1.0]):
        with pytest.raises(ValueError, match="Expected"):
            answers.at(pixel_values, wrong)


def test_the_loss_of_a_point_that_is_sure_and_wrong_is_finite() -> None:
    sure = named("vit")
    for weights in sure.weights:
        weights["classifier.weight"].mul_(1e5)
    answers = Answers(sure, explored(sure))
    assert answers.exploration is not None
    score, surface = answers.score([1.0, 0.0, 0.0]), answers.exploration.loss_at([1.0, 0.0, 0.0])
    assert score is not None and surface is not None and score.nll > 200
    assert score.nll == pytest.approx(surface[0], rel=1e-5)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_bfloat16_ensemble_is_explored(kind: str) -> None:
    model = named(kind).bfloat16()
    answers = Answers(model, explored(model))
    assert answers.exploration is not None
    score, surface = answers.score([0.5, 0.25, 0.25]), answers.exploration.loss_at([0.5, 0.25, 0.25])
    assert score is not None and surface is not None and score.nll == pytest.approx(surface[0], abs=1e-4)


def test_the_members_disagree_most_on_the_first_of_the_gallery(
    model: SimplexForImageClassification, exploration: Exploration
) -> None:
    answers = Answers(model, exploration)
    information = [found for _, _, found in answers.gallery()]
    assert information == sorted(information, reverse=True)
    rest = set(range(len(exploration.images))) - set(exploration.gallery)
    for index in rest:
        found = answers.ask(answers.read(exploration.images[index].numpy()))
        assert found.result["mutual_information_nats"] <= information[-1] + 1e-9


def test_the_file_is_what_was_saved(exploration: Exploration, tmp_path: Path) -> None:
    file = exploration.save(tmp_path)
    found = find_exploration(tmp_path)
    assert file == tmp_path / "explorer" / "explorer.safetensors" and file.stat().st_size < 100_000
    assert found.regions == exploration.regions and found.gallery == exploration.gallery
    assert torch.equal(found.loss, exploration.loss) and torch.equal(found.statistics, exploration.statistics)
    assert all(torch.equal(one, other) for one, other in zip(found.images, exploration.images, strict=True))
    assert find_exploration(tmp_path / "explorer") is None


def test_a_broken_file_is_named(exploration: Exploration, tmp_path: Path) -> None:
    file = exploration.save(tmp_path)
    whole = file.read_bytes()
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"explorer\.safetensors.*not a complete file.*--compute"):
        find_exploration(tmp_path)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="its format is 'pt'"):
        find_exploration(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"explorer\.safetensors"):
        Exploration.load(file)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "explorer").rmdir()
    (tmp_path / "explorer").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="is a link"):
        exploration.save(tmp_path)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    "name, value",
    [
        ("loss", torch.zeros(2)),
        ("batch", 0),
        ("gallery", (999,)),
        ("statistics_resolution", 3),
        ("regions", ((0, 9),)),
        ("images", (torch.zeros(2, 2, dtype=torch.uint8),)),
        ("statistics_at", torch.full((12,), 99)),
    ],
)
def test_what_contradicts_itself_is_refused(exploration: Exploration, name: str, value: object) -> None:
    fields = {field: getattr(exploration, field) for field in exploration.__dataclass_fields__ if field[0] != "_"}
    with pytest.raises(ValueError):
        Exploration(**{**fields, name: value})


def test_a_file_of_other_weights_is_refused(exploration: Exploration) -> None:
    other = named("resnet")
    other.vertices[1].get_parameter(next(iter(other.weights[1]))).data.add_(1.0)
    with pytest.raises(ValueError, match="other weights"):
        Answers(other, exploration)


def test_without_statistics_the_point_jumps_to_known_ones(model: SimplexForImageClassification) -> None:
    answers = Answers(model)
    assert answers.jumps and answers.score([1.0, 0.0, 0.0]) is None
    found = answers.at(answers.read(pictures()[0]["image"]), [0.9, 0.1, 0.0])
    assert found.coordinates in answers.known_points() and found.loss is None


def test_without_batch_norm_every_point_is_shown() -> None:
    model = named("vit")
    answers = Answers(model)
    assert not answers.jumps and not answers.is_interpolated
    pixel_values = answers.read(pictures()[0]["image"])
    with torch.no_grad():
        expected = model.backbone_at([0.2, 0.3, 0.5])(pixel_values=pixel_values).logits.softmax(dim=-1)[0]
    assert torch.allclose(answers.at(pixel_values, [0.2, 0.3, 0.5]).probabilities, expected, atol=1e-6)
    explored(model)


def test_one_vertex_shows_what_can_be_shown() -> None:
    model = SimplexForImageClassification.from_backbone(backbone("resnet"))
    model.image_processor = named("resnet").image_processor
    answers = Answers(model)
    state = wander_state(answers, None)
    assert [region["vertices"] for region in state["regions"]] == [[0]] and state["paths"] == []
    assert any("one vertex" in note for note in state["notes"])
    answer = answers.ask(answers.read(pictures()[0]["image"]))
    assert list(answer.parts) == ["one model (mode 0)", "ensemble"]
    rows = move(answers, answer, [1.0])["rows"]
    assert [row["point"] for row in rows] == pytest.approx([row["ensemble"] for row in rows], abs=1e-6)


def test_a_line_across_the_barrier_is_a_region_and_a_path() -> None:
    apart = SimplicialComplex(4, [[0, 2], [1, 3]])
    roles = ["mode", "mode", "connector", "connector"]
    assert regions_of(apart, roles) == [(0, 2), (1, 3), (0, 1)]
    assert [path.vertices for path in paths_of(apart, roles)] == [(0, 1)]
    tetrahedron = SimplicialComplex(4, [[0, 1, 2, 3]])
    assert len(regions_of(tetrahedron, roles)) == 4
    assert [path.vertices for path in paths_of(tetrahedron, roles)] == [(0, 1), (0, 2, 1), (0, 3, 1)]


def test_it_travels_with_the_ensemble(
    hub: LoopbackHub, model: SimplexForImageClassification, exploration: Exploration, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    file = exploration.save(tmp_path)
    (tmp_path / "explorer" / "notes.txt").write_text("mine")
    publish_folder(tmp_path, "alice/ensemble")
    assert hub.files("alice/ensemble")["explorer/explorer.safetensors"] == file.read_bytes()
    assert "explorer/notes.txt" not in hub.files("alice/ensemble")
    loaded = SimplexForImageClassification.from_pretrained("alice/ensemble")
    Answers(loaded, find_exploration("alice/ensemble"))
    model.push_to_hub("alice/plain")
    assert find_exploration("alice/plain") is None


def test_members_at_a_vertex_with_other_statistics_are_told() -> None:
    model = named("resnet")
    own = [model.vertex_statistics(vertex) for vertex in (0, 1)]
    other = {name: tensor + 1 for name, tensor in own[0].items()}
    model.choose_members([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]], [other, own[1], other])
    assert Answers(model).recomputed_members() == [True, False, False]
    # Without BatchNorm there is nothing to recompute.
    assert not any(Answers(named("vit")).recomputed_members())
