"""Questions about a whole network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qffs.errors import InvalidArgument
from qffs.nn.inspect import refuse_types


def with_weight(change: Any) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[1].weight = nn.Parameter(change(model[1].weight.detach()), requires_grad=False)
    return model


FORMS = {
    "is a sparse_coo tensor": lambda x: x.to_sparse(),
    "is a sparse_csr tensor": lambda x: x.to_sparse_csr(),
    "is on the meta device": lambda x: x.to("meta"),
    "is of type float8_e4m3fn": lambda x: x.to(torch.float8_e4m3fn),
    "is of type float8_e5m2": lambda x: x.to(torch.float8_e5m2),
    "is of type float16": lambda x: x.half(),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("form", FORMS)
def test_a_tensor_in_a_form_without_a_rule_is_named(form: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"^1\.weight {form}"):
        refuse_types(with_weight(FORMS[form]), [])
    layer = nn.Linear(4, 3)
    layer.register_buffer("mask", FORMS[form](torch.ones(3, 4)))
    with pytest.raises(InvalidArgument, match=f"^mask {form}"):
        refuse_types(layer, [])
    with pytest.raises(InvalidArgument, match=f"^the example {form}"):
        refuse_types(nn.Linear(4, 3), [torch.ones(2, 4), FORMS[form](torch.ones(2, 4))])


def quantized(x: Tensor) -> Tensor:
    return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore:.*[Qq]uantize", "ignore:.*nested tensors is in prototype")
@pytest.mark.parametrize(
    ("example", "form"),
    [
        (lambda x: torch.nested.nested_tensor([x[0], x[1]]), "a nested tensor"),
        (lambda x: x.to_mkldnn(), "a mkldnn tensor"),
        (quantized, "quantized already"),
    ],
)
def test_an_example_in_such_a_form_is_named(example: Any, form: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^the example is {form}"):
        refuse_types(nn.Linear(4, 3), [example(torch.ones(2, 4))])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_several_types_are_named(dtype: torch.dtype) -> None:
    model = with_weight(lambda x: x.to(dtype))
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(InvalidArgument, match=rf"several types \(0\.weight float32, 1\.weight {name}\)"):
        refuse_types(model, [])
    refuse_types(model.to(dtype), [])


def test_numbers_whole_numbers_and_buffers_may_have_types_of_their_own() -> None:
    layer = nn.Linear(4, 3)
    layer.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    layer.index = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    layer.register_buffer("shift", torch.ones(3, dtype=torch.float64))
    refuse_types(nn.Sequential(layer, nn.LazyLinear(3)), [torch.ones(2, 4)])
