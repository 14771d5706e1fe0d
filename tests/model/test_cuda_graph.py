"""Members replayed from a CUDA graph predict what they predict one by one."""

import copy
import multiprocessing
import pickle
from collections.abc import Iterator

import pytest
import torch
from tiny import KINDS, LABELS, SIZE, backbone, images
from torch import nn

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.cuda_graph import MAX_GRAPHS, GraphedMembers, member_logits

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="captures CUDA graphs: torch sees no GPU")


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    """Without TF32, whose rounding would hide a wrong weight."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def ensemble(kind: str) -> SimplexForImageClassification:
    """Three members: a vertex, a point between, and another vertex."""
    model = SimplexForImageClassification.from_backbone(backbone(kind))
    model.add_vertex()
    other = backbone(kind, seed=1).state_dict()
    model.vertices[1].load_state_dict(other)
    batches = [{"pixel_values": images(8, seed=9)}]
    model.set_members([[1.0, 0.0], [0.4, 0.6], [0.0, 1.0]], batches=batches)
    return model


def test_the_logits_of_members_are_theirs_in_their_order() -> None:
    members = [backbone("vit", seed) for seed in range(3)]
    with torch.no_grad():
        found = member_logits(members, images())
        assert found.shape == (len(images()), 3, LABELS)
        for number, member in enumerate(members):
            assert torch.equal(found[:, number], member(images()).logits)


def test_a_graph_needs_a_gpu_and_memory_for_all_members() -> None:
    model = ensemble("vit")
    with pytest.raises(ValueError, match="model is on cpu: move it to a GPU"):
        model.materialize(cuda_graph=True)
    # What was asked for in vain leaves nothing behind.
    assert model.materialize(0) == 0
    if torch.cuda.is_available():
        with pytest.raises(ValueError, match="needs all 3 members ready"):
            model.cuda().materialize(1000, cuda_graph=True)


@needs_cuda
@pytest.mark.parametrize("kind", KINDS)
def test_replayed_members_predict_what_streamed_ones_do(kind: str) -> None:
    model = ensemble(kind).cuda()
    batches = [images(size, seed=seed).cuda() for size in (1, 4) for seed in (1, 2)]
    streamed = [model(batch, output_member_probabilities=True) for batch in batches]
    assert model.materialize(cuda_graph=True) == 3
    found = [model(batch, output_member_probabilities=True) for batch in batches * 2]
    for one, other in zip(found, streamed * 2, strict=True):
        # Compared at the end: what was returned earlier must not have been overwritten.
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.member_probabilities, other.member_probabilities, rtol=1e-4, atol=1e-5)
    assert len(model._ready.graph._captured) == 2
    labels = torch.zeros(4, dtype=torch.long, device="cuda")
    assert model(batches[-1], labels=labels).loss is not None
    model.dematerialize()
    assert model._ready.graph is None
    torch.testing.assert_close(model(batches[0]).logits, streamed[0].logits, rtol=1e-4, atol=1e-5)


@needs_cuda
@pytest.mark.parametrize("streams", [2, 4])
def test_members_on_several_streams_predict_the_same(streams: int) -> None:
    members = [backbone("timm", seed).cuda() for seed in range(7)]
    forked = GraphedMembers(members, streams)
    with torch.no_grad():
        for seed in range(20):
            batch = images(2, seed=seed).cuda()
            torch.testing.assert_close(forked(batch), member_logits(members, batch), rtol=1e-4, atol=1e-5)


@needs_cuda
def test_what_shapes_the_pass_is_captured_anew() -> None:
    model = ensemble("resnet").cuda()
    model.materialize(cuda_graph=True)
    members = model._ready.modules
    batch = images(2).cuda()
    expected = member_logits(members, batch)
    graphs = model._ready.graph
    with torch.inference_mode():
        torch.testing.assert_close(graphs(batch), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(graphs(batch), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        graphs(batch.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5
    )
    for _ in range(2):
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
            half, streamed = graphs(batch), member_logits(members, batch)
        torch.testing.assert_close(half, streamed, rtol=2e-2, atol=2e-2)
    assert len(graphs._captured) == 3
    for size in range(3, 3 + MAX_GRAPHS):
        more = images(size).cuda()
        torch.testing.assert_close(graphs(more), member_logits(members, more), rtol=1e-4, atol=1e-5)
    assert len(graphs._captured) == MAX_GRAPHS


@needs_cuda
def test_a_graph_follows_its_model_to_other_memory_and_into_copies() -> None:
    model = ensemble("vit").cuda()
    batch = images(2).cuda()
    expected = model(batch).logits
    model.materialize(cuda_graph=True)
    model(batch)
    twin, thawed = copy.deepcopy(model), pickle.loads(pickle.dumps(model._ready.graph))
    wide = copy.deepcopy(model).double()
    for _ in range(2):
        torch.testing.assert_close(wide(batch.double()).logits.float(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(twin(batch).logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(thawed(batch), member_logits(model._ready.modules, batch), rtol=1e-4, atol=1e-5)
    model.cpu()
    torch.testing.assert_close(model(batch.cpu()).logits, expected.cpu(), rtol=1e-4, atol=1e-5)
    model.cuda()
    torch.testing.assert_close(model(batch).logits, expected, rtol=1e-4, atol=1e-5)
    model.set_members([[0.0, 1.0]])
    torch.testing.assert_close(model(batch).logits, backbone("vit", 1).cuda()(batch).logits.log_softmax(-1))


class _Waits(nn.Module):
    """Asks the GPU for a number in the middle of the pass."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone("vit").cuda()

    def forward(self, pixel_values: torch.Tensor) -> object:
        return self.backbone(pixel_values * float(pixel_values.sum().item() < 1e9))


def _fails_to_capture() -> None:
    batch = images(1).cuda()
    with pytest.raises(RuntimeError, match="Call materialize\\(\\) without cuda_graph"):
        GraphedMembers([_Waits()])(batch)
    # The GPU still predicts afterwards.
    assert backbone("vit").cuda()(batch).logits.isfinite().all()
    assert batch.shape[-1] == SIZE


@needs_cuda
def test_a_backbone_that_cannot_be_captured_says_what_to_do() -> None:
    # In a process of its own: after a failed capture torch draws no random numbers on the GPU any more.
    process = multiprocessing.get_context("spawn").Process(target=_fails_to_capture)
    process.start()
    process.join()
    assert process.exitcode == 0
