"""`pipeline("simplex-image-classification")`: image classification that also says how sure it is, and why."""

import base64
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers.pipelines.image_classification import ImageClassificationPipeline, softmax
from transformers.utils import ModelOutput

from .configuration_simplex import TASK, SimplexConfig
from .uncertainty import mutual_information, predictive_entropy, standard_deviation, vote_share

DEFAULT_MAX_MEMBER_BYTES = 2 * 2**30
"""2 GiB: five members of the size of ViT-B in float32, twenty of ResNet-50's."""


class SimplexImageClassificationPipeline(ImageClassificationPipeline):
    """Classifies images with an ensemble and reports its uncertainty.

    For each image, a dictionary:

    - `labels`: the `top_k` most probable labels, best first, each a dictionary of `label`, `score` (the ensemble's
      probability, the very number that `pipeline("image-classification")` gives) and `standard_deviation` (of that
      probability over the members, 0 to 1/2);
    - `predictive_entropy_nats`: entropy of the ensemble's prediction, in nats, 0 to ln(labels): all its uncertainty;
    - `mutual_information_nats`: mutual information between prediction and weights, in nats, 0 to
      `predictive_entropy_nats`: the part of the uncertainty that the members disagree on, large where images are
      unlike those that were trained on;
    - `vote_share`: share of the members whose most probable label is the first of `labels`, 0 to 1.

    Formulas and sources are in `uncertainty`.

    ```python
    import hf_simplex
    from transformers import pipeline

    classifier = pipeline("simplex-image-classification", model="me/resnet50-simplex")
    classifier("cat.png")["mutual_information_nats"]
    ```

    Args:
        model: a `SimplexForImageClassification` (its Hub id or folder, in `pipeline`).
        image_processor: the backbone's.
        max_member_bytes: of memory that members may take that are kept ready, so that no image waits for weights to be
            mixed, see `SimplexForImageClassification.materialize`; those beyond it are streamed. 0 keeps none. A model
            whose members are ready already, or that is spread over several devices, is left as it is.
        cuda_graph: of `materialize`: for single images and small backbones on a GPU.
        **kwargs: as for every pipeline of transformers: `device`, `batch_size`, `num_workers`, `top_k`, `timeout`, ...

    Raises:
        ValueError: the model is no ensemble, or has no image processor; or as `materialize`.
    """

    def __init__(
        self,
        *args: Any,
        max_member_bytes: int = DEFAULT_MAX_MEMBER_BYTES,
        cuda_graph: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        model_type = self.model.config.model_type
        if model_type != SimplexConfig.model_type:
            raise ValueError(
                f"The pipeline {TASK!r} asks the members of an ensemble, and this model is of model_type "
                f"{model_type!r}, not {SimplexConfig.model_type!r}: use pipeline('image-classification')."
            )
        if self.image_processor is None:
            raise ValueError(
                "There is no image processor: give image_processor=, the one that the backbone came with."
            )
        model: Any = self.model
        in_one_place = len(set((getattr(model, "hf_device_map", None) or {}).values())) <= 1
        if model.config.members and not model.num_materialized and in_one_place:
            model.materialize(max_member_bytes, cuda_graph=cuda_graph)

    # transformers' own signatures differ from those of its base class in the same way.
    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Classify images.

        Args:
            inputs: an image, many, or a stream of them. An image is a path, an URL, a `PIL.Image`, the bytes of an
                image file, an array or tensor that the image processor takes, or a row of a data set with the column
                `image`. Many are a list, a tuple, a data set (torch's or that of `datasets`) or a column of one; a
                stream is an iterator such as a generator, read as results are asked for.
            **kwargs: `top_k` (1 or more, default 5), `batch_size` (default 1), `num_workers`, `timeout` in seconds.

        Returns:
            For an image a dictionary, see the class; for a list or tuple a list of them; else an iterator over them.

        Raises:
            TypeError: this is neither an image nor are these images.
            ValueError: an image cannot be read; the message names it, by its number (from 0) if there are many.
        """
        classify: Any = super().__call__
        if _is_image(inputs):
            return classify(inputs, **kwargs)
        if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
            results = classify(_NumberedImages(inputs), **kwargs)
            return list(results) if isinstance(inputs, list | tuple) else results
        if isinstance(inputs, Iterable):
            return classify(_numbered(inputs), **kwargs)
        raise TypeError(
            f"Cannot classify a {type(inputs).__name__}: give a path, an URL, a PIL image, bytes, an array, or a "
            "list, data set or iterator of these."
        )

    def _sanitize_parameters(  # type: ignore[override]
        self, top_k: int | None = None, function_to_apply: str | None = None, timeout: float | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if function_to_apply not in (None, "softmax"):
            raise ValueError(
                f"function_to_apply={function_to_apply!r}: the scores of an ensemble are probabilities, from softmax."
            )
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k={top_k}: expected 1 or more.")
        return super()._sanitize_parameters(top_k=top_k, timeout=timeout)

    def preprocess(self, image: Any, timeout: float | None = None) -> Any:  # type: ignore[override]
        name = ""
        if isinstance(image, _NumberedImage):
            name, image = f" {image.number}", image.image
        if isinstance(image, Mapping) and "image" in image:
            image = image["image"]
        if isinstance(image, os.PathLike):
            image = os.fspath(image)
        if isinstance(image, str):
            name += f" ({image[:200]})"
        is_file = isinstance(image, bytes | bytearray)
        if is_file:
            # transformers reads the files of images from paths, URLs and base64 only.
            image = base64.b64encode(image).decode()
        try:
            return super().preprocess(image, timeout=timeout)
        except Exception as error:
            # To a file that is none transformers adds all of its bytes; the cause comes last.
            reason = str(error).rpartition("Failed with ")[2] if is_file else str(error)
            raise ValueError(f"Image{name} cannot be read: {reason}") from error

    def _forward(self, model_inputs: Any) -> ModelOutput:  # type: ignore[override]
        output: ModelOutput = self.model(**model_inputs, output_member_probabilities=True)
        return output

    def postprocess(self, model_outputs: Any, top_k: int = 5) -> dict[str, Any]:  # type: ignore[override]
        names: Any = self.model.config.id2label
        scores = softmax(model_outputs["logits"][0].numpy())
        members = model_outputs["member_probabilities"][0]
        deviations = standard_deviation(members).tolist()
        # By position, not by name: ImageNet has two labels named "crane".
        best = sorted(range(len(scores)), key=lambda label: scores[label], reverse=True)[:top_k]
        return {
            "labels": [
                {
                    "label": names[label],
                    "score": scores[label].item(),
                    "standard_deviation": deviations[label],
                }
                for label in best
            ],
            "predictive_entropy_nats": predictive_entropy(members).item(),
            "mutual_information_nats": mutual_information(members).item(),
            "vote_share": vote_share(members).item(),
        }

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save the ensemble, this image processor and the inference code; arguments as for the model."""
        model: Any = self.model
        model.image_processor = self.image_processor
        model.save_pretrained(save_directory, include_code=True, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Publish the ensemble with its card; arguments as for the model."""
        model: Any = self.model
        model.image_processor = self.image_processor
        return model.push_to_hub(*args, **kwargs)


@dataclass(frozen=True)
class _NumberedImage:
    number: int
    image: Any


class _NumberedImages(Dataset):
    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> _NumberedImage:
        try:
            return _NumberedImage(number, self.images[number])
        except Exception as error:
            # A data set decodes the image already here.
            raise ValueError(f"Image {number} cannot be read: {error}") from error


def _numbered(images: Iterable[Any]) -> Iterator[_NumberedImage]:
    number = 0
    try:
        for image in images:
            yield _NumberedImage(number, image)
            number += 1
    except Exception as error:
        # A generator opens or decodes the image already here.
        raise ValueError(f"Image {number} cannot be read: {error}") from error


def _is_image(inputs: Any) -> bool:
    if isinstance(inputs, torch.Tensor) or hasattr(inputs, "__array_interface__"):
        # A PIL image, an array or a tensor; a batch of arrays has one dimension more.
        return getattr(inputs, "ndim", 3) <= 3
    return isinstance(inputs, str | os.PathLike | bytes | bytearray | Mapping)
