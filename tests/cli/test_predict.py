"""`hf-simplex predict`: results come one by one, and a bad image costs only its own."""

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import invoke, mistake, run, save
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import ensemble, forget_digests

from hf_simplex import SimplexForImageClassification, SimplexImageClassificationPipeline
from hf_simplex.evaluation.answers import answer_line
from hf_simplex.evaluation.image_files import classify_files, find_images
from hf_simplex.model.decisions import Abstention, Decisions, PredictionSets


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(ensemble("resnet"), tmp_path_factory.mktemp("command") / "ensemble")


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return draw(tmp_path / "[b]picture.png")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for seed, name in enumerate(("cat/b.png", "cat/a.jpg", "dog/c.png")):
        draw(tmp_path / "pictures" / name, seed)
    (tmp_path / "pictures" / "notes.txt").write_text("not an image")
    return tmp_path / "pictures"


def test_predict_says_what_the_pipeline_says(folder: Path, picture: Path) -> None:
    model = SimplexForImageClassification.from_pretrained(folder)
    result = SimplexImageClassificationPipeline(model=model, image_processor=model.image_processor)(str(picture))
    lines = run("predict", folder, picture, picture, "--json").splitlines()
    assert [json.loads(line) for line in lines] == [{"image": str(picture), **result}] * 2
    shown = run("predict", folder, picture, "--top-k", 2)
    line, *bars = shown.splitlines()
    best = result["labels"][0]
    assert line == f"{picture}: {answer_line(result)}"
    assert len(bars) == 2 and bars[0].split()[0] == best["label"] and "█" in bars[0]


def test_predict_says_whether_a_calibrated_ensemble_is_sure(picture: Path, tmp_path: Path) -> None:
    # Untrained, it gives no label a half.
    model = ensemble("vit")
    for threshold, said in ((0.999, "abstains at a target error of 2 %"), (0.0, "answers at a target error of 2 %")):
        model.decisions = Decisions(
            abstention=Abstention(0.02, 0.95, threshold=threshold),
            prediction_sets=PredictionSets("lac", 0.9, quantile=1.0),
            uncertainty_quantiles={"energy": [-1e9] * 101},
        )
        shown = run("predict", save(model, tmp_path / f"{threshold}"), picture)
        assert said in shown.splitlines()[0]
        assert ("not sure" in shown) == (threshold > 0)
        assert "set: LABEL_" in shown and "more uncertain than 100 % by energy" in shown


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_predict_goes_on_after_bad_images_and_says_so_at_the_end(
    folder: Path, picture: Path, tmp_path: Path, batch_size: int
) -> None:
    (tmp_path / "bad.png").write_bytes(picture.read_bytes()[:100])
    other = draw(tmp_path / "other.png", 1)
    given = (picture, tmp_path / "bad.png", tmp_path / "missing.png", other)
    result = invoke("predict", folder, *given, "--json", "--batch-size", batch_size)
    assert result.exit_code == 1
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["image"] for each in told] == [str(image) for image in given]
    assert ["labels" in each for each in told] == [True, False, False, True]
    assert told[1]["error"].startswith("cannot be read: ") and told[2]["error"] == "no such file"
    alone = json.loads(run("predict", folder, other, "--json"))
    assert [each["label"] for each in told[3]["labels"]] == [each["label"] for each in alone["labels"]]
    for one, same in zip(told[3]["labels"], alone["labels"], strict=True):
        assert one["score"] == pytest.approx(same["score"], rel=1e-4)
    lines = result.stderr.splitlines()
    assert f"error: {tmp_path / 'missing.png'}: no such file" in lines
    named = f"{tmp_path / 'bad.png'}, {tmp_path / 'missing.png'}"
    assert lines[-1] == f"2 of 4 images could not be classified: {named}"


