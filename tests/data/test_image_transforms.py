"""Claims about the transforms: evaluation does what a pipeline does, training only adds the augmentation."""

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader, StackDataset
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    MobileViTImageProcessor,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from hf_simplex import SimplexForImageClassification, SimplexImageClassificationPipeline
from hf_simplex.data.image_data import load_image_data, with_validation
from hf_simplex.data.image_transforms import (
    EvaluationTransform,
    build_transforms,
    collate,
    resize_image_processor,
    with_pixel_values,
)
from hf_simplex.data.random_streams import isolate_rng

TIMM_SETTINGS = {
    "input_size": [3, 40, 40],
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
}


def timm_processor() -> TimmWrapperImageProcessor:
    return TimmWrapperImageProcessor(pretrained_cfg=dict(TIMM_SETTINGS), architecture="test_resnet")


def timm_model() -> TimmWrapperForImageClassification:
    torch.manual_seed(0)
    config = TimmWrapperConfig.from_dict(
        {"architecture": "test_resnet", "num_classes": 2, "pretrained_cfg": dict(TIMM_SETTINGS)}, num_labels=2
    )
    return TimmWrapperForImageClassification(config).eval()


def vit_model(size: int) -> ViTForImageClassification:
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            image_size=size,
            patch_size=8,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
    ).eval()


PROCESSORS = [
    pytest.param(timm_processor, id="timm"),
    pytest.param(lambda: ViTImageProcessor(size={"height": 40, "width": 40}), id="vit"),
    pytest.param(
        lambda: BitImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 40, "width": 40}), id="bit"
    ),
]


@pytest.fixture(scope="module")
def photo() -> PIL.Image.Image:
    """A photograph of a flower, 640 x 427 pixels, made smaller."""
    return PIL.Image.fromarray(load_sample_images().images[1]).resize((90, 60))


