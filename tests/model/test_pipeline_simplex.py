"""The pipelines: what they take, what they give, and which image they name when one is bad."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from PIL import Image
from tiny import KINDS, LABELS, SIZE, backbone, ensemble
from torch.utils.data import Dataset
from transformers import ViTImageProcessor, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset

from hf_simplex import SimplexForImageClassification, SimplexImageClassificationPipeline
from hf_simplex.evaluation.evaluate_modules import Accuracy
from hf_simplex.model.decisions import Abstention, Decisions, PredictionSets
from hf_simplex.model.pipeline_simplex import TASK
from hf_simplex.model.uncertainty import mutual_information, predictive_entropy, standard_deviation, vote_share

NUMBER = 4


def image_processor() -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": SIZE, "width": SIZE})


def saved(directory: Path, kind: str = "vit") -> str:
    model = ensemble(kind)
    if kind != "timm":
        model.image_processor = image_processor()
    model.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("ensemble"))


@pytest.fixture(scope="module")
def classifier(folder: str) -> SimplexImageClassificationPipeline:
    loaded: SimplexImageClassificationPipeline = pipeline(TASK, model=folder)
    return loaded


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (24, 20, 3), dtype=np.uint8)) for _ in range(NUMBER)]


def test_members_are_kept_ready_as_far_as_they_may_take_memory(folder: str, pictures: list[Image.Image]) -> None:
    streaming = pipeline(TASK, model=folder, max_member_bytes=0)
    ready = pipeline(TASK, model=folder)
    assert (streaming.model.num_materialized, ready.model.num_materialized) == (0, 3)
    assert streaming(pictures) == ready(pictures)
    # A choice that was made before is left alone.
    one = sum(tensor.numel() * tensor.element_size() for tensor in ready.model.backbone.state_dict().values())
    assert ready.model.materialize(one) == 1
    assert pipeline(TASK, model=ready.model, image_processor=image_processor()).model.num_materialized == 1
    with pytest.raises(ValueError, match="max_bytes is -1"):
        pipeline(TASK, model=folder, max_member_bytes=-1)


@pytest.fixture(scope="module")
def expected(classifier: SimplexImageClassificationPipeline, pictures: list[Image.Image]) -> list[dict[str, Any]]:
    return [classifier(picture) for picture in pictures]


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


class Pictures(Dataset):
    def __init__(self, pictures: list[Image.Image]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Image.Image:
        return self.pictures[index]


def rows(pictures: list[Any]) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": pictures, "label": list(range(len(pictures)))}, features=features)


def close(left: Any, right: Any) -> bool:
    """Equal but for the rounding of another batch size."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(close(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(close(*pair) for pair in zip(left, right, strict=True))
    return bool(left == pytest.approx(right, rel=1e-4, abs=1e-6)) if isinstance(left, float) else bool(left == right)


# What it gives


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_says_follows_from_the_members(kind: str, pictures: list[Image.Image], tmp_path: Path) -> None:
    name = saved(tmp_path, kind)
    classifier = pipeline(TASK, model=name)
    assert type(classifier) is SimplexImageClassificationPipeline
    result = classifier(pictures[0])
    decided = ["calibrated", "abstain", "prediction_set", "more_uncertain_than"]
    assert list(result) == ["labels", "predictive_entropy_nats", "mutual_information_nats", "vote_share", *decided]
    # Nothing was fitted, so nothing is made up.
    assert [result[name] for name in decided] == [False, None, None, None]

    model = SimplexForImageClassification.from_pretrained(name)
    inputs = classifier.image_processor(pictures[0], return_tensors="pt")
    members = model(**inputs, output_member_probabilities=True).member_probabilities[0]
    assert members.shape == (3, LABELS)
    assert result["predictive_entropy_nats"] == predictive_entropy(members).item() > 0
    assert result["mutual_information_nats"] == mutual_information(members).item() > 0
    assert result["vote_share"] == vote_share(members).item()
    deviations = {f"LABEL_{i}": deviation for i, deviation in enumerate(standard_deviation(members).tolist())}
    assert {entry["label"]: entry["standard_deviation"] for entry in result["labels"]} == deviations


