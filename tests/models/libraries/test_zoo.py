"""Networks of torchvision and timm convert exactly: a few small ones here, all in docs/models.md."""

from __future__ import annotations

import pytest

from helpers.scripted import script
from helpers.slow import slow_but
from qffs.errors import InvalidArgument
from qffs.models.libraries import vision

zoo = script("models")
Row, document, examine = zoo.Row, zoo.document, zoo.examine
FEW = {
    "torchvision:squeezenet1_1": (26, ()),
    "torchvision:mobilenet_v3_small": (14, ("Hardsigmoid", "Hardswish", "mul")),
    "torchvision:shufflenet_v2_x0_5": (37, ()),
    "timm:mobilenetv2_035": (35, ()),
    "timm:resnet10t": (11, ()),
    "timm:visformer_tiny": (1, (".softmax", "GELU", "matmul")),
    "timm:test_vit_relpos": (0, ()),
}


@pytest.mark.parametrize("name", slow_but(FEW, "timm:resnet10t"))
def test_networks_of_others_convert_exactly(name: str) -> None:
    try:
        vision("timm")
    except InvalidArgument as error:
        pytest.skip(str(error))
    layers, values = FEW[name]
    row = examine(name)
    if not layers:
        assert row.reason.startswith("NothingToQuantize")
        return
    assert row.reason == ""
    assert row.deviation < 1e-9
    assert (row.layers, row.values) == (layers, values)
    assert row.settled >= 3


def test_the_document_tells_what_was_converted_and_why_the_rest_was_not() -> None:
    rows = [
        Row("torchvision:a", "", 224, 3, 4096, ("GELU",), 5, 1e-15),
        Row("timm:b", "NotConvertible: x\n- y"),
        Row("timm:c"),
        Row("timm:d", "NothingToQuantize: no"),
    ]
    text = document(rows)
    assert "2 of 3 networks are converted" in text
    assert "| a | converted | 224 | 3 | 4,096 | 5 | 1e-15 | GELU |" in text
    assert "| b | NotConvertible: x - y | | | | | | |" in text
    assert ": 1 of 2" in text
