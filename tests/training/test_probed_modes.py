"""A growth with probe_head: all modes start from one head, a resumed run is the same, other starts are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from growing import CHECKPOINTED, Recorder, interrupted, trainer, weights
from tiny import Images, backbone, contents, same
from torch.utils.data import IterableDataset

from hf_simplex import SimplexForImageClassification
from hf_simplex.hub.evidence import Evidence
from hf_simplex.hub.model_card import new_card
from hf_simplex.model.batch_norm import batch_norm_statistics, recompute_statistics
from hf_simplex.training.batch_norm_images import batch_norm_batches
from hf_simplex.training.linear_probe import fit_head, linear_head
from hf_simplex.training.trainer import SimplexTrainer

PROBED: dict[str, Any] = {"probe_head": True, "num_modes": 2, "num_vertices": 2, **CHECKPOINTED}


class Augmented(Images):
    """Training images that are another draw of noise each time, with the labels of `Images`."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randn(3, 16, 16), "labels": self.labels[index]}


class Unlabeled(Images):
    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixel_values[index]}


def start(kind: str = "vit", **settings: Any) -> SimplexForImageClassification:
    """A pretrained backbone with a new head, and with BatchNorm statistics of its own."""
    module = backbone(kind)
    with torch.no_grad():
        module.train()(Images(24).pixel_values)
    model = SimplexForImageClassification.from_backbone(module.eval(), fine_tuned=False, **settings)
    head, _ = linear_head(module)
    model.new_weights = frozenset({f"{head}.weight", f"{head}.bias"})
    return model


CHOICES: list[Any] = ["all", "head", {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "fc1"]}]


@pytest.mark.parametrize(
    ("kind", "choice"), [("vit", choice) for choice in CHOICES] + [("resnet", "all"), ("timm", "all")]
)
def test_all_modes_start_from_the_head_that_fits_the_given_backbone(kind: str, choice: Any, tmp_path: Path) -> None:
    model = start(kind, vertex_parameters=choice)
    body = weights(model, 0)
    run = trainer(tmp_path, model=model, **PROBED)
    recorder = Recorder(model)
    run.add_callback(recorder)
    run.grow()
    module = start(kind).backbone
    recompute_statistics(module, batch_norm_batches(Images(24), images=16, batch_size=8))
    probe = fit_head(module, Images(24), batch_size=8)
    name, head = linear_head(module)
    expected = {f"{name}.weight": head.weight.detach(), f"{name}.bias": head.bias.detach()}
    expected |= batch_norm_statistics(module)
    first, second = recorder.frozen[0]
    assert same(first, {**body, **expected}) and same(second, first)
    # The second mode starts there too, after the first was trained.
    assert same(recorder.frozen[1][1], first) and not same(recorder.frozen[1][0], first)
    found = model.config.provenance["probe"]
    assert found["head"] == name and found["strength"] == probe.strength and found["num_images"] == 24
    assert model.config.roles == ["mode", "mode"]
    assert f"features of 24 training images (cross-validated error {100 * probe.error:.1f} %" in new_card(
        SimplexForImageClassification.from_pretrained(tmp_path), Evidence()
    ).text.replace("frozen ", "")


def test_without_epochs_the_mode_is_the_linear_probe(tmp_path: Path) -> None:
    plain, probed = (
        trainer(tmp_path / str(flag), model=start(), num_vertices=1, num_train_epochs=0, probe_head=flag)
        for flag in (False, True)
    )
    plain.grow()
    probed.grow()
    loss = [run.evaluate()["eval_loss"] for run in (plain, probed)]
    assert loss[1] < loss[0] - 0.1