def test_an_image_that_the_processor_refuses_costs_only_its_own(
    folder: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = draw(tmp_path / "other.png", 1)
    Image.new("RGB", (1, 7)).save(tmp_path / "odd.png")
    model = SimplexForImageClassification.from_pretrained(folder)
    classify = SimplexImageClassificationPipeline(model=model, image_processor=model.image_processor)
    process = type(classify.image_processor).preprocess

    def refuse(self: object, images: Image.Image, *args: object, **kwargs: object) -> object:
        if getattr(images, "size", None) == (1, 7):
            raise ValueError("too narrow")
        return process(self, images, *args, **kwargs)

    monkeypatch.setattr(type(classify.image_processor), "preprocess", refuse)
    given = [str(picture), str(tmp_path / "odd.png"), str(other)]
    found = list(classify_files(classify, given, batch_size=3))
    assert [each.image for each in found] == given
    assert [each.result is None for each in found] == [False, True, False]
    assert "too narrow" in str(found[1].error)


def test_probabilities_that_are_not_finite_are_an_error_and_no_result(picture: Path, tmp_path: Path) -> None:
    broken = save(ensemble("vit"), tmp_path / "broken")
    file = broken / "vertex-00001.safetensors"
    tensors = load_file(file)
    tensors["vertices.1.classifier.weight"][0, 0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    forget_digests(broken)
    for options in ((), ("--json",), ("--batch-size", 2)):
        result = invoke("predict", broken, picture, picture, *options)
        assert result.exit_code == 1 and "NaN" not in result.stdout and "nan" not in result.stdout
        assert f"error: {picture}: the probabilities are not finite" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("2 of 2 images could not be classified")


def test_a_result_comes_before_the_next_image_is_read(folder: Path, picture: Path) -> None:
    model = SimplexForImageClassification.from_pretrained(folder)
    classify = SimplexImageClassificationPipeline(model=model, image_processor=model.image_processor)
    read = []

    def endless() -> itertools.count:
        for number in itertools.count():
            read.append(number)
            yield str(picture)

    results = classify_files(classify, endless(), batch_size=2)
    assert read == []
    for expected in (2, 2, 4):
        assert next(results).error is None
        assert len(read) == expected
    with pytest.raises(ValueError, match="batch_size is 0"):
        classify_files(classify, [], batch_size=0)


def test_predict_takes_folders_and_patterns(folder: Path, pictures: Path) -> None:
    expected = [str(pictures / name) for name in ("cat/a.jpg", "cat/b.png", "dog/c.png")]
    for given in (pictures, pictures / "**", pictures / "*" / "*"):
        listed = [image for image in find_images([str(given)]) if not image.endswith("notes.txt")]
        assert listed == expected, given
    lines = run("predict", folder, pictures, "--json", "--batch-size", 2).splitlines()
    assert [json.loads(line)["image"] for line in lines] == expected
    assert find_images([str(pictures / "*" / "*.png")]) == expected[1:]
    (pictures / "empty").mkdir()
    assert f"{pictures / 'empty'} holds no images" in mistake("predict", folder, pictures / "empty")


@pytest.mark.parametrize("name", ["cat.pgn", "cat", "pictures/*.pgn"])
def test_a_mistyped_file_is_no_such_file(name: str, folder: Path) -> None:
    assert mistake("predict", folder, name) == f"error: no such file: {name}"


def test_an_ensemble_whose_labels_have_no_names_is_noticed(folder: Path, picture: Path, tmp_path: Path) -> None:
    assert "warning: the labels have no names (LABEL_0, ...)." in invoke("predict", folder, picture).stderr
    model = SimplexForImageClassification.from_pretrained(folder)
    model.config.id2label = {0: "ant", 1: "bee", 2: "cat"}
    assert "no names" not in invoke("predict", save(model, tmp_path / "named"), picture).stderr


def test_ctrl_c_ends_a_long_run_without_a_traceback(folder: Path, pictures: Path) -> None:
    command = Path(sys.executable).with_name("hf-simplex")
    images = [str(pictures / "cat" / "b.png")] * 5000
    with subprocess.Popen(
        [command, "predict", folder, *images, "--device", "cpu", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell ignores Ctrl-C for what it runs in the background, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["image"] == images[0]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors and errors.splitlines()[-1] == "interrupted"
    assert len(rest.splitlines()) < len(images) - 1


def test_files_are_classified_without_the_packages_of_data_sets_and_training(folder: Path, picture: Path) -> None:
    code = (
        "import sys\nfrom hf_simplex.cli import app\napp(sys.argv[1:], standalone_mode=False)\n"
        "print(sorted({'datasets', 'pandas', 'pyarrow', 'evaluate'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "predict", str(folder), str(picture)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert result.stdout.splitlines()[-1] == "[]"
