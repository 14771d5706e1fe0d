"""BatchNorm statistics are those of the given images at the present weights, and nothing else changes."""

import copy
from unittest import mock

import pytest
import timm
import torch
from tiny import backbone, batches, images
from torch import nn

from hf_simplex.model.batch_norm import batch_norm_layers, batch_norm_statistics, copy_statistics, recompute_statistics


def test_batches_are_averaged_by_their_number_of_images() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))
    pixels = images(10) * 3 + 1
    recompute_statistics(module, [pixels[:6], pixels[6:]])
    assert torch.allclose(module[0].running_mean, pixels.mean((0, 2, 3)), atol=1e-6)
    variance = 0.6 * pixels[:6].var((0, 2, 3)) + 0.4 * pixels[6:].var((0, 2, 3))
    assert torch.allclose(module[0].running_var, variance, rtol=1e-5)


def test_batches_of_one_distribution_give_the_statistics_of_one_big_batch() -> None:
    # Four equal batches: the mean within them is the mean of all, and so is the variance but for its n - 1.
    module, whole = backbone("resnet").train(), backbone("resnet").train()
    pixels = images(16)
    recompute_statistics(module, [{"pixel_values": pixels}] * 4)
    for layer in batch_norm_layers(whole).values():
        layer.momentum = 1.0
    whole(pixels)
    for name, tensor in batch_norm_statistics(whole).items():
        if name.endswith(("mean", "var")):
            assert torch.allclose(batch_norm_statistics(module)[name], tensor, rtol=1e-5, atol=1e-6), name


def test_earlier_statistics_leave_no_trace() -> None:
    first, second = backbone("resnet"), backbone("resnet")
    recompute_statistics(second, [{"pixel_values": images(8, seed=5) * 100}])
    for module in (first, second):
        recompute_statistics(module, batches())
    assert all(
        torch.equal(a, b)
        for a, b in zip(batch_norm_statistics(first).values(), batch_norm_statistics(second).values(), strict=True)
    )


def test_weights_momentum_and_modes_are_left_alone() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.9)).train()
    module[0].eval()
    before = {name: p.clone() for name, p in module.named_parameters()}
    recompute_statistics(module, [images()])
    assert all(torch.equal(before[name], p) for name, p in module.named_parameters())
    assert module[1].momentum == 0.3
    assert [child.training for child in module] == [False, True, True]


def test_a_batch_that_fails_leaves_momentum_and_modes_alone() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3, momentum=None), nn.Dropout(0.9)).train()
    with pytest.raises(RuntimeError):
        recompute_statistics(module, [images(), torch.zeros(2, 5, 4, 4)])
    assert module[0].momentum is None and module.training and module[1].training


def test_layers_without_running_statistics_are_none_of_ours() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3))
    recompute_statistics(module, [])
    assert batch_norm_statistics(module) == {}


def test_dropout_stays_off() -> None:
    module = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3))
    recompute_statistics(module, [images()])
    assert torch.allclose(module[1].running_mean, images().mean((0, 2, 3)), atol=1e-6)


def test_timm_and_synchronized_layers_count() -> None:
    model = timm.create_model("test_efficientnet", num_classes=3)
    plain = len(batch_norm_layers(model))
    assert plain > 0
    assert set(batch_norm_statistics(model)) <= set(model.state_dict())
    synchronized = [
        nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)),
        timm.layers.convert_sync_batchnorm(copy.deepcopy(model)),
    ]
    for module in (model, *synchronized):
        recompute_statistics(module, [images(8)])
        assert len(batch_norm_layers(module)) == plain
    assert any(isinstance(layer, timm.layers.BatchNormAct2d) for layer in batch_norm_layers(model).values())
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in batch_norm_layers(synchronized[1]).values())
    for name, tensor in batch_norm_statistics(synchronized[1]).items():
        assert torch.allclose(tensor, batch_norm_statistics(model)[name], atol=1e-6)


def test_synchronized_layers_do_not_communicate_and_come_back() -> None:
    """Only the layers of the module change, and only during its forward pass."""

    def communicates(*arguments: object) -> None:
        raise AssertionError("the forward pass of SyncBatchNorm ran")

    module = timm.layers.convert_sync_batchnorm(timm.create_model("test_efficientnet", num_classes=3))
    classes = [type(layer) for layer in module.modules()]
    with mock.patch.object(nn.SyncBatchNorm, "forward", communicates):
        recompute_statistics(module, [images(8)])
        assert nn.SyncBatchNorm.forward is communicates
        with pytest.raises(AssertionError, match="SyncBatchNorm ran"):
            module(images(8))
    assert [type(layer) for layer in module.modules()] == classes


def test_without_batch_norm_no_batch_is_read() -> None:
    def unread():  # type: ignore[no-untyped-def]
        raise AssertionError("a batch was read")
        yield

    recompute_statistics(backbone("vit"), unread())
    assert batch_norm_statistics(backbone("vit")) == {}


def test_no_images_or_single_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        recompute_statistics(backbone("resnet"), [])
    with pytest.raises(ValueError, match="1 image"):
        recompute_statistics(nn.BatchNorm2d(3), [images(1)])


def test_copies_do_not_follow_the_module() -> None:
    module = backbone("resnet")
    kept = copy_statistics(batch_norm_statistics(module))
    recompute_statistics(module, batches())
    assert any(not torch.equal(kept[name], tensor) for name, tensor in batch_norm_statistics(module).items())