def test_the_scores_are_those_of_plain_image_classification(
    folder: str, classifier: SimplexImageClassificationPipeline, pictures: list[Image.Image]
) -> None:
    plain = pipeline("image-classification", model=folder)
    assert type(plain) is not SimplexImageClassificationPipeline
    for top_k in (1, LABELS, LABELS + 5):
        for expected, result in zip(plain(pictures, top_k=top_k), classifier(pictures, top_k=top_k), strict=True):
            assert [{"label": e["label"], "score": e["score"]} for e in result["labels"]] == expected
            assert len(expected) == min(top_k, LABELS)


def test_the_decisions_of_the_checkpoint_are_applied(pictures: list[Image.Image], tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_pretrained(saved(tmp_path))
    classifier = pipeline(TASK, model=model, image_processor=image_processor())
    raw = classifier(pictures[0], top_k=LABELS)
    inputs = classifier.image_processor(pictures[0], return_tensors="pt")
    energy = model(**inputs, output_member_probabilities=True).member_energies.double().mean().item()
    scores = torch.tensor([entry["score"] for entry in raw["labels"]]).double().pow(1 / 3)
    scores /= scores.sum()
    for offset in (-1e-4, 1e-4):
        model.decisions = Decisions(
            temperature=3.0,
            abstention=Abstention(0.05, 0.95, threshold=scores[0].item() + offset),
            prediction_sets=PredictionSets("lac", 0.9, quantile=1 - scores[1].item() - offset),
            uncertainty_quantiles={"energy": [energy - 1.0] * 41 + [energy + 1.0] * 60},
        )
        result = classifier(pictures[0], top_k=LABELS)
        assert result["calibrated"] is True
        assert [entry["score"] for entry in result["labels"]] == pytest.approx(scores.tolist(), abs=1e-6)
        assert result["abstain"] is (offset > 0)
        labels = [entry["label"] for entry in result["labels"]]
        assert result["prediction_set"] == labels[: 1 if offset > 0 else 2]
        assert result["more_uncertain_than"] == {"energy": 40.0}
        plain = pipeline("image-classification", model=model, image_processor=image_processor())
        assert plain(pictures[0])[0]["score"] == result["labels"][0]["score"]


def test_a_single_member_knows_no_disagreement(pictures: list[Image.Image]) -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit"))
    result = pipeline(TASK, model=model, image_processor=image_processor())(pictures[0])
    assert result["mutual_information_nats"] == 0
    assert result["vote_share"] == 1
    assert result["predictive_entropy_nats"] > 0
    assert [entry["standard_deviation"] for entry in result["labels"]] == [0.0] * LABELS


def test_labels_of_the_same_name_keep_their_own_numbers(pictures: list[Image.Image]) -> None:
    model = ensemble("vit")
    names = ["crane", "crane", "cat"]
    model.config.id2label = dict(enumerate(names))
    result = pipeline(TASK, model=model, image_processor=image_processor())(pictures[0])
    inputs = image_processor()(pictures[0], return_tensors="pt")
    members = model(**inputs, output_member_probabilities=True).member_probabilities[0]
    expected = sorted(
        zip(members.mean(dim=0).tolist(), names, standard_deviation(members).tolist(), strict=True), reverse=True
    )
    found = [(entry["score"], entry["label"], entry["standard_deviation"]) for entry in result["labels"]]
    assert [entry[1:] for entry in found] == [entry[1:] for entry in expected]
    assert [entry[0] for entry in found] == pytest.approx([entry[0] for entry in expected], rel=1e-5)


# What it takes


def test_one_image_in_every_form_is_the_same_image(
    classifier: SimplexImageClassificationPipeline,
    pictures: list[Image.Image],
    expected: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    path = tmp_path / "picture.png"
    pictures[0].save(path)
    array = np.asarray(pictures[0])
    for image in (str(path), path, path.read_bytes(), bytearray(path.read_bytes()), array, {"image": pictures[0]}):
        assert classifier(image) == expected[0], type(image)
    assert classifier(torch.from_numpy(array.copy()).permute(2, 0, 1)) == expected[0]


def test_an_array_is_the_image_of_its_pixels_whatever_its_dtype(
    classifier: SimplexImageClassificationPipeline, pictures: list[Image.Image], expected: list[dict[str, Any]]
) -> None:
    array = np.asarray(pictures[0])
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    opaque = np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])
    same = [
        array.astype(np.uint16) * 257,
        array.astype(np.int32),
        array.astype(np.float32) / 255,
        opaque,
        tensor / 255,
    ]
    for image in same:
        assert classifier(image) == expected[0], image.dtype
    assert classifier(same) == [expected[0]] * len(same)
    grey = pictures[0].convert("L")
    for image in (np.asarray(grey), np.asarray(grey)[:, :, None], np.asarray(grey.convert("LA"))):
        assert classifier(image) == classifier(grey), image.shape