@pytest.fixture(scope="module")
def image_files(photo: PIL.Image.Image, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The photograph in every mode that image files have, wide, tall, tiny, and turned by its EXIF tag."""
    folder = tmp_path_factory.mktemp("images")
    transparent = photo.convert("RGBA")
    transparent.putalpha(photo.convert("L"))
    images = {
        "rgb.png": photo,
        "grey.png": photo.convert("L"),
        "grey-alpha.png": transparent.convert("LA"),
        "transparent.png": transparent,
        "palette.png": photo.convert("P", palette=PIL.Image.Palette.ADAPTIVE, colors=16),
        "black-white.png": photo.convert("1"),
        "sixteen-bit.png": photo.convert("L").convert("I;16"),
        "jpeg.jpg": photo,
        "cmyk.jpg": photo.convert("CMYK"),
        "tall.png": photo.rotate(90, expand=True),
        "tiny.png": photo.resize((5, 9)),
        "digit.pgm": load_image_data("digits").train[0]["image"],
    }
    for name, image in images.items():
        image.save(folder / name)
    exif = PIL.Image.Exif()
    exif[PIL.Image.ExifTags.Base.Orientation] = 6
    photo.save(folder / "turned.jpg", exif=exif)
    return sorted(folder.iterdir())


def dataset_of(files: list[Path]) -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=["no", "yes"])})
    labels = [number % 2 for number in range(len(files))]
    return Dataset.from_dict({"image": [str(file) for file in files], "label": labels}, features=features)


# ---- evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_processor", PROCESSORS)
def test_evaluation_sees_exactly_what_the_ensembles_pipeline_sees(
    make_processor: Any, image_files: list[Path]
) -> None:
    image_processor = make_processor()
    model = SimplexForImageClassification.from_backbone(vit_model(40))
    classifier = SimplexImageClassificationPipeline(model=model, image_processor=image_processor)
    _, evaluation = build_transforms(image_processor)
    examples = with_pixel_values(dataset_of(image_files), evaluation)
    for number, file in enumerate(image_files):
        example = examples[number]
        expected = classifier.preprocess(str(file))["pixel_values"][0]
        assert example["pixel_values"].dtype == torch.float32
        torch.testing.assert_close(example["pixel_values"], expected, rtol=0, atol=0, msg=file.name)


def test_a_plain_pipeline_sees_the_same_but_for_transparent_and_16_bit_images(image_files: list[Path]) -> None:
    classifier = pipeline("image-classification", model=vit_model(40), image_processor=timm_processor())
    evaluation = EvaluationTransform(timm_processor())
    differing = {
        file.name
        for file in image_files
        if not torch.equal(evaluation(PIL.Image.open(file)), classifier.preprocess(str(file))["pixel_values"][0])
    }
    assert differing == {"grey-alpha.png", "sixteen-bit.png", "transparent.png"}


def test_an_image_of_unknown_range_is_refused_by_its_file(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.array([[0, 200]], np.float32)).save(tmp_path / "float.tif")
    examples = with_pixel_values(dataset_of([tmp_path / "float.tif"]), EvaluationTransform(timm_processor()))
    with pytest.raises(ValueError, match=r"float\.tif: An image of mode 'F'"):
        examples[0]


def test_a_column_of_rgb_images_is_composited_on_white_too(tmp_path: Path) -> None:
    PIL.Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(tmp_path / "red.png")
    plain = dataset_of([tmp_path / "red.png"])
    evaluation = EvaluationTransform(timm_processor())
    expected = evaluation(PIL.Image.new("RGB", (40, 40), "white"))
    for dataset in (plain, plain.cast_column("image", Image(mode="RGB"))):
        assert torch.equal(with_pixel_values(dataset, evaluation)[0]["pixel_values"], expected)


def test_grey_images_become_three_equal_channels_before_normalization(photo: PIL.Image.Image) -> None:
    image_processor = timm_processor()
    pixel_values = EvaluationTransform(image_processor)(photo.convert("L"))
    mean, std = (torch.tensor(TIMM_SETTINGS[name])[:, None, None] for name in ("mean", "std"))
    grey = pixel_values * std + mean
    torch.testing.assert_close(grey[1], grey[0])
    torch.testing.assert_close(grey[2], grey[0])


# ---- another image size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image_processor",
    [timm_processor(), ViTImageProcessor(), BitImageProcessor(), CLIPImageProcessor(), ConvNextImageProcessor()],
    ids=lambda image_processor: type(image_processor).__name__,
)
def test_a_resized_image_processor_keeps_the_whole_of_a_square_image(
    image_processor: BaseImageProcessor, photo: PIL.Image.Image
) -> None:
    square = photo.resize((24, 24))
    pixel_values = EvaluationTransform(resize_image_processor(image_processor, 24))(square)
    # An image of the asked size is neither resized nor cropped, so its values are only rescaled, channel by channel.
    values = torch.tensor(np.asarray(square), dtype=torch.float32).permute(2, 0, 1)
    for channel, expected in zip(pixel_values, values, strict=True):
        slope = (channel.max() - channel.min()) / (expected.max() - expected.min())
        torch.testing.assert_close(channel - channel.min(), slope * (expected - expected.min()), rtol=0, atol=1e-5)


def test_resizing_leaves_the_given_image_processor_as_it_was(photo: PIL.Image.Image) -> None:
    for image_processor in (timm_processor(), ViTImageProcessor()):
        before = image_processor.to_dict()
        resize_image_processor(image_processor, 24)
        assert image_processor.to_dict() == before


def test_a_plain_timm_checkpoint_with_the_data_config_sees_the_same(tmp_path: Path, photo: PIL.Image.Image) -> None:
    model, image_processor = timm_model(), resize_image_processor(timm_processor(), 24)
    assert isinstance(image_processor, TimmWrapperImageProcessor)
    model.config.pretrained_cfg.update(image_processor.data_config)
    model.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    _, evaluation = build_transforms(image_processor)
    assert torch.equal(loaded(photo, return_tensors="pt")["pixel_values"][0], evaluation(photo))
    assert evaluation(photo).shape == (3, 24, 24)
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.num_labels == 2


def test_an_image_processor_that_cannot_be_resized_is_an_error() -> None:
    free_shape = BitImageProcessor(size={"shortest_edge": 40}, do_center_crop=False)
    with pytest.raises(ValueError, match=r"BitImageProcessor gives \[3, 24, 36\] for a wide image"):
        resize_image_processor(free_shape, 24)
    with pytest.raises(ValueError, match="asked for 24 x 24 pixels, it gives 64 x 64"):
        resize_image_processor(CropOnly(), 24)
    with pytest.raises(ValueError, match="image_size is 0"):
        resize_image_processor(timm_processor(), 0)


class CropOnly(ViTImageProcessor):
    """An image processor whose size is fixed in its code."""

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(images.resize((64, 64)), *args, do_resize=False, **kwargs)


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image_processor",
    [
        timm_processor(),
        ViTImageProcessor(size={"height": 40, "width": 40}),
        EfficientNetImageProcessor(size={"height": 40, "width": 40}),
        MobileViTImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40}),
    ],
    ids=lambda image_processor: type(image_processor).__name__,
)
def test_without_randomness_training_sees_what_evaluation_sees(
    image_processor: BaseImageProcessor, photo: PIL.Image.Image
) -> None:
    resized = resize_image_processor(image_processor, 40)
    training, evaluation = build_transforms(resized, scale_min=1.0, ratio=(1.0, 1.0), horizontal_flip=0.0)
    square = photo.resize((40, 40))
    assert torch.equal(training(square), evaluation(square))


def test_training_crops_are_not_cropped_again_by_the_image_processor(photo: PIL.Image.Image) -> None:
    square = photo.resize((40, 40))
    training, _ = build_transforms(timm_processor(), scale_min=1.0, ratio=(1.0, 1.0), horizontal_flip=0.0)
    assert torch.equal(training(square), EvaluationTransform(resize_image_processor(timm_processor(), 40))(square))


def test_augment_none_trains_on_what_evaluation_sees(photo: PIL.Image.Image) -> None:
    training, evaluation = build_transforms(timm_processor(), augment="none")
    assert torch.equal(training(photo), evaluation(photo))


def test_a_crop_shifts_the_resized_image_by_up_to_an_eighth_over_black(photo: PIL.Image.Image) -> None:
    training, evaluation = build_transforms(
        ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False), augment="crop", horizontal_flip=0.0
    )
    whole = torch.nn.functional.pad(evaluation(photo), (4, 4, 4, 4))
    found = set()
    torch.manual_seed(0)
    for _ in range(200):
        crop = training(photo)
        shifts = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if torch.allclose(whole[:, y : y + 32, x : x + 32], crop, atol=1e-6)
        ]
        assert len(shifts) == 1
        found |= set(shifts)
    assert {y for y, _ in found} == {x for _, x in found} == set(range(9))


def test_a_certain_flip_mirrors_the_image(photo: PIL.Image.Image) -> None:
    square = photo.resize((40, 40))
    image_processor = resize_image_processor(timm_processor(), 40)
    training, evaluation = build_transforms(image_processor, scale_min=1.0, ratio=(1.0, 1.0), horizontal_flip=1.0)
    assert torch.equal(training(square), evaluation(square).flip(-1))


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale_min": 0.2, "horizontal_flip": 0.0},
        {"scale_min": 1.0, "ratio": (1.0, 1.0), "horizontal_flip": 0.5},
        {"scale_min": 1.0, "ratio": (1.0, 1.0), "horizontal_flip": 0.0, "color_jitter": 0.4},
        {"scale_min": 1.0, "ratio": (1.0, 1.0), "horizontal_flip": 0.0, "auto_augment": "rand-m9-mstd0.5"},
        {"scale_min": 1.0, "ratio": (1.0, 1.0), "horizontal_flip": 0.0, "random_erasing": 1.0},
    ],
    ids=["crop", "flip", "color jitter", "auto augment", "erasing"],
)
def test_each_augmentation_is_random_and_repeats_with_the_seed(photo: PIL.Image.Image, arguments: Any) -> None:
    training, _ = build_transforms(timm_processor(), **arguments)

    def augmented(seed: int) -> Tensor:
        transformers.set_seed(seed)
        return torch.stack([training(photo) for _ in range(8)])

    assert torch.equal(augmented(0), augmented(0))
    assert len({image.numpy().tobytes() for image in augmented(0)}) > 1
    assert augmented(0).shape == (8, 3, 40, 40)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"augment": "heavy"}, "augment is 'heavy'; expected 'timm', 'crop' or 'none'"),
        ({"augment": "crop", "color_jitter": 0.1}, "need augment='timm'; augment is 'crop'"),
        ({"augment": "none", "auto_augment": "rand-m9"}, "need augment='timm'; augment is 'none'"),
        ({"augment": "none", "random_erasing": 0.1}, "random_erasing needs augment='timm' or 'crop'"),
        ({"augment": "none", "horizontal_flip": 7}, "horizontal_flip is 7; expected a probability"),
        ({"horizontal_flip": 1.5}, "horizontal_flip is 1.5"),
        ({"random_erasing": -0.1}, "random_erasing is -0.1"),
        ({"scale_min": 0.0}, "scale_min is 0.0"),
        ({"ratio": (1.5, 1.0)}, r"ratio is \(1.5, 1.0\)"),
        ({"color_jitter": -1.0}, "color_jitter is -1.0"),
        ({"auto_augment": "random9"}, "auto_augment is 'random9', which timm does not understand"),
        ({"auto_augment": "best"}, "auto_augment is 'best', which timm does not understand"),
        ({"auto_augment": "3a", "color_jitter": 0.4}, "ignores color_jitter if there is an auto_augment policy"),
    ],
)
def test_an_option_that_makes_no_sense_is_an_error(arguments: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build_transforms(timm_processor(), **arguments)


# ---- data sets of tensors -------------------------------------------------------------------------------------------


@pytest.fixture
def examples(image_files: list[Path]) -> Dataset:
    return dataset_of(image_files)


def batches(dataset: Any, workers: int = 0) -> list[dict[str, Tensor]]:
    return list(DataLoader(dataset, batch_size=4, collate_fn=collate, num_workers=workers))


def test_a_materialized_data_set_holds_the_same_as_a_lazy_one(examples: Dataset) -> None:
    evaluation = EvaluationTransform(timm_processor())
    lazy, kept = with_pixel_values(examples, evaluation), with_pixel_values(examples, evaluation, materialize=True)
    assert isinstance(kept, StackDataset) and len(kept) == len(examples)
    for first, second in zip(batches(lazy), batches(kept), strict=True):
        assert torch.equal(first["pixel_values"], second["pixel_values"])
        assert torch.equal(first["labels"], second["labels"])
    assert torch.cat([batch["labels"] for batch in batches(lazy)]).tolist() == examples["label"][:]
    assert isinstance(kept[0]["labels"], int)


def test_what_comes_before_random_crops_is_kept_and_the_crops_are_those_of_a_lazy_data_set(examples: Dataset) -> None:
    training, _ = build_transforms(timm_processor(), augment="crop", random_erasing=0.5)
    lazy, kept = with_pixel_values(examples, training), with_pixel_values(examples, training, materialize=True)
    assert len(kept) == len(examples)  # type: ignore[arg-type]
    seen = []
    for dataset in (lazy, kept, kept):
        with isolate_rng(len(seen) // 2):
            seen.append(torch.cat([batch["pixel_values"] for batch in batches(dataset)]))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_random_crops_have_normalized_black_beside_the_image() -> None:
    training, evaluation = build_transforms(timm_processor(), augment="crop", horizontal_flip=0.0)
    black, white = (PIL.Image.new("RGB", (40, 40), color) for color in ("black", "white"))
    dark, light = evaluation(black)[:, 0, 0], evaluation(white)[:, 0, 0]
    assert torch.allclose(training(black), evaluation(black))
    torch.manual_seed(0)
    colors = torch.stack([training(white) for _ in range(20)]).transpose(0, 1).flatten(1)
    is_dark = (colors - dark[:, None]).abs() < 1e-5
    assert is_dark.any() and (is_dark | ((colors - light[:, None]).abs() < 1e-5)).all()


def test_a_materialized_data_set_does_not_read_its_files_again(tmp_path: Path, photo: PIL.Image.Image) -> None:
    photo.save(tmp_path / "photo.png")
    kept = with_pixel_values(
        dataset_of([tmp_path / "photo.png"]), EvaluationTransform(timm_processor()), materialize=True
    )
    (tmp_path / "photo.png").unlink()
    assert kept[0]["pixel_values"].shape == (3, 40, 40)


def test_above_the_limit_images_are_transformed_whenever_read(
    examples: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    needed, evaluation = len(examples) * 3 * 40 * 40 * 4, EvaluationTransform(timm_processor())
    kept = with_pixel_values(examples, evaluation, materialize=True, materialize_limit=needed)
    assert isinstance(kept, StackDataset) and not caplog.records
    with caplog.at_level(logging.WARNING):
        lazy = with_pixel_values(examples, evaluation, materialize=True, materialize_limit=needed - 1)
    assert isinstance(lazy, Dataset)
    assert f"need {needed} bytes" in caplog.text


def test_workers_of_a_data_loader_see_the_same_and_a_pickled_data_set_too(examples: Dataset) -> None:
    training, evaluation = build_transforms(timm_processor(), auto_augment="rand-m9-mstd0.5", random_erasing=0.5)
    dataset = with_pixel_values(examples, evaluation)
    pickled = pickle.loads(pickle.dumps(dataset))
    for first, second, third in zip(batches(dataset), batches(dataset, workers=1), batches(pickled), strict=True):
        assert torch.equal(first["pixel_values"], second["pixel_values"])
        assert torch.equal(first["pixel_values"], third["pixel_values"])
    assert pickle.loads(pickle.dumps(with_pixel_values(examples, training)))[0]["pixel_values"].shape == (3, 40, 40)


@pytest.mark.parametrize("materialize", [False, True])
def test_trainer_takes_the_data_set_as_it_is(examples: Dataset, tmp_path: Path, materialize: bool) -> None:
    model = timm_model()
    dataset = with_pixel_values(examples, EvaluationTransform(timm_processor()), materialize=materialize)
    arguments = TrainingArguments(str(tmp_path), per_device_eval_batch_size=4, report_to=[], use_cpu=True)
    trainer = Trainer(model=model, args=arguments, data_collator=collate, eval_dataset=dataset)
    logits = trainer.predict(dataset).predictions
    with torch.no_grad():
        expected = torch.cat([model(**batch).logits for batch in batches(dataset)])
    torch.testing.assert_close(torch.tensor(logits), expected)


def test_the_labels_can_be_read_without_decoding_images(tmp_path: Path) -> None:
    missing = with_pixel_values(dataset_of([tmp_path / "none.png"]), EvaluationTransform(timm_processor()))
    assert isinstance(missing, Dataset)
    assert missing.select_columns("labels")[:] == {"labels": [0]}


@pytest.mark.parametrize("content", [b"", b"not an image", b"cut off"], ids=["empty", "text", "cut off"])
def test_a_broken_image_file_is_named_when_it_is_read(tmp_path: Path, photo: PIL.Image.Image, content: bytes) -> None:
    file = tmp_path / "broken.jpg"
    file.write_bytes(content)
    if content == b"cut off":
        photo.save(file)
        file.write_bytes(file.read_bytes()[:-300])
    dataset = with_pixel_values(dataset_of([file]), EvaluationTransform(timm_processor()))
    with pytest.raises(ValueError, match=r"Cannot read the image .*broken\.jpg"):
        dataset[0]


def test_broken_bytes_without_a_file_name_are_an_error_too(examples: Dataset) -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=["no"])})
    broken = Dataset.from_dict({"image": [{"path": None, "bytes": b"none"}], "label": [0]}, features=features)
    with pytest.raises(ValueError, match=r"Cannot read the image \(no file name, 4 bytes\)"):
        with_pixel_values(broken, EvaluationTransform(timm_processor()))[0]


def test_a_data_set_without_the_two_columns_is_an_error(examples: Dataset) -> None:
    with pytest.raises(ValueError, match="needs an 'image' column of images and a 'label' column"):
        with_pixel_values(examples.rename_column("label", "fine_label"), EvaluationTransform(timm_processor()))


def test_collate_stacks_images_and_labels() -> None:
    batch = collate([{"pixel_values": torch.full((3, 2, 2), float(label)), "labels": label} for label in (4, 7)])
    assert batch["labels"].tolist() == [4, 7] and batch["labels"].dtype == torch.int64
    assert batch["pixel_values"].shape == (2, 3, 2, 2)
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [4.0, 7.0]


def test_validation_images_that_were_not_held_out_are_an_error_with_a_remedy() -> None:
    data = with_validation(load_image_data("digits", max_train_examples=100))
    with pytest.raises(TypeError, match="give it a larger validation_fraction"):
        with_pixel_values(data.validation, EvaluationTransform(timm_processor()))  # type: ignore[arg-type]
