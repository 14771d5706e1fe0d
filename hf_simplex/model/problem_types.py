"""Whether a classifier gives an image one label (softmax) or several (an independent sigmoid each). Needs no torch."""

from typing import Any

__all__ = [
    "MULTI_LABEL",
    "SINGLE_LABEL",
    "agreed_problem_type",
    "check_problem_type",
    "is_multi_label",
    "refuse_several",
]

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"


def is_multi_label(config: Any) -> bool:
    """Whether a configuration is that of a multi-label classifier.

    Args:
        config: of an ensemble or a backbone.

    Example:
        >>> from transformers import ViTConfig
        >>> is_multi_label(ViTConfig(problem_type="multi_label_classification")), is_multi_label(ViTConfig())
        (True, False)
    """
    return getattr(config, "problem_type", None) == MULTI_LABEL


def check_problem_type(problem_type: Any, what: str) -> None:
    """Check that a `problem_type` is one of classification.

    Args:
        problem_type: of a configuration; None means one label an image.
        what: whose it is, for the message.

    Raises:
        ValueError: it is something else, such as `"regression"`.

    Example:
        >>> check_problem_type("multi_label_classification", "the backbone")
    """
    if problem_type not in (None, SINGLE_LABEL, MULTI_LABEL):
        raise ValueError(
            f"The problem_type of {what} is {problem_type!r}, but an ensemble classifies images. Give "
            f"{SINGLE_LABEL!r} (one label an image) or {MULTI_LABEL!r} (several)."
        )


def agreed_problem_type(own: Any, backbone: Any) -> Any:
    """Return the `problem_type` of an ensemble, from its own configuration and its backbone's.

    Training with one label an image sets a backbone's None to `"single_label_classification"`, which means the same.

    Args:
        own: of the ensemble.
        backbone: of its backbone.

    Returns:
        `"multi_label_classification"` where one says so and the other nothing else; otherwise `own`.

    Raises:
        ValueError: one is multi-label and the other is not, or one is no classification.

    Example:
        >>> agreed_problem_type(None, "multi_label_classification")
        'multi_label_classification'
    """
    check_problem_type(own, "the ensemble")
    check_problem_type(backbone, "the backbone")
    if {own, backbone} == {SINGLE_LABEL, MULTI_LABEL}:
        raise ValueError(
            f"problem_type is {own!r}, but that of the backbone is {backbone!r}. The loss that trained its weights "
            "goes with one of them only: leave problem_type out, or build a new ensemble with from_backbone."
        )
    return MULTI_LABEL if MULTI_LABEL in (own, backbone) else own


def refuse_several(config: Any, what: str, instead: str) -> None:
    """Refuse a multi-label ensemble where only one label an image makes sense.

    Args:
        config: of the ensemble.
        what: what does not go with it, as the start of a sentence.
        instead: what to do, a whole sentence.

    Raises:
        ValueError: the ensemble is multi-label.

    Example:
        >>> from transformers import ViTConfig
        >>> refuse_several(ViTConfig(), "The explorer shows", "Use the pipeline.")
    """
    if is_multi_label(config):
        raise ValueError(
            f"{what} one label an image, but the problem_type of this ensemble is {MULTI_LABEL!r}. {instead}"
        )
