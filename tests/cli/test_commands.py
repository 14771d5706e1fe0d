"""The command hf-simplex: what it prints and writes is what the library says, and mistakes end with one line."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import image_processor, invoke, mistake, run, save
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from PIL import Image
from tiny import backbone, contents, ensemble, images
from transformers import AutoModelForImageClassification

import hf_simplex
from hf_simplex import SimplexForImageClassification
from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.trained_images import TRAINED_IMAGES_FILE, count_trained, write_trained_images
from hf_simplex.evaluation.calibration import fit_temperature
from hf_simplex.evaluation.metrics import classification_metrics
from hf_simplex.hub.evidence import Evidence
from hf_simplex.hub.model_card import write_card
from hf_simplex.model.decisions import Decisions

COMMANDS = ("inspect", "predict", "evaluate", "calibrate", "export", "merge", "push")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(ensemble("resnet"), tmp_path_factory.mktemp("command") / "ensemble")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "[b]picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    return path


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    assert command in run("--help")
    assert f"Example: hf-simplex {command} " in " ".join(run(command, "--help").split())


def test_the_installed_command_helps_without_importing_torch() -> None:
    command = Path(sys.executable).with_name("hf-simplex")
    result = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=300, check=True)
    assert all(name in result.stdout for name in COMMANDS)
    code = "import sys, hf_simplex.cli; sys.exit(bool({'torch', 'transformers', 'rich.table'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_the_version_is_printed() -> None:
    assert run("--version") == f"{hf_simplex.__version__}\n"


@pytest.mark.parametrize("arguments", [("inspect", "me/ensemble"), ("predict", "me/ensemble", "cat.png")])
def test_an_interruption_is_one_line(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, picture: Path
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SimplexForImageClassification, "from_pretrained", interrupted)
    monkeypatch.setattr("hf_simplex.hub.stored_ensemble.read_ensemble", interrupted)
    result = invoke(*(picture if argument == "cat.png" else argument for argument in arguments))
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


# inspect


def test_inspect_tells_structure_sizes_volumes_and_members(folder: Path) -> None:
    model = SimplexForImageClassification.from_pretrained(folder)
    told = json.loads(run("inspect", folder, "--json"))
    assert told["vertices"] == [
        {"vertex": 0, "role": "mode", "epochs": None, "start": None, "simplexes": [0]},
        {"vertex": 1, "role": "connector", "epochs": None, "start": None, "simplexes": [0]},
        {"vertex": 2, "role": "connector", "epochs": None, "start": None, "simplexes": [0]},
    ]
    volume = model.log_volumes().item()
    assert told["simplexes"] == [{"simplex": 0, "vertices": [0, 1, 2], "log_volume": pytest.approx(volume)}]
    assert told["log_volume"] == pytest.approx(volume)
    assert [member["coordinates"] for member in told["members"]] == model.config.members
    assert told["parameters_per_vertex"] == sum(parameter.numel() for parameter in backbone("resnet").parameters())
    assert told["bytes"] <= sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert told["labels"] == 3
    assert told["backbone"] == "ResNetForImageClassification"
    assert told["files"] == [
        {"file": file.name, "bytes": file.stat().st_size} for file in sorted(folder.glob("*.safetensors"))
    ]

    result = invoke("inspect", folder)
    assert result.stderr.startswith("warning: the labels have no names (LABEL_0, ...).")
    table = result.stdout
    assert f"{told['bytes'] / 1000:.1f} kB" in table
    assert "log volume (natural)" in table and "barycentric" in table
    assert "connector" in table
    assert f"{volume:.4f}" in table
    assert f"{told['parameters_per_vertex']:,}" in table
    assert all(f"{coordinate:.4f}" in table for member in model.config.members for coordinate in member)


def test_inspect_writes_valid_json_of_a_simplex_without_volume(tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit"))
    model.add_vertex()
    told = json.loads(run("inspect", save(model, tmp_path / "flat"), "--json"))
    assert told["simplexes"][0]["log_volume"] is None
    assert told["log_volume"] is None
    assert told["members"] == []
    assert "connector" in run("inspect", tmp_path / "flat")


# evaluate


def test_evaluate_measures_what_the_members_predict(tmp_path: Path) -> None:
    plain = backbone("vit", labels=10)
    torch.nn.init.normal_(plain.classifier.weight, std=5)
    model = SimplexForImageClassification.from_backbone(plain)
    vertex = model.add_vertex()
    torch.nn.init.normal_(model.backbone.classifier.weight, std=5)
    model.store_vertex(vertex)
    model.draw_members(2)
    arguments = ("digits", "--max-examples", 40, "--json", "--cpu")
    told = json.loads(run("evaluate", save(model, tmp_path / "one"), *arguments))

    data = load_image_data("digits", max_test_examples=40).test
    inputs = image_processor()([image.convert("RGB") for image in data["image"]], return_tensors="pt")
    expected = classification_metrics(model(**inputs).logits.softmax(dim=-1), data["label"])
    assert told["images"] == 40
    for name in ("accuracy", "nll", "ece", "brier"):
        assert told[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name

    # Labels of the same names in another order are told apart by name.
    model.config.id2label = {label: str(9 - label) for label in range(10)}
    swapped = json.loads(run("evaluate", save(model, tmp_path / "two"), *arguments))
    flipped = classification_metrics(model(**inputs).logits.softmax(dim=-1), [9 - label for label in data["label"]])
    assert swapped["nll"] == pytest.approx(flipped["nll"], rel=1e-4)
    assert swapped["nll"] != pytest.approx(told["nll"], rel=1e-3)
    assert f"{swapped['nll']:.4f}" in run("evaluate", tmp_path / "two", *arguments[:3])


# calibrate


def test_calibrate_writes_what_it_fits(tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit", labels=10))
    model.add_vertex(role="mode")
    model.draw_members("vertices")
    # The labels are found by name.
    model.config.id2label = {label: str(9 - label) for label in range(10)}
    folder = save(model, tmp_path / "ensemble")
    weights = {file.name: file.read_bytes() for file in folder.glob("vertex-*")}
    told = json.loads(run("calibrate", folder, "digits", "--split", "test", "--target-error", 0.3, "--json", "--cpu"))
    calibrated = SimplexForImageClassification.from_pretrained(folder)
    assert calibrated.decisions.to_json() == told
    assert told["fitted_on"] == {"data_set": "digits", "images": 797} and told["abstention"]["target_error"] == 0.3
    assert {file.name: file.read_bytes() for file in folder.glob("vertex-*")} == weights
    data = load_image_data("digits").test
    inputs = image_processor()([image.convert("RGB") for image in data["image"]], return_tensors="pt")
    calibrated.decisions = None
    probabilities = calibrated(**inputs).logits.softmax(-1).numpy()
    expected = fit_temperature(probabilities, [9 - label for label in data["label"]])
    assert told["temperature"] == pytest.approx(expected, rel=1e-3)

    shown = run("calibrate", folder, "digits", "--split", "test", "--output", tmp_path / "other", "--cpu")
    assert f"Written to {tmp_path / 'other'}" in shown and "temperature is" in shown


def test_calibrate_renews_the_card_and_keeps_the_hashes(tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit", labels=10))
    model.decisions = Decisions(temperature=7.0)
    folder = save(model, tmp_path / "ensemble")
    row = {"accuracy": 0.9, "nll": 0.3, "ece": 0.1, "brier": 0.2, "training_epochs": 1.0, "forward_passes": 1}
    table = (np.full((20, 10), 0.1), np.arange(20) % 10)
    write_card(model, folder, Evidence(results={"espro": row}, predictions={"espro": table}, test_images=20))
    assert "temperature is 7" in (folder / "README.md").read_text() and (folder / "reliability.png").exists()
    write_trained_images(folder, load_image_data("digits").train)
    command = ("calibrate", folder, "digits", "--split", "test", "--cpu")
    run(*command, "--output", tmp_path / "other")
    assert "1000 of 1000" in mistake("calibrate", tmp_path / "other", "digits", "--split", "train", "--cpu")
    assert (folder / "reliability.png").exists()
    result = invoke(*command)
    assert result.exit_code == 0 and "the card has lost its results" in result.stderr
    card, found = (folder / "README.md").read_text(), SimplexForImageClassification.from_pretrained(folder).decisions
    assert f"temperature is {found.temperature:.3g}" in card and "temperature is 7" not in card
    assert "Not evaluated" in card and not list(folder.glob("*.png"))


def test_images_that_were_trained_on_are_noticed(tmp_path: Path) -> None:
    ten = save(SimplexForImageClassification.from_backbone(backbone("vit", labels=10)), tmp_path / "ten")
    data = load_image_data("digits")
    calibrate = ("calibrate", ten, "digits", "--split", "test", "--output", tmp_path / "out", "--cpu")
    write_trained_images(ten, data.test)
    assert "797 of 797 images were trained on" in mistake(*calibrate)
    write_trained_images(ten, data.train.select(range(5)))
    assert "Written to" in run(*calibrate)
    write_trained_images(ten, data.test)
    result = invoke("evaluate", ten, "digits", "--max-examples", 20, "--json", "--cpu")
    assert "warning: 20 of 20 images were trained on (image 0, image 1, image 2, ...)" in result.stderr
    assert json.loads(result.stdout)["trained_images"] == 20


def test_calibrate_refuses_what_it_cannot_fit(folder: Path, tmp_path: Path) -> None:
    ten = save(SimplexForImageClassification.from_backbone(backbone("vit", labels=10)), tmp_path / "ten")
    assert "digits has no validation split" in mistake("calibrate", ten, "digits")
    assert "is not a folder, so give --output" in mistake("calibrate", "me/ensemble", "digits")
    assert "already holds a model" in mistake("calibrate", ten, "digits", "--output", folder)


# export and merge


def test_every_point_is_exported_as_an_ordinary_checkpoint(folder: Path, tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_pretrained(folder)
    points = {"--centroid": model.write_centroid, "--vertex=1": None, "--member=2": None}
    for number, option in enumerate(points):
        run("export", folder, option, tmp_path / str(number))
    plain = [AutoModelForImageClassification.from_pretrained(tmp_path / str(number)) for number in range(3)]
    assert {type(exported).__name__ for exported in plain} == {"ResNetForImageClassification"}
    centroid, vertex, member = (exported.eval()(images()).logits for exported in plain)
    assert torch.equal(centroid, model.write_centroid()(images()).logits)
    assert torch.equal(vertex, model.backbone_at([0.0, 1.0, 0.0])(images()).logits)
    probabilities = model(images(), output_member_probabilities=True).member_probabilities
    assert torch.allclose(member.softmax(dim=-1), probabilities[:, 2])
    assert (tmp_path / "2" / "preprocessor_config.json").exists()


def test_components_of_separate_jobs_become_one_ensemble(folder: Path, tmp_path: Path) -> None:
    other = save(ensemble("resnet", members=2, seed=5), tmp_path / "other")
    assert "2 simplexes, 6 vertices, 5 members" in run("merge", folder, other, tmp_path / "merged")
    merged = SimplexForImageClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.simplexes == [[0, 1, 2], [3, 4, 5]]
    each = [
        SimplexForImageClassification.from_pretrained(part)(
            images(), output_member_probabilities=True
        ).member_probabilities
        for part in (folder, other)
    ]
    found = merged(images(), output_member_probabilities=True).member_probabilities
    assert torch.equal(found, torch.cat(each, dim=1))


def test_merge_and_export_never_replace_a_model(folder: Path, tmp_path: Path) -> None:
    first = save(ensemble("resnet", seed=5), tmp_path / "first")
    second = save(ensemble("resnet", seed=7), tmp_path / "second")
    backbone("resnet").save_pretrained(tmp_path / "mine")
    before = contents(tmp_path)
    assert f"only one ensemble to merge, {first}, and the output folder {second}" in mistake("merge", first, second)
    assert f"{second} already holds a model" in mistake("merge", folder, first, second)
    for target in (second, tmp_path / "mine"):
        assert f"{target} already holds a model" in mistake("export", folder, "--vertex", 0, target)
    assert contents(tmp_path) == before


def test_an_ensemble_is_not_merged_with_itself(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    other = save(ensemble("resnet", seed=5), tmp_path / "other")
    for same in (folder, tmp_path / "copy"):
        said = mistake("merge", folder, other, same, tmp_path / "merged")
        assert f"{folder} and {same} are the same ensemble" in said
    assert not (tmp_path / "merged").exists()


def test_other_members_or_more_vertices_do_not_make_it_another_ensemble(folder: Path, tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_pretrained(folder)
    model.set_members([[1.0, 0.0, 0.0]], batches=[{"pixel_values": images()}])
    drawn = save(model, tmp_path / "drawn")
    other = save(ensemble("resnet", seed=5), tmp_path / "other")
    run("merge", folder, other, tmp_path / "both")
    for same in (drawn, tmp_path / "both"):
        assert f"{folder} and {same} are the same ensemble, or" in mistake("merge", folder, same, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_ensembles_that_see_images_differently_are_not_merged(folder: Path, tmp_path: Path) -> None:
    other = save(ensemble("resnet", seed=5), tmp_path / "other")
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.1, 0.2, 0.3]}))
    said = mistake("merge", folder, other, tmp_path / "merged")
    assert f"{folder} and {other} have different image processors" in said


@pytest.mark.parametrize("name", ["./no", "/no/ensemble", "~/no-ensemble", "a/b/c", "ensemble/"])
def test_a_mistyped_folder_is_no_such_folder(name: str, folder: Path, picture: Path, tmp_path: Path) -> None:
    for command in (("inspect", name), ("predict", name, picture), ("evaluate", name, "digits")):
        assert mistake(*command) == f"error: no such folder: {name}"
    assert mistake("merge", folder, name, tmp_path / "merged") == f"error: no such folder: {name}"
    assert mistake("inspect", picture).startswith(f"error: {picture} is a file")


def test_a_merged_ensemble_knows_the_training_images_of_all_its_parts(tmp_path: Path) -> None:
    data = load_image_data("digits")
    parts = [
        save(SimplexForImageClassification.from_backbone(backbone("vit", seed=seed, labels=10)), tmp_path / f"{seed}")
        for seed in (0, 1)
    ]
    for part, rows in zip(parts, (range(300), range(200, 400)), strict=True):
        write_trained_images(part, data.train.select(rows))
    assert invoke("merge", *parts, tmp_path / "both").stderr == ""
    assert count_trained(tmp_path / "both", data.train) == 400
    (parts[1] / TRAINED_IMAGES_FILE).unlink()
    said = invoke("merge", *parts, tmp_path / "half").stderr
    assert said.startswith("note: not every ensemble has hashes of its training images")
    assert count_trained(tmp_path / "half", data.train) is None


def test_parts_that_were_trained_on_other_images_leave_no_record_of_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("hf_simplex"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    parts = []
    for seed in (0, 1, 2):
        model = SimplexForImageClassification.from_backbone(backbone("vit", seed=seed, labels=10))
        record = load_image_data("digits", max_test_examples=100, seed=seed // 2).record
        model.config.provenance.update(data_set="digits", images=record.to_dict())
        parts.append(save(model, tmp_path / f"{seed}"))
    run("merge", *parts[:2], tmp_path / "same")
    assert "do not record the same" not in caplog.text
    assert json.loads((tmp_path / "same" / "config.json").read_text())["provenance"]["images"]["test"]["images"] == 100
    run("merge", *parts, tmp_path / "other")
    assert "do not record the same training, validation and test images" in caplog.text
    assert "images" not in json.loads((tmp_path / "other" / "config.json").read_text())["provenance"]


# push


def test_push_publishes_in_one_commit_what_another_then_inspects(hub: LoopbackHub, folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    printed = run("push", folder, "alice/ensemble", "--private", "--commit-message", "Three vertices")
    commits = HfApi().list_repo_commits("alice/ensemble")
    assert [commit.title for commit in commits] == ["Three vertices", "initial commit"]
    assert commits[0].commit_id in printed
    assert HfApi().model_info("alice/ensemble").private
    files = HfApi().list_repo_files("alice/ensemble")
    assert {"config.json", "README.md", "vertex-00002.safetensors", "modeling_simplex.py"} <= set(files)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    told = json.loads(run("inspect", "alice/ensemble", "--json"))
    assert (told["labels"], told["volumes"]) == (3, "recorded")

    assert "discussions" in run("push", folder, "alice/ensemble", "--create-pr", "--no-code")
    run("push", folder, "alice/other", "--revision", "grown", "--no-code")
    assert "modeling_simplex.py" not in HfApi().list_repo_files("alice/other", revision="grown")


def test_pushing_without_a_right_to_is_one_line(hub: LoopbackHub, folder: Path) -> None:
    assert "Nothing was published to bob/ensemble" in mistake("push", folder, "bob/ensemble")
    assert "Nothing was published to alice/ensemble" in mistake("push", folder, "alice/ensemble", "--token", "hf_no")
    assert "alice/missing" in mistake("inspect", "alice/missing")


# Mistakes


def test_mistakes_are_one_line_and_nothing_is_written(folder: Path, picture: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for command in (("inspect",), ("evaluate",), ("predict",)):
        last: tuple[Any, ...] = {"inspect": (), "evaluate": ("digits",), "predict": (picture,)}[command[0]]
        assert str(missing) in mistake(*command, missing, *last)
    assert f"no folder {missing}" in mistake("push", missing, "alice/ensemble")
    target = tmp_path / "target"
    assert "no vertex 3: the vertices are 0 to 2" in mistake("export", folder, "--vertex", 3, target)
    assert "no member 3: the ensemble has 3, from 0" in mistake("export", folder, "--member", 3, target)
    assert "no simplex 1" in mistake("export", folder, "--centroid", "--simplex", 1, target)
    vit = save(ensemble("vit"), tmp_path / "vit")
    assert "Component 2 has another backbone architecture" in mistake("merge", folder, vit, target)
    assert not target.exists()
    assert "has 3 labels (LABEL_0, LABEL_1, LABEL_2" in mistake("evaluate", folder, "digits")
    assert f"no such file: {missing}" in mistake("predict", folder, missing)


@pytest.mark.parametrize("options", [(), ("--centroid", "--vertex", "0"), ("--vertex", "0", "--member", "0")])
def test_export_takes_one_point(options: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    result = invoke("export", folder, *options, tmp_path / "out")
    assert result.exit_code == 2
    assert "Give exactly one of --centroid, --vertex and --member" in " ".join(result.stderr.replace("│", " ").split())
