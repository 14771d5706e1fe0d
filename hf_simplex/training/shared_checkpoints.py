"""Checkpoints of a stage without the weights that all vertices share: those are saved once, with the ensemble."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME

from ..model.shared_weights import shared_state

__all__ = ["load_without_shared", "without_shared"]


@contextmanager
def without_shared(backbone: PreTrainedModel) -> Iterator[None]:
    """Let `save_pretrained` of a backbone leave out the shared weights, and keep the module's names for the others.

    A backbone without shared weights is saved as ever.

    Args:
        backbone: the working backbone.

    Example::

        with without_shared(model.backbone):
            model.backbone.save_pretrained("checkpoint")
    """
    shared = shared_state(backbone)
    if not shared:
        yield
        return
    former = backbone._keys_to_ignore_on_save
    conversions = backbone.__dict__.get("_weight_conversions")
    backbone._keys_to_ignore_on_save = {*(former or ()), *shared}
    # transformers would rename weights to those of older versions. It knows no names of adapters.
    backbone._weight_conversions = []  # type: ignore[assignment]
    try:
        yield
    finally:
        backbone._keys_to_ignore_on_save = former
        if conversions is None:
            del backbone._weight_conversions
        else:
            backbone._weight_conversions = conversions


def load_without_shared(backbone: PreTrainedModel, checkpoint: Path) -> None:
    """Load a checkpoint that `without_shared` wrote into a backbone, which keeps its shared weights.

    Args:
        backbone: the working backbone.
        checkpoint: folder of the checkpoint.

    Raises:
        ValueError: the checkpoint has other weights than those that the backbone does not share.

    Example::

        load_without_shared(model.backbone, Path("out/vertex-00001/checkpoint-500"))
    """
    state = load_file(checkpoint / SAFE_WEIGHTS_NAME)
    expected = set(backbone.state_dict()) - shared_state(backbone)
    if differing := sorted(expected ^ state.keys()):
        raise ValueError(
            f"{checkpoint} is the checkpoint of another growth: {differing[0]} is "
            f"{'missing' if differing[0] in expected else 'unknown'}. Resume with the same vertex_parameters."
        )
    backbone.load_state_dict(state, strict=False)
