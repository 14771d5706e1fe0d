"""A tree of tensors has the state dict of the module that the tensors came from."""

import pytest
import torch
from tiny import KINDS, backbone

from hf_simplex.model.tensor_tree import TensorTree, empty_like


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_the_modules_own(kind: str) -> None:
    module = backbone(kind)
    parameters = {name: p.data for name, p in module.named_parameters()}
    buffers = {name: b for name, b in module.named_buffers() if name in module.state_dict()}
    tree = TensorTree(parameters, buffers)
    assert tree.state_dict().keys() == module.state_dict().keys()
    assert list(tree.tensors()) == [*parameters, *buffers]
    assert not any(p.requires_grad for p in tree.parameters())
    shapes = {name: tensor.shape for name, tensor in empty_like(parameters).items()}
    assert shapes == {name: tensor.shape for name, tensor in parameters.items()}


def test_tensors_keep_their_dtype_and_are_not_copied() -> None:
    weight, count = torch.ones(2, dtype=torch.bfloat16), torch.tensor(3)
    tree = TensorTree({"layer.weight": weight}, {"layer.count": count})
    found = tree.tensors()
    assert found["layer.weight"].data_ptr() == weight.data_ptr() and found["layer.count"] is count
    blank = empty_like(found)
    assert blank["layer.weight"].dtype == torch.bfloat16 and blank["layer.count"].dtype == torch.int64
    with torch.device("meta"):
        assert all(tensor.is_meta for tensor in empty_like(found).values())


def test_names_that_collide_are_refused() -> None:
    with pytest.raises(KeyError):
        TensorTree({"head.weight": torch.zeros(1), "head": torch.zeros(1)}, {})
