"""A linear probe is the optimum of regularized logistic regression on the head's inputs in evaluation mode."""

from collections.abc import Callable
from typing import Any

import datasets
import pytest
import torch
from tiny import Images, backbone
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    TimmWrapperConfig,
    default_data_collator,
)

from hf_simplex.training.linear_probe import LinearProbe, fit_head, linear_head


def inputs_of_head(module: PreTrainedModel, pixels: Tensor) -> Tensor:
    """Computed with all but the head, in float64."""
    _, head = linear_head(module)
    found: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        module.eval()(pixels)
    handle.remove()
    return found[0].double()


def moved(module: PreTrainedModel) -> PreTrainedModel:
    """The backbone with BatchNorm statistics that are not those of a fresh layer."""
    with torch.no_grad():
        module.train()(Images(24).pixel_values * 2)
    return module.eval()


def gradient(module: PreTrainedModel, data: Images, probe: LinearProbe) -> Tensor:
    """Gradient of the objective in float64, by the weights of standardized features, written out once more here."""
    _, head = linear_head(module)
    features = inputs_of_head(module, data.pixel_values)
    mean, scale = features.mean(0), features.std(0, correction=0).clamp(min=1e-12)
    weight = (head.weight.detach().double() * scale).requires_grad_()
    bias = (head.bias.detach().double() + head.weight.detach().double() @ mean).requires_grad_()
    logits = (features - mean) / scale @ weight.T + bias
    loss = nn.functional.cross_entropy(logits, data.labels) + probe.strength / 2 * weight.square().sum()
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, [weight, bias])])


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("kind", ["vit", "timm", "resnet"])
def test_the_head_is_the_optimum(kind: str, labels: int) -> None:
    data = Images(60)
    data.labels = data.labels % labels
    module = moved(backbone(kind, labels=labels))
    statistics = {name: buffer.clone() for name, buffer in module.named_buffers()}
    before = nn.functional.cross_entropy(module(data.pixel_values).logits, data.labels)
    probe = fit_head(module, data, batch_size=16)
    assert gradient(module, data, probe).abs().max() < 1e-4
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in module.named_buffers())
    after = nn.functional.cross_entropy(module(data.pixel_values).logits, data.labels)
    assert after < before and probe.num_images == 60
    # Held-out images are harder than those that the head was fitted to.
    assert probe.nll > after and 0 <= probe.error < 1 / 2


class Features(PreTrainedModel):
    """A backbone whose pixel values are its features."""

    config_class = TimmWrapperConfig
    main_input_name = "pixel_values"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(8, config.num_labels, bias=not getattr(config, "plain", False))

    def forward(self, pixel_values: Tensor) -> Any:
        return type("Output", (), {"logits": self.classifier(pixel_values)})


def features(scale: Tensor | None = None, shift: float = 0.0, number: int = 300) -> list[dict[str, Any]]:
    """Overlapping classes, for which the best strength is inside the range."""
    generator = torch.Generator().manual_seed(0)
    labels = [index % 3 for index in range(number)]
    values = torch.randn(number, 8, generator=generator)
    values[range(number), labels] += 1.5
    values = values * (torch.ones(8) if scale is None else scale) + shift
    return [{"pixel_values": row, "labels": label} for row, label in zip(values, labels, strict=True)]


def plain_backbone(**settings: Any) -> Features:
    torch.manual_seed(0)
    return Features(TimmWrapperConfig(architecture="test_resnet", num_labels=3, **settings))


def logits(module: PreTrainedModel, rows: list[dict[str, Any]]) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(torch.stack([row["pixel_values"] for row in rows])).logits
    return found


def test_scale_and_shift_of_features_do_not_matter() -> None:
    plain, scaled = plain_backbone(), plain_backbone()
    scale = torch.logspace(-3, 3, 8)
    probe = fit_head(plain, features())
    # scikit-learn's scores differ in the last digits where float32 rounds the features.
    other = fit_head(scaled, features(scale, shift=5.0))
    assert other.strength == probe.strength and other.nll == pytest.approx(probe.nll, rel=1e-2)
    torch.testing.assert_close(logits(scaled, features(scale, 5.0)), logits(plain, features()), rtol=0.02, atol=0.02)


def test_cross_validation_measures_what_new_images_show() -> None:
    module = plain_backbone()
    probe = fit_head(module, features(number=300))
    new = features(number=6000)[300:]
    labels = torch.tensor([row["labels"] for row in new])
    error = (logits(module, new).argmax(1) != labels).double().mean()
    assert probe.error == pytest.approx(float(error), abs=0.08)
    assert probe.nll == pytest.approx(float(nn.functional.cross_entropy(logits(module, new), labels)), abs=0.12)
    # The optimal rule errs on 24 %; chance on 67 %.
    assert float(error) < 0.35