def test_normalized_pixels_and_nan_are_refused(classifier: SimplexImageClassificationPipeline) -> None:
    normalized = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"Image cannot be read: .* float32 has values from -.*normalized"):
        classifier(normalized)
    with pytest.raises(ValueError, match=r"Image 1 cannot be read: .*from nan to nan"):
        classifier([np.zeros((16, 16, 3), np.float32), np.full((16, 16, 3), np.nan, np.float32)])


def test_scores_that_are_not_finite_are_no_result(pictures: list[Image.Image]) -> None:
    model = ensemble("vit")
    with torch.no_grad():
        model.weights[1]["classifier.weight"][0, 0] = float("nan")
    broken = pipeline(TASK, model=model, image_processor=image_processor())
    with pytest.raises(ValueError, match="the probabilities are not finite"):
        broken(pictures[0])


MANY: dict[str, Callable[[list[Image.Image]], Any]] = {
    "list": list,
    "tuple": tuple,
    "list of bytes": lambda pictures: [png(picture) for picture in pictures],
    "array": lambda pictures: np.stack([np.asarray(picture) for picture in pictures]),
    "torch's data set": Pictures,
    "data set": rows,
    "column": lambda pictures: rows(pictures)["image"],
    "key": lambda pictures: KeyDataset(rows(pictures), "image"),
    "generator": lambda pictures: (picture for picture in pictures),
    "map": lambda pictures: map(Image.Image.copy, pictures),
    "values": lambda pictures: dict(enumerate(pictures)).values(),
}


@pytest.mark.parametrize(
    ("form", "batch_size"), [*((form, None) for form in MANY), ("list", 3), ("data set", 3), ("generator", 3)]
)
def test_many_images_in_every_form_are_the_same_images(
    form: str,
    batch_size: int | None,
    classifier: SimplexImageClassificationPipeline,
    pictures: list[Image.Image],
    expected: list[dict[str, Any]],
) -> None:
    results = classifier(MANY[form](pictures), **({} if batch_size is None else {"batch_size": batch_size}))
    assert isinstance(results, list) == (form in ("list", "tuple", "list of bytes"))
    results = list(results)
    assert results == expected if batch_size is None else close(results, expected)


def test_nothing_gives_nothing(classifier: SimplexImageClassificationPipeline) -> None:
    assert classifier([]) == []
    assert list(classifier(iter([]))) == []


def test_a_stream_is_read_as_results_are_asked_for(
    classifier: SimplexImageClassificationPipeline, pictures: list[Image.Image], expected: list[dict[str, Any]]
) -> None:
    read = []

    def stream() -> Iterator[Image.Image]:
        for number in range(10**9):
            read.append(number)
            yield pictures[number % NUMBER]

    results = iter(classifier(stream(), batch_size=2))
    first = [next(results) for _ in range(3)]
    assert close(first, expected[:3])
    assert len(read) < 10


# Bad input


def corrupt(picture: Image.Image) -> bytes:
    data = png(picture)
    return data[: len(data) // 2]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_corrupt_file_among_good_ones_is_named(
    batch_size: int, classifier: SimplexImageClassificationPipeline, pictures: list[Image.Image], tmp_path: Path
) -> None:
    paths = []
    for number, picture in enumerate(pictures):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(corrupt(picture) if number == 3 else png(picture))
    with pytest.raises(ValueError, match=r"Image 3 \(.*3\.png\) cannot be read: .*truncated"):
        classifier(paths, batch_size=batch_size)
    with pytest.raises(ValueError, match=r"Image \(.*3\.png\) cannot be read"):
        classifier(paths[3])
    with pytest.raises(ValueError, match=r"Image 1 \(.*missing\.png\) cannot be read: .*valid path"):
        classifier([paths[0], str(tmp_path / "missing.png")])


