"""`pipeline("simplex-image-classification")`: image classification with uncertainty."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers.pipelines.image_classification import ImageClassificationPipeline, softmax
from transformers.utils import ModelOutput

from .configuration_simplex import TASK, SimplexConfig
from .image_pixels import load_rgb
from .image_processors import check_processor_settings
from .label_activation import activation_of
from .problem_types import is_multi_label
from .uncertainty import mutual_information, predictive_entropy, standard_deviation, vote_share

__all__ = ["DEFAULT_MAX_MEMBER_BYTES", "SimplexImageClassificationPipeline"]

DEFAULT_MAX_MEMBER_BYTES = 2 * 2**30
"""2 GiB: six ViT-B members in float32, or twenty of ResNet-50."""


class SimplexImageClassificationPipeline(ImageClassificationPipeline):
    """Classifies images with an ensemble and reports its uncertainty.

    The result for each image is a dictionary:

    - `labels`: the `top_k` most probable labels, best first. Each is a dictionary of `label`, `score` (the ensemble's
      probability, as in `pipeline("image-classification")`) and `standard_deviation` (of that probability over the
      members, 0 to 1/2);
    - `predictive_entropy_nats`: total uncertainty, in nats, 0 to ln(labels);
    - `mutual_information_nats`: the members' disagreement, in nats, 0 to `predictive_entropy_nats`. It is large for
      images unlike the training images;
    - `vote_share`: share of the members that vote for the ensemble's label, 0 to 1;
    - `calibrated`: whether decisions were fitted on validation images (`SimplexForImageClassification.calibrate`). If
      not, the entries below are None;
    - `abstain`: whether the ensemble is less confident than its threshold. None also where no threshold reaches the
      target error;
    - `prediction_set`: labels that hold the true one at the fitted rate, most probable first;
    - `more_uncertain_than`: percent of the validation images that look more certain, by `mutual_information` and by
      `energy`.

    A multi-label ensemble gives each label a probability of its own, and the scores of an image need not sum to 1.
    Entropy and mutual information are sums over the labels, entropy 0 to labels times ln 2; `vote_share` is the share
    of the members that give exactly the ensemble's labels, those of at least 0.5; `abstain` and `prediction_set` are
    None; `more_uncertain_than` is by `mutual_information` alone, because an image of few labels has a high energy by
    nature.

    `uncertainty` and `decisions` have the formulas and their sources.

    Args:
        model: a `SimplexForImageClassification`, or its Hub id or folder.
        image_processor: default: the model's.
        max_member_bytes: memory limit in bytes for ready members (`SimplexForImageClassification.materialize`). Other
            members are streamed. 0 streams all members. Ignored if members are ready already, or the model is on
            several devices.
        cuda_graph: see `materialize`; for single images and small backbones on a GPU.
        **kwargs: arguments of `transformers.Pipeline`: `device`, `batch_size`, `num_workers`, `top_k`, `timeout`, ...

    Raises:
        ValueError: the model is not an ensemble or has no image processor, or that has a setting with an impossible
            value; or see `materialize`.

    Example::

        import hf_simplex
        from transformers import pipeline

        classifier = pipeline("simplex-image-classification", model="me/resnet50-simplex")
        classifier("cat.png")["mutual_information_nats"]
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
                f"The pipeline {TASK!r} needs an ensemble (model_type {SimplexConfig.model_type!r}), and this model "
                f"has model_type {model_type!r}: use pipeline('image-classification')."
            )
        if self.image_processor is None:
            raise ValueError(
                "There is no image processor: give image_processor=, the one that the backbone came with."
            )
        check_processor_settings(self.image_processor)
        model: Any = self.model
        in_one_place = len(set((getattr(model, "hf_device_map", None) or {}).values())) <= 1
        if model.config.members and not model.num_materialized and in_one_place:
            model.materialize(max_member_bytes, cuda_graph=cuda_graph)

    # The signatures differ from the base class, as those of transformers' own pipelines do.
    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Classify images.

        Args:
            inputs: one image, a collection or an iterator. An image is a path, a URL, a `PIL.Image`, the bytes of an
                image file, an array or tensor of pixels (see `image_pixels.array_to_rgb`), or a data set row with the
                column `image`. A collection is a list, a tuple, a data set (of torch or `datasets`) or a column of
                one. An iterator is read lazily.
            **kwargs: `top_k` (1 or more, default 5), `batch_size` (default 1), `num_workers`, `timeout` in seconds.

        Returns:
            A dictionary for one image (see the class), a list for a list or tuple, else an iterator.

        Raises:
            TypeError: `inputs` is neither an image nor a collection of images.
            ValueError: an image cannot be read. The message has its number, from 0. Or scores are not finite.
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
            f"Cannot classify a {type(inputs).__name__}: give a path, a URL, a PIL image, bytes, an array, or a "
            "list, data set or iterator of these."
        )

    def _sanitize_parameters(  # type: ignore[override]
        self, top_k: int | None = None, function_to_apply: str | None = None, timeout: float | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if function_to_apply not in (None, expected := activation_of(self.model.config).name):
            raise ValueError(
                f"function_to_apply={function_to_apply!r}: the scores of this ensemble are probabilities, from "
                f"{expected}."
            )
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k={top_k}: expected 1 or more.")
        return super()._sanitize_parameters(top_k=top_k, timeout=timeout)

    def preprocess(self, image: Any, timeout: float | None = None) -> Any:  # type: ignore[override]
        """See `transformers.ImageClassificationPipeline.preprocess`."""
        name = ""
        if isinstance(image, _NumberedImage):
            name, image = f" {image.number}", image.image
        if isinstance(image, Mapping) and "image" in image:
            image = image["image"]
        if isinstance(image, os.PathLike):
            image = os.fspath(image)
        if isinstance(image, str):
            name += f" ({image[:200]})"
        try:
            # transformers' own conversion to RGB spoils transparent, 16-bit and float images.
            return super().preprocess(load_rgb(image, timeout=timeout), timeout=timeout)
        except Exception as error:
            raise ValueError(f"Image{name} cannot be read: {error}") from error

    def _forward(self, model_inputs: Any) -> ModelOutput:  # type: ignore[override]
        output: ModelOutput = self.model(**model_inputs, output_member_probabilities=True)
        return output

    def postprocess(self, model_outputs: Any, top_k: int = 5) -> dict[str, Any]:  # type: ignore[override]
        """Describe the prediction for one image, as the class says.

        Raises:
            ValueError: scores are not finite.

        Example::

            classify = pipeline("simplex-image-classification", model="me/resnet50-simplex")
            classify("cat.png", top_k=1)["labels"]   # calls postprocess
        """
        names: Any = self.model.config.id2label
        several = is_multi_label(self.model.config)
        logits = model_outputs["logits"][0]
        scores = logits.sigmoid().numpy() if several else softmax(logits.numpy())
        members = model_outputs["member_probabilities"][0]
        if not (np.isfinite(scores).all() and bool(members.isfinite().all())):
            raise ValueError(
                "the probabilities are not finite. Look for weights that are not finite, which from_pretrained warns "
                "of, or compute in float32 (dtype='float32')."
            )
        deviations = standard_deviation(members).tolist()
        # Sort positions, not names: ImageNet has two labels named "crane".
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
            "predictive_entropy_nats": predictive_entropy(members, independent=several).item(),
            "mutual_information_nats": mutual_information(members, independent=several).item(),
            "vote_share": vote_share(members, independent=several).item(),
            **self._decide(torch.from_numpy(scores), members, model_outputs["member_energies"][0]),
        }

    def _decide(self, scores: torch.Tensor, members: torch.Tensor, energies: torch.Tensor) -> dict[str, Any]:
        model: Any = self.model
        decisions = model.decisions
        if decisions is None:
            return {"calibrated": False, "abstain": None, "prediction_set": None, "more_uncertain_than": None}
        names, labels = model.config.id2label, decisions.prediction_set(scores)
        several = is_multi_label(model.config)
        information = mutual_information(members, independent=several).item()
        shares = {"mutual_information": decisions.more_uncertain_than("mutual_information", information)}
        if not several:
            # The joint energy of independent labels ranks images by the number of their labels. Older files hold it.
            shares["energy"] = decisions.more_uncertain_than("energy", energies.double().mean().item())
        return {
            "calibrated": True,
            "abstain": decisions.abstains(scores),
            "prediction_set": None if labels is None else [names[label] for label in labels],
            "more_uncertain_than": {name: 100 * share for name, share in shares.items() if share is not None},
        }

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save the ensemble, this image processor and the inference code.

        Args:
            save_directory: created if it does not exist.
            **kwargs: arguments of the model's `save_pretrained`.

        Example::

            classifier.save_pretrained("ensemble")
        """
        model: Any = self.model
        model.image_processor = self.image_processor
        model.save_pretrained(save_directory, include_code=True, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Publish the ensemble with its model card; see the model's `push_to_hub`.

        Example::

            classifier.push_to_hub("me/resnet50-simplex", private=True)
        """
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
            # A data set decodes the image here.
            raise ValueError(f"Image {number} cannot be read: {error}") from error


def _numbered(images: Iterable[Any]) -> Iterator[_NumberedImage]:
    number = 0
    try:
        for image in images:
            yield _NumberedImage(number, image)
            number += 1
    except Exception as error:
        # A generator opens or decodes the image here.
        raise ValueError(f"Image {number} cannot be read: {error}") from error


def _is_image(inputs: Any) -> bool:
    if isinstance(inputs, torch.Tensor) or hasattr(inputs, "__array_interface__"):
        # A PIL image, an array or a tensor. A batch of arrays has four dimensions.
        return getattr(inputs, "ndim", 3) <= 3
    return isinstance(inputs, str | os.PathLike | bytes | bytearray | Mapping)
