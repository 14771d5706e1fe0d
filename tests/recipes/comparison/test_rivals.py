"""Each baseline does what its paper says."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from comparison.rivals.lora_ensemble import lora_member
from comparison.rivals.mc_dropout import keep_dropout_on, set_dropout
from comparison.rivals.soups import greedy_soup, uniform_soup
from comparison.rivals.swag import WeightsGaussian
from comparison.snapshots import CyclicTrainer, cycle_position
from transformers import TrainingArguments


def test_the_uniform_soup_weighs_all_models_alike() -> None:
    assert uniform_soup(4) == [0.25] * 4


def test_the_greedy_soup_takes_models_in_the_order_of_their_scores_and_only_where_the_score_does_not_fall() -> None:
    tried = []

    def score(coordinates: list[float]) -> float:
        tried.append(coordinates)
        return {1: 0.0, 2: 0.95, 3: 0.9}[sum(c > 0 for c in coordinates)]

    assert greedy_soup([0.7, 0.9, 0.8], score) == [0.0, 0.5, 0.5]
    assert tried == [[0.0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]


def test_swag_has_the_moments_of_the_snapshots() -> None:
    snapshots = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    posterior = WeightsGaussian(max_rank=3)
    for snapshot in snapshots:
        posterior.add({"w": snapshot})
    torch.testing.assert_close(posterior.mean["w"], snapshots.mean(dim=0))
    torch.testing.assert_close(posterior.square["w"], snapshots.square().mean(dim=0))
    assert len(posterior.deviations) == 3
    torch.testing.assert_close(posterior.deviations[-1]["w"], snapshots[-1] - snapshots.mean(dim=0))


def test_swag_draws_have_half_the_diagonal_and_half_the_low_rank_covariance() -> None:
    generator = torch.Generator().manual_seed(1)
    posterior = WeightsGaussian()
    for _ in range(4):
        posterior.add({"w": torch.randn(3, dtype=torch.float64, generator=generator)})
    draws = torch.stack([posterior.draw(generator)["w"] for _ in range(20_000)]).numpy()
    deviations = np.stack([deviation["w"].numpy() for deviation in posterior.deviations])
    variance = (posterior.square["w"] - posterior.mean["w"].square()).numpy()
    expected = np.diag(variance) / 2 + deviations.T @ deviations / (2 * 3)
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.05)
    np.testing.assert_allclose(draws.mean(axis=0), posterior.mean["w"].numpy(), atol=0.05)


def test_swag_of_one_snapshot_is_refused() -> None:
    posterior = WeightsGaussian()
    posterior.add({"w": torch.zeros(2)})
    with pytest.raises(RuntimeError, match="at least 2 snapshots, and 1"):
        posterior.draw(torch.Generator())
    with pytest.raises(ValueError, match="max_rank is 1"):
        WeightsGaussian(max_rank=1)


def test_every_cycle_ends_with_a_low_learning_rate_and_a_snapshot(tmp_path) -> None:
    rates = []

    class Watched(CyclicTrainer):
        def training_step(self, *args, **kwargs):
            rates.append(self.optimizer.param_groups[0]["lr"])
            return super().training_step(*args, **kwargs)

    args = TrainingArguments(
        str(tmp_path), num_train_epochs=4, per_device_train_batch_size=8, learning_rate=0.1, report_to="none",
        save_strategy="no", use_cpu=True,
    )  # fmt: skip
    backbone = tiny.backbone("resnet")
    trainer = Watched(cycles=2, lowest=0.1, model=backbone, args=args, train_dataset=tiny.Images(24))
    trainer.train()
    assert len(rates) == 12
    np.testing.assert_allclose(rates[:6], rates[6:])
    assert rates[5] == pytest.approx(0.01) and rates[:6] == sorted(rates[:6], reverse=True)
    assert len(trainer.snapshots) == 2
    last = trainer.snapshots[1]
    assert all(torch.equal(last[name], tensor) for name, tensor in backbone.state_dict().items())
    assert any(not torch.equal(last[name], tensor) for name, tensor in trainer.snapshots[0].items())


@pytest.mark.parametrize(("steps", "cycles"), [(12, 2), (10, 4), (10, 6), (7, 7), (5, 1)])
def test_each_cycle_ends_once_and_the_last_with_the_run(steps: int, cycles: int) -> None:
    positions = [cycle_position(step, steps, cycles) for step in range(steps)]
    assert positions.count(1) == cycles and positions[-1] == 1
    assert all(0 < position <= 1 for position in positions)
    ends = [step for step, position in enumerate(positions) if position == 1]
    lengths = np.diff([-1, *ends])
    assert lengths.max() - lengths.min() <= 1


def test_more_cycles_than_steps_are_named(tmp_path: Path) -> None:
    args = TrainingArguments(
        str(tmp_path), num_train_epochs=1, per_device_train_batch_size=8, report_to="none", save_strategy="no",
        use_cpu=True,
    )  # fmt: skip
    trainer = CyclicTrainer(cycles=4, model=tiny.backbone("resnet"), args=args, train_dataset=tiny.Images(24))
    with pytest.raises(ValueError, match="4 cycles in 3 training steps"):
        trainer.train()


@pytest.mark.parametrize("kind", ["vit", "timm"])
def test_dropout_is_drawn_at_prediction_and_batch_norm_is_not_touched(kind: str) -> None:
    backbone = tiny.backbone(kind)
    set_dropout(backbone, 0.5)
    keep_dropout_on(backbone)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    first, second = (backbone(pixel_values=tiny.images()).logits for _ in range(2))
    assert not torch.allclose(first, second)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_a_backbone_without_dropout_is_refused_for_mc_dropout() -> None:
    with pytest.raises(ValueError, match="has no dropout"):
        set_dropout(tiny.backbone("resnet"), 0.5)


def test_a_lora_member_trains_adapters_and_head_only_and_begins_as_the_backbone() -> None:
    backbone = tiny.backbone("vit")
    expected = backbone(pixel_values=tiny.images()).logits
    member = lora_member(backbone, 2, ["q_proj", "v_proj"])
    trained = [name for name, parameter in member.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name or "classifier" in name for name in trained)
    assert any("classifier" in name for name in trained)
    torch.testing.assert_close(member.eval()(pixel_values=tiny.images()).logits, expected)


def test_a_convolutional_backbone_is_refused_for_lora() -> None:
    with pytest.raises(ValueError, match="no linear layers called q_proj"):
        lora_member(tiny.backbone("resnet"), 2, ["q_proj"])
