"""A graph of ONNX's operators: the quantized network in QCDQ form, or the spiking network unrolled."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, NotConvertible
from qffs.export.target import Network, Target, Written, apart, examples, steps_of
from qffs.export.torch_export import plain, program
from qffs.files import write
from qffs.functional.lsq import NEAREST, SMALLEST_STEP_SIZE
from qffs.nn.inspect import empty_like
from qffs.nn.quantizer import Quantizer

OPSET = 20
HIGHEST = 255
"""The highest level of an unsigned byte, which levels are written as."""


class QuantizeClipDequantize(nn.Module):
    """A quantizer by ONNX's own operators, levels as unsigned bytes.

    QuantizeLinear rounds to the nearest level, ties to the even one; the quantizer's offset comes before it as
    ``(offset - 1/2) s``. So the two differ where ``x / s + offset`` is a whole number exactly, and nowhere else.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        if quantizer.highest > HIGHEST:
            raise NotConvertible(f"onnx takes levels up to {HIGHEST}, not {quantizer.highest}")
        scale = quantizer.step_size.detach().clamp_min(SMALLEST_STEP_SIZE)
        self.channels, self.offset = quantizer.channels, quantizer.offset
        self.scale: Tensor
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(scale.shape, dtype=torch.uint8))
        self.register_buffer("highest", torch.tensor(quantizer.highest, dtype=torch.uint8))
        self.register_buffer("lowest", torch.tensor(0, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """The quantized activations."""
        axis = {} if self.channels is None else {"axis": 1}
        step = self.scale if self.channels is None else self.scale.view(-1, *(1,) * (x.dim() - 2))
        shifted = x + (self.offset - NEAREST) * step
        level = _operator("QuantizeLinear", (shifted, self.scale, self.zero), torch.uint8, x, **axis)
        within = _operator("Clip", (level, self.lowest, self.highest), torch.uint8, x)
        return _operator("DequantizeLinear", (within, self.scale, self.zero), x.dtype, x, **axis)


def _operator(name: str, inputs: tuple[Any, ...], dtype: torch.dtype, like: Tensor, **attributes: Any) -> Tensor:
    return torch.onnx.ops.symbolic(name, inputs, attributes, dtype=dtype, shape=like.shape, version=OPSET)


def onnx(
    network: Network, path: str | Path, steps: int | None = None, example: Tensor | Sequence[Tensor] = ()
) -> Written:
    """Write a quantized network, or T steps of a spiking one, as ONNX (opset 20), for any batch.

    A quantized network has QuantizeLinear, Clip and DequantizeLinear in place of its quantizers; a spiking one returns
    the read-out after each step, ``[T, B, ...]``. steps: T, by default 8 and at least 2 D; example: one input, or
    several, where they are not floating-point numbers.

    Returned: what was written; with onnxruntime it is run beside the network, and ``deviation`` says by how much its
    outputs differ. Raises `NotConvertible` where an operator has no counterpart, with its name, and
    `InvalidArgument` where the network is not in float32 on the CPU.
    """
    kind = ONNX.check(network)
    path, steps = Path(path), steps_of(network, steps)
    own = empty_like(network)
    if own.dtype != torch.float32 or own.device.type != "cpu":
        raise InvalidArgument(
            f"onnx takes a network in float32 on the CPU, not {own.dtype} on {own.device}: give a copy"
        )
    module = plain(network, steps)
    written = module if steps is not None else _with_operators(plain(network, None))
    exported = program(written, examples(network, 2, example))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own making, about names that nobody gave
            found = torch.onnx.export(exported, dynamo=True, opset_version=OPSET, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise NotConvertible(f"ONNX has no counterpart of an operator of this network: {_cause(error)}") from error
    assert found is not None
    deviation: float | None = None

    def save(fresh: Path) -> None:
        nonlocal deviation
        found.save(fresh, external_data=False)
        deviation = _deviation(fresh, module, examples(network, 3, example))

    write(path, save)
    return Written(path, kind, steps, deviation)


def _with_operators(qann: nn.Module) -> nn.Module:
    assert isinstance(qann, fx.GraphModule)
    for name, module in list(qann.named_modules(remove_duplicate=False)):
        if isinstance(module, Quantizer):
            qann.set_submodule(name, QuantizeClipDequantize(module))
    return qann


def _cause(error: BaseException) -> str:
    """Why an export failed first, which names the operator."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def _deviation(path: Path, module: nn.Module, inputs: Sequence[Tensor]) -> float | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {each.name: x.numpy() for each, x in zip(session.get_inputs(), inputs, strict=True)}
    with torch.no_grad():
        return apart([torch.from_numpy(each) for each in session.run(None, given)], module(*inputs))


ONNX = Target(
    "onnx",
    "a graph of ONNX's operators: the quantized network in QCDQ form, or T steps of the spiking one",
    ("snn", "qann"),
    onnx,
    frozenset({"steps"}),
    "onnx",
    ("onnx", "onnxscript"),
)