@pytest.mark.parametrize(("vertex", "step"), [(0, 0), (0, 2), (1, 1)])
def test_a_resumed_growth_is_the_same_bit_for_bit(vertex: int, step: int, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", model=start(), **PROBED)
    whole.grow()
    interrupted(tmp_path / "cut", vertex, step, model=start(), **PROBED)
    # The head of a new process is another one.
    other = start()
    with torch.no_grad():
        other.weights[0]["classifier.weight"].normal_()
    resumed = trainer(tmp_path / "cut", model=other, **PROBED)
    resumed.grow(resume_from_checkpoint=True)
    for index in range(2):
        assert same(weights(resumed.simplex, index), weights(whole.simplex, index))
    one, two = (contents(tmp_path / name) for name in ("whole", "cut"))
    assert all(one[name] == two[name] for name in one if name.endswith("safetensors") and "/" not in name)
    with pytest.raises(ValueError, match="probe_head was True and is False"):
        trainer(tmp_path / "cut", model=start(), **{**PROBED, "probe_head": False}).grow(resume_from_checkpoint=True)


@pytest.mark.parametrize("kind", ["timm", "resnet"])
def test_training_starts_at_a_low_loss_where_batches_have_other_statistics_than_pretraining(
    kind: str, tmp_path: Path
) -> None:
    model = SimplexForImageClassification.from_backbone(backbone(kind), fine_tuned=False)
    trainer(tmp_path, model=model, num_vertices=1, num_train_epochs=0, probe_head=True).grow()
    data, module = Images(24), model.backbone
    losses = []
    for mode in (False, True):
        with torch.no_grad():
            logits = module.train(mode)(data.pixel_values).logits
        losses.append(float(torch.nn.functional.cross_entropy(logits, data.labels)))
    # ln 3 is that of chance.
    assert max(losses) < 0.8


def test_seeds_start_from_the_same_head(tmp_path: Path) -> None:
    heads = []
    for seed in (1, 2):
        run = trainer(
            tmp_path / str(seed), model=start(), seed=seed, num_train_epochs=0, num_vertices=1, probe_head=True
        )
        run.grow()
        heads.append(weights(run.simplex, 0))
    assert same(heads[0], heads[1])


def test_the_images_are_those_without_augmentation_where_they_have_labels(tmp_path: Path) -> None:
    def error(name: str, plain: Any, number: int = 24) -> float:
        run = trainer(
            tmp_path / name,
            model=start(),
            num_train_epochs=0,
            num_vertices=1,
            probe_head=True,
            trainer_arguments={"batch_norm_dataset": plain},
        )
        run.train_dataset = Augmented(number)
        run.grow()
        found: float = run.simplex.config.provenance["probe"]["nll"]
        return found

    labeled = error("labeled", Images(24))
    # Noise says nothing of labels.
    noise = error("unlabeled", Unlabeled(24))
    assert labeled < 1.0 < noise
    assert error("fewer", Images(12)) == noise


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        while True:
            yield Images(3)[0]


def shared_head() -> SimplexForImageClassification:
    return SimplexForImageClassification.from_backbone(
        backbone("vit"), fine_tuned=False, vertex_parameters=["vit.layers.1"]
    )


def head_with_adapter() -> SimplexForImageClassification:
    choice = {"peft_type": "LORA", "r": 2, "target_modules": ["classifier", "fc1"], "modules_to_save": []}
    return SimplexForImageClassification.from_backbone(backbone("vit"), fine_tuned=False, vertex_parameters=choice)


def two_backbones() -> SimplexForImageClassification:
    models = [SimplexForImageClassification.from_backbone(backbone("vit", seed), fine_tuned=False) for seed in (0, 1)]
    return SimplexForImageClassification.simplex_of_modes(models)


def from_scratch() -> SimplexForImageClassification:
    model = start()
    model.config.provenance["from_scratch"] = True
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (shared_head, "all vertices share classifier.weight"),
        (head_with_adapter, "classifier of ViTForImageClassification is a layer with an adapter"),
        (two_backbones, r"vertices 0 and 1 start from different weights \(vit\."),
        (from_scratch, "backbone was initialized at random"),
    ],
)
def test_what_one_head_cannot_fit_is_refused_before_training(make: Any, message: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, model=make(), **PROBED)
    with pytest.raises(ValueError, match=message):
        run.grow()
    assert run.state.global_step == 0 and "mode" not in run.simplex.config.roles


def test_images_without_length_are_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, model=start(), max_steps=1, **PROBED)
    run.train_dataset = Endless()
    with pytest.raises(ValueError, match="train_dataset has no length"):
        run.grow()


def test_trained_modes_keep_their_heads(tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit"), fine_tuned=True)
    before = weights(model, 0)
    run: SimplexTrainer = trainer(tmp_path, model=model, num_vertices=1, probe_head=True)
    run.grow()
    assert same(weights(model, 0), before) and "probe" not in model.config.provenance
