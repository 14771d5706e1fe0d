"""The memory format that "auto" chooses is the faster one, and stays with a component."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import LABELS, Images, backbone, images
from torch import nn

from hf_simplex import SimplexForImageClassification, SimplexTrainingArguments
from hf_simplex.training.recipe import memory_format
from hf_simplex.training.recipe.memory_format import FORMATS, RECORD, Choice, choose, set_memory_formats, step_seconds


def arguments(directory: Path) -> Any:
    return SimplexTrainingArguments(str(directory), per_device_train_batch_size=4, report_to="none", use_cpu=True)


def is_channels_last(model: SimplexForImageClassification) -> bool:
    weights = [*model.vertices[0].parameters(), *model.backbone.parameters()]
    convolutions = [p for p in weights if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert convolutions
    last = [p.is_contiguous(memory_format=torch.channels_last) for p in convolutions]
    assert len(set(last)) == 1
    return last[0]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], list[int]]:
    """Make the two formats take so many seconds; returns the number of images of each timing."""

    def take(contiguous: float, channels_last: float) -> list[int]:
        calls: list[int] = []

        def seconds(_: Any, batch: torch.Tensor, *__: Any) -> dict[str, float]:
            calls.append(len(batch))
            return {"contiguous": contiguous, "channels_last": channels_last}

        monkeypatch.setattr(memory_format, "step_seconds", seconds)
        return calls

    return take


def test_channels_last_must_be_faster_by_more_than_chance() -> None:
    taken = {"contiguous": 1.0, "channels_last": 0.9}
    assert choose(taken) == Choice("channels_last", taken)
    assert choose(taken | {"channels_last": 0.97}).memory_format == "contiguous"
    assert choose(taken | {"channels_last": 2.0}).memory_format == "contiguous"


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_timing_changes_neither_weights_nor_random_numbers(dtype: torch.dtype | None) -> None:
    module = backbone("resnet")
    # Dropout, so that a step draws random numbers.
    module.classifier.append(nn.Dropout(0.5))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    seconds = step_seconds(module, images(4), LABELS, dtype, rounds=1)
    assert seconds.keys() == FORMATS.keys() and min(seconds.values()) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not module.training and all(p.grad is None for p in module.parameters())


def test_a_component_keeps_the_format_that_it_was_begun_in(tmp_path: Path, timed: Any) -> None:
    def components() -> list[SimplexForImageClassification]:
        return [SimplexForImageClassification.from_backbone(backbone("resnet", seed)) for seed in (0, 1)]

    folders = [arguments(tmp_path / str(number)) for number in (0, 1)]
    first, calls = components(), timed(1.0, 0.5)
    chosen = set_memory_formats("auto", first, folders, Images())
    # Timed once for both, with batches as they are in training.
    assert calls == [4]
    assert [choice.memory_format for choice in chosen] == ["channels_last"] * 2
    assert all(map(is_channels_last, first))
    # The machine that it goes on with would choose otherwise; only a component that is begun there follows it.
    again, calls = components(), timed(0.5, 1.0)
    assert set_memory_formats("auto", again, folders, Images()) == chosen
    assert calls == [] and all(map(is_channels_last, again))
    (tmp_path / "1" / RECORD).unlink()
    mixed = components()
    set_memory_formats("auto", mixed, folders, Images())
    assert [is_channels_last(component) for component in mixed] == [True, False]


@pytest.mark.parametrize("name", FORMATS)
def test_a_given_format_is_taken_without_timing(name: str, tmp_path: Path, timed: Any) -> None:
    component, calls = SimplexForImageClassification.from_backbone(backbone("resnet")), timed(1.0, 1.0)
    assert set_memory_formats(name, [component], [arguments(tmp_path)], Images()) == []
    assert calls == [] and not (tmp_path / RECORD).exists()
    assert is_channels_last(component) == (name == "channels_last")