def test_the_former_head_the_batches_and_the_kind_of_data_set_do_not_matter() -> None:
    data = Images(30)
    rows = [data[index] for index in range(30)]
    columns = {"pixel_values": [row["pixel_values"].numpy() for row in rows], "labels": data.labels.tolist()}
    stored = datasets.Dataset.from_dict(columns).with_format("torch")
    found = []
    for images, settings in ((data, {}), (stored, {"batch_size": 30, "collate": default_data_collator})):
        module = backbone("vit")
        nn.init.normal_(linear_head(module)[1].weight, std=3 if images is data else 0.1)
        module.train()
        probe = fit_head(module, images, **settings)  # type: ignore[arg-type]
        assert all(layer.training for layer in module.modules())
        found.append((probe.strength, linear_head(module)[1].weight.detach()))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-5)


def test_a_head_without_bias_and_a_constant_feature_are_fitted() -> None:
    module = plain_backbone(plain=True)
    rows = features()
    for row in rows:
        row["pixel_values"][7] = 1.0
    probe = fit_head(module, rows)
    assert probe.error < 0.35 and bool(module.classifier.weight.isfinite().all())


def test_images_with_the_ignored_label_are_left_out() -> None:
    module, same = plain_backbone(), plain_backbone()
    fit_head(module, [*features(), {"pixel_values": torch.full((8,), 50.0), "labels": -100}])
    fit_head(same, features())
    assert torch.equal(module.classifier.weight, same.classifier.weight)


class Rows(Dataset):
    """24 images; `label` gives each its label."""

    def __init__(self, label: Callable[[int], Any], value: float = 1.0) -> None:
        self.label, self.value = label, value

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": torch.full((8,), self.value), "labels": self.label(index)}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (Rows(lambda index: min(index, 2)), r"fewer than 2 training images: 0 \(1\), 1 \(1\)\. .* add images"),
        (Rows(lambda index: index % 2), r"fewer than 2 training images: 2 \(0\)"),
        (Rows(lambda index: index % 4), "label 3, but the model has 3 labels: expected 0 to 2"),
        (Rows(lambda index: torch.rand(3)), r"float32 \[24, 3\]; expected one integer for each image"),
        (Rows(lambda index: index % 3, value=float("nan")), "inputs of the head classifier are not finite"),
        ([{"pixel_values": torch.zeros(8)}], "has no labels"),
    ],
    ids=["one image", "no image", "range", "mixed", "nan", "no labels"],
)
def test_images_that_no_head_fits_are_refused(images: Any, message: str) -> None:
    module = plain_backbone()
    before = module.classifier.weight.detach().clone()
    with pytest.raises(ValueError, match=message):
        fit_head(module, images)
    assert torch.equal(module.classifier.weight, before)


def distilled() -> PreTrainedModel:
    config = DeiTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, num_labels=3
    )
    return DeiTForImageClassificationWithTeacher(config)


def linear_inside() -> PreTrainedModel:
    """Its logits are the head's outputs times two."""

    class Twice(Features):
        def forward(self, pixel_values: Tensor) -> Any:
            return type("Output", (), {"logits": 2 * self.classifier(pixel_values)})

    torch.manual_seed(0)
    return Twice(TimmWrapperConfig(architecture="test_resnet", num_labels=3))


def conv_classifier() -> PreTrainedModel:
    class Convolved(Features):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.classifier = nn.Conv2d(8, config.num_labels, 1)  # type: ignore[assignment]

    return Convolved(TimmWrapperConfig(architecture="test_resnet", num_labels=3))


@pytest.mark.parametrize(
    ("make", "new_weights", "message"),
    [
        (distilled, (), "2 heads, cls_classifier, distillation_classifier"),
        (conv_classifier, (), "head classifier of Convolved is a Conv2d"),
        (linear_inside, (), "not the outputs of the head classifier"),
        (
            lambda: backbone("vit"),
            ("vit.layernorm.weight", "classifier.weight"),
            "vit.layernorm in .* are new",
        ),
    ],
)
def test_another_head_is_refused_with_its_name(
    make: Callable[[], PreTrainedModel], new_weights: tuple[str, ...], message: str
) -> None:
    rows = features(number=30) if "Twice" in repr(type(module := make())) else Images(12)
    with pytest.raises(ValueError, match=message):
        fit_head(module, rows, new_weights=new_weights)


def test_the_library_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"scikit-learn: pip install \"hf-simplex\[probe\]\""):
        fit_head(plain_backbone(), features())
