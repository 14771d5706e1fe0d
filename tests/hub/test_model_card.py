"""A card says what the run measured, in metadata that the Hub takes, and its examples run as they stand."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import EvalResult, HfApi, ModelCard
from loopback_hub import LoopbackHub
from tiny import PICTURE, backbone, complete, ensemble, folder

from hf_simplex import SimplexForImageClassification
from hf_simplex.evaluation.comparison import Result
from hf_simplex.evaluation.metrics import classification_metrics
from hf_simplex.evaluation.surface_evaluation import model_surface
from hf_simplex.evaluation.surface_points import plane_points
from hf_simplex.hub.card_merge import generated_region, has_user_text, merge_cards
from hf_simplex.hub.evidence import Evidence
from hf_simplex.hub.model_card import new_card, write_card
from hf_simplex.hub.publishing import publish_folder
from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.weight_space import trainable_names

ROOT = Path(__file__).parents[2]
PARTS = ("backbone", "deep_ensemble", "centroid", "simplex", "espro")


def evidence(**changes: Any) -> Evidence:
    """Results of random predictions of three labels on fifty images."""
    generator = np.random.default_rng(0)
    references = generator.integers(0, 3, size=50)
    predictions = {part: (generator.dirichlet([1.0] * 3, size=50), references) for part in PARTS}
    results = {
        part: Result(**classification_metrics(*prediction), training_epochs=4.0, forward_passes=8)
        for part, prediction in predictions.items()
    }
    settings = {
        "data_set": "zalando-datasets/fashion_mnist",
        "test_images": 50,
        "results": results,
        "predictions": {part: predictions[part] for part in ("backbone", "espro")},
        "arguments": {"num_vertices": 3, "learning_rate": 1e-3},
        "hardware": "Hardware: an abacus.",
    }
    return Evidence(**{**settings, **changes})


def table(text: str, header: str) -> list[list[str]]:
    """The rows of the table whose header begins so."""
    lines = text[text.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def table_notes(text: str) -> list[str]:
    """What the card says of the rows of its results."""
    return text.split("The rows are:\n\n")[1].split("\n\n")[0].splitlines()


def test_the_card_holds_the_figures_of_the_run_and_of_the_ensemble() -> None:
    model, found = complete(), evidence()
    card = new_card(model, found, repository="alice/digits", tags=["mine"])
    assert card.text.lstrip().startswith("# digits\n")
    results = table(card.text, "| | accuracy")
    assert [row[0] for row in results] == ["backbone", "deep ensemble", "centroid", "one simplex", "ESPRO"]
    for row, result in zip(results, found.results.values(), strict=True):
        assert [float(cell) for cell in row[1:]] == pytest.approx([*result.values()], abs=5.1e-5)
    assert table(card.text, "| vertex |") == [
        ["0", "mode", "0", "given", ""],
        ["1", "connector", "0", "given", ""],
        ["2", "connector", "0", "given", ""],
    ]
    volume = f"{model.log_volumes()[0]:.2f}"
    assert table(card.text, "| simplex | vertices") == [["0", "0, 1, 2", volume, "0, 1, 2"]]
    assert "learning_rate: 0.001" in card.text and "Hardware: an abacus." in card.text
    accuracies = [result["accuracy"] for result in found.results.values()]
    error = max(100 * (accuracy * (1 - accuracy) / 50) ** 0.5 for accuracy in accuracies)
    assert f"at most {error:.1f} points" in card.text and "benton2021loss" in card.text
    assert "reliability.png" in card.text and "loss_surface.png" not in card.text


def test_a_card_says_only_what_is_so_of_its_members() -> None:
    two = SimplexForImageClassification.disjoint_union([ensemble("vit"), ensemble("vit", seed=5)])
    two.draw_members(4)
    assert "choose among simplexes with equal chance" in new_card(two, Evidence()).text
    two.draw_members("auto")
    for model in (two, complete()):
        text = new_card(model, Evidence()).text
        assert "choose among" not in text and "drawn uniformly" not in text, "placed, or without a choice"


def test_results_of_an_unknown_data_set_name_none() -> None:
    card = new_card(complete(), evidence(data_set=None))
    assert "On 50 test images:" in card.text and "None" not in card.text


def test_one_simplex_is_not_told_twice() -> None:
    results = dict(evidence().results)
    results |= {"deep_ensemble": results["backbone"], "simplex": results["espro"]}
    card = new_card(complete(), evidence(results=results))
    assert [row[0] for row in table(card.text, "| | accuracy")] == ["backbone", "centroid", "ESPRO"]
    explained = [line.removeprefix("- ").split(":")[0] for line in table_notes(card.text)]
    assert explained == ["backbone", "centroid", "ESPRO"], "only the rows that there are"


def test_the_metadata_are_complete_and_the_hub_takes_them(hub: LoopbackHub, tmp_path: Path) -> None:
    source = folder("vit", tmp_path / "vit")
    api = HfApi()
    api.create_repo("alice/backbone")
    api.upload_folder(repo_id="alice/backbone", folder_path=source)
    api.upload_file(
        path_or_fileobj=b"---\nlicense: cc-by-4.0\n---\n", path_in_repo="README.md", repo_id="alice/backbone"
    )
    model = SimplexForImageClassification.from_backbone("alice/backbone", fine_tuned=True)
    card = new_card(model, evidence(), repository="alice/digits", tags=["mine"])
    card.validate()
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-classification")
    assert (data.base_model, data.datasets) == ("alice/backbone", ["zalando-datasets/fashion_mnist"])
    assert data.base_model_relation == "finetune"
    assert data.license == "cc-by-4.0", "as the backbone's card has it"
    assert {"simplex", "mode-connectivity", "ensemble", "mine"} <= set(data.tags)
    assert {"accuracy", "nll", "ece"} <= set(data.metrics) and data.model_name == "digits"
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    ours = evidence().results["espro"]
    expected = {"Accuracy (ESPRO)": ours["accuracy"], "NLL (ESPRO)": ours["nll"], "ECE (ESPRO)": ours["ece"]}
    assert values == pytest.approx(expected, abs=1e-6), "only of the ensemble that is published"
    written = ModelCard(str(card))
    assert written.data.to_dict() == data.to_dict()


def test_the_license_is_the_backbones_where_it_is_known(tmp_path: Path) -> None:
    model = ensemble("timm")
    assert new_card(model, Evidence()).data.license is None
    model.config.backbone_config.pretrained_cfg["license"] = "apache-2.0"
    assert new_card(model, Evidence()).data.license == "apache-2.0"
    model.config.provenance["from_scratch"] = True
    assert new_card(model, Evidence()).data.license is None, "its weights are not the backbone's"
    source = folder("vit", tmp_path / "vit")
    (source / "README.md").write_text("---\nlicense: mit\n---\n# A backbone\n")
    card = new_card(SimplexForImageClassification.from_backbone(source), Evidence())
    assert card.data.license == "mit" and str(tmp_path) not in str(card), "paths are nobody's business"
    assert card.data.base_model is None, "a folder here is no model on the Hub"
    assert "base_model_relation" not in card.data.to_dict()


def test_pictures_are_drawn_where_there_is_something_to_draw(tmp_path: Path) -> None:
    model = complete("vit")
    points = plane_points(
        model.config.complex, model.weights, trainable_names(model.backbone), vertices=(0, 1, 2), resolution=2
    )
    batch = {"pixel_values": torch.zeros(3, 3, 16, 16), "labels": torch.arange(3)}
    surface = model_surface(model, points, [batch])
    file = write_card(model, tmp_path / "with", evidence(surface=surface, surface_images=3))
    names = {path.name for path in file.parent.iterdir()}
    assert names == {"README.md", "reliability.png", "loss_surface.png"}
    text = file.read_text()
    assert "The loss of 3 test images on the plane through vertices 0, 1, 2" in text
    assert set(re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)) == names - {"README.md"}
    bare = write_card(model, tmp_path / "without").read_text()
    assert [path.name for path in (tmp_path / "without").iterdir()] == ["README.md"]
    assert "Not evaluated" in bare and "![" not in bare and "model-index" not in bare


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def test_the_examples_of_a_card_run_as_they_stand(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = complete("resnet")
    model.save_pretrained(tmp_path / "ensemble")
    write_card(model, tmp_path / "ensemble", evidence())
    publish_folder(tmp_path / "ensemble", "alice/digits")
    PICTURE.save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    package, pipelines, remote = snippets(hub.files("alice/digits")["README.md"].decode())
    found: list[dict[str, Any]] = [{}, {}]
    exec(package, found[0])
    exec(pipelines, found[1])
    probabilities = found[0]["probabilities"][0]
    members = model(model.image_processor(PICTURE, return_tensors="pt")["pixel_values"]).logits.softmax(-1)
    assert probabilities.tolist() == pytest.approx(members[0].tolist(), abs=1e-6)
    assert found[0]["disagreement"].shape == (1, 3)
    scores = {row["label"]: row["score"] for row in found[1]["predictions"]}
    for index, label in model.config.id2label.items():
        assert scores[label] == pytest.approx(float(probabilities[index]), abs=1e-6)
    entropy = -sum(p * np.log(p) for p in probabilities.tolist())
    assert found[1]["uncertainty"] == pytest.approx(entropy, abs=1e-5)

    # A process that has never heard of hf_simplex.
    hide = "import sys; sys.modules['hf_simplex'] = None\n"
    printed = hub.run_python(hide + remote + "print(probabilities[0].tolist())", cwd=tmp_path)
    assert eval(printed.splitlines()[-1]) == probabilities.tolist()


# ---- a user's own edits ------------------------------------------------------------------------------------------


def test_a_second_card_replaces_what_was_generated_and_nothing_else(tmp_path: Path) -> None:
    model = complete()
    file = write_card(model, tmp_path, evidence(), repository="alice/digits")
    card = ModelCard(file.read_text())
    assert not has_user_text(card)
    card.text = card.text.replace("# digits", "# My own\n\nRead this.", 1) + "\n## Thanks\n"
    card.data.license, card.data.tags, card.data.co2 = "mit", ["mine", "simplex"], 5
    theirs = EvalResult("image-classification", "beans", "Beans", "accuracy", 0.5, metric_name="Accuracy")
    former = [
        EvalResult("image-classification", "digits", "digits", "nll", 0.5, metric_name=f"NLL ({name})")
        for name in ("backbone", "deep ensemble", "centroid", "one simplex", "ESPRO, calibrated")
    ]
    card.data.eval_results = [*card.data.eval_results, *former, theirs]
    card.save(file)
    assert has_user_text(card)
    better = {**evidence().results["espro"], "accuracy": 0.123}
    second = write_card(model, tmp_path, evidence(results={"espro": better}), repository="alice/digits")
    again = ModelCard(second.read_text())
    assert again.text.lstrip().startswith("# My own\n\nRead this.\n\n<!--") and again.text.endswith("## Thanks\n")
    assert "0.1230" in again.text and "deep ensemble |" not in again.text
    assert again.data.license == "mit" and again.data.co2 == 5 and "mine" in again.data.tags
    assert len(again.data.tags) == len(set(again.data.tags))
    named = [(result.dataset_name, result.metric_name) for result in again.data.eval_results]
    assert sorted(named) == [
        ("Beans", "Accuracy"),
        *(("fashion_mnist", f"{metric} (ESPRO)") for metric in ("Accuracy", "ECE", "NLL")),
    ], "our own results are those of the second run, and no earlier version's"


def test_a_card_of_somebody_elses_gets_the_generated_part_at_its_end() -> None:
    new = new_card(complete(), evidence(), repository="alice/digits")
    old = ModelCard("---\nlicense: mit\nlibrary_name: keras\n---\n# By hand\n\nAll of it.\n")
    card = merge_cards(old, new)
    assert card.text.startswith("# By hand\n\nAll of it.\n\n<!--") and generated_region(card.text) is not None
    assert (card.data.license, card.data.library_name) == ("mit", "transformers")
    assert merge_cards(card, new).text == card.text


def test_what_the_new_card_does_not_know_stays_as_a_user_filled_it_in() -> None:
    new = new_card(complete(), Evidence(), repository="alice/digits")
    assert new.data.base_model is None and new.data.datasets is None
    old = ModelCard("---\nbase_model: alice/vit\ndatasets:\n- alice/images\n---\n" + new.text)
    card = merge_cards(old, new)
    assert (card.data.base_model, card.data.datasets) == ("alice/vit", ["alice/images"])


def with_text(card: ModelCard, text: str) -> ModelCard:
    other = ModelCard(str(card))
    other.text = other.text.rstrip() + f"\n\n{text}\n"
    return other


def test_of_two_texts_none_is_lost_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    bare = new_card(complete(), evidence(), repository="alice/digits")
    newer = new_card(complete(), evidence(test_images=51), repository="alice/digits")
    assert "Mine." in merge_cards(bare, with_text(newer, "Mine.")).text
    longer = merge_cards(with_text(bare, "Mine."), with_text(newer, "Mine.\n\nMore."))
    assert "More." in longer.text and not caplog.records, "an older state of the same text gives way"
    theirs = merge_cards(with_text(bare, "Theirs."), with_text(newer, "Mine."))
    assert "Theirs." in theirs.text and "Mine." not in theirs.text and "On 51 test images" in theirs.text
    assert "has lines that the new card lacks" in caplog.text


def test_a_license_that_somebody_chose_stays(caplog: pytest.LogCaptureFixture) -> None:
    old = new_card(complete(), evidence(), repository="alice/digits")
    new = with_text(old, "Mine.")
    old.data.license, new.data.license = "mit", "apache-2.0"
    assert merge_cards(old, new).data.license == "mit"
    assert "has the license mit, which stays" in caplog.text and "license apache-2.0 is dropped" in caplog.text


def test_a_card_that_cannot_be_read_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\ntags: [a\n---\n# Mine\n")
    with pytest.raises(ValueError, match=r"metadata at the top of .*README\.md"):
        write_card(complete(), tmp_path, evidence())
    assert [file.read_text() for file in tmp_path.iterdir()] == ["---\ntags: [a\n---\n# Mine\n"]


def test_a_card_of_one_model_alone_can_be_written(tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit"))
    text = write_card(model, tmp_path).read_text()
    assert "1 member " in text and "1 vertex" in text and "1 simplex" in text
    assert SimplicialComplex(1, [[0]]) == model.config.complex and table(text, "| simplex | vertices") == [
        ["0", "0", "", "0"]
    ]


def test_the_wheel_brings_the_template(tmp_path: Path) -> None:
    build = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    shutil.copytree(ROOT / "hf_simplex", source / "hf_simplex", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        template = archive.read("hf_simplex/hub/template.md")
    assert template == (ROOT / "hf_simplex" / "hub" / "template.md").read_bytes()