@pytest.mark.parametrize("form", ["list", "generator", "data set"])
@pytest.mark.parametrize("bad", [b"", b"no image at all" * 100, None])
def test_corrupt_bytes_among_good_ones_are_numbered(
    form: str, bad: bytes | None, classifier: SimplexImageClassificationPipeline, pictures: list[Image.Image]
) -> None:
    files = [png(picture) for picture in pictures]
    files[2] = corrupt(pictures[2]) if bad is None else bad
    if form == "data set":
        inputs: Any = rows([{"bytes": file, "path": None} for file in files])
    else:
        inputs = files if form == "list" else (file for file in files)
    with pytest.raises(ValueError, match="Image 2 cannot be read: ") as error:
        list(classifier(inputs, batch_size=2))
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_image_that_its_generator_cannot_give_is_numbered(
    batch_size: int, classifier: SimplexImageClassificationPipeline, pictures: list[Image.Image]
) -> None:
    files = [io.BytesIO(png(picture)) for picture in pictures]
    files[2] = io.BytesIO(b"no image")
    with pytest.raises(ValueError, match="Image 2 cannot be read: cannot identify image file"):
        list(classifier((Image.open(file) for file in files), batch_size=batch_size))


def test_what_is_no_image_is_refused(classifier: SimplexImageClassificationPipeline) -> None:
    with pytest.raises(TypeError, match="Cannot classify a int: give a path"):
        classifier(5)
    with pytest.raises(TypeError, match="Cannot classify a NoneType"):
        classifier(None)
    with pytest.raises(ValueError, match="Image 0 cannot be read: Incorrect format"):
        classifier([5])


def test_options_that_make_no_sense_are_refused(
    classifier: SimplexImageClassificationPipeline, pictures: list[Image.Image]
) -> None:
    with pytest.raises(ValueError, match="top_k=0: expected 1 or more"):
        classifier(pictures[0], top_k=0)
    with pytest.raises(ValueError, match="function_to_apply='sigmoid'"):
        classifier(pictures[0], function_to_apply="sigmoid")


def test_only_ensembles_have_members_to_ask() -> None:
    with pytest.raises(ValueError, match=r"model_type 'vit'.*use pipeline\('image-classification'\)"):
        pipeline(TASK, model=backbone("vit"), image_processor=image_processor())
    with pytest.raises(ValueError, match="no image processor: give image_processor="):
        SimplexImageClassificationPipeline(model=ensemble("vit"))


# Where it plugs in


def test_a_saved_pipeline_is_the_same_pipeline(
    classifier: SimplexImageClassificationPipeline,
    pictures: list[Image.Image],
    expected: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    classifier.save_pretrained(tmp_path)
    assert pipeline(TASK, model=str(tmp_path))(pictures[0]) == expected[0]
    assert TASK in json.loads((tmp_path / "config.json").read_text("utf-8"))["custom_pipelines"]
    assert (tmp_path / "pipeline_simplex.py").exists()


def test_a_pipeline_is_published_with_a_card(hub: LoopbackHub, classifier: SimplexImageClassificationPipeline) -> None:
    classifier.push_to_hub("alice/ensemble", private=True)
    files = HfApi().list_repo_files("alice/ensemble")
    assert {"README.md", "preprocessor_config.json", "vertex-00000.safetensors", "pipeline_simplex.py"} <= set(files)


def test_the_task_is_registered_once() -> None:
    assert TASK in PIPELINE_REGISTRY.get_supported_tasks()
    _, task, _ = PIPELINE_REGISTRY.check_task(TASK)
    assert task["impl"] is SimplexImageClassificationPipeline
    assert task["type"] == "image"


def test_an_ensemble_is_evaluated_by_the_evaluator_of_evaluate(folder: str, pictures: list[Image.Image]) -> None:
    plain = pipeline("image-classification", model=folder)
    predicted = [plain.model.config.label2id[result[0]["label"]] for result in plain(pictures)]
    labels = [*predicted[:2], *((label + 1) % LABELS for label in predicted[2:])]
    result = evaluate.evaluator("image-classification").compute(
        model_or_pipeline=folder,
        data=rows(pictures).remove_columns("label").add_column("label", labels),
        metric=Accuracy(),
        label_mapping=plain.model.config.label2id,
    )
    assert result["accuracy"] == 2 / NUMBER
