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
from qffs.files import expanded, write
from qffs.functional.lsq import NEAREST, smallest_step_size
from qffs.nn.inspect import empty_like
from qffs.nn.quantizer import Quantizer

OPSET = 20
HIGHEST = 255
"""The highest level that ONNX can store, because levels are written as unsigned bytes."""


class QuantizeClipDequantize(nn.Module):
    """A quantizer made of ONNX's own operators, with levels as unsigned bytes.

    QuantizeLinear rounds to the nearest level, and ties to the even level. The offset of the quantizer is added before
    it, as ``(offset - 1/2) s``. So the two can differ only where ``x / s + offset`` is exactly a whole number. Raises
    `NotConvertible` if the highest level is above `HIGHEST`.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        if quantizer.highest > HIGHEST:
            raise NotConvertible(f"onnx takes levels up to {HIGHEST}, not {quantizer.highest}")
        scale = quantizer.step_size.detach().clamp_min(smallest_step_size(quantizer.step_size.dtype))
        self.channels, self.offset = quantizer.channels, quantizer.offset
        self.scale: Tensor
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(scale.shape, dtype=torch.uint8))
        self.register_buffer("highest", torch.tensor(quantizer.highest, dtype=torch.uint8))
        self.register_buffer("lowest", torch.tensor(0, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized activations, in the shape of ``x``."""
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
    """Write a quantized network, or T steps of a spiking network, as an ONNX file (opset 20), for any batch size.

    network: a network that `qffs.quantize` or `qffs.to_spiking` returned, in float32 on the CPU. A quantized network
        has QuantizeLinear, Clip and DequantizeLinear in the place of its quantizers, and takes and returns
        ``[B, ...]``. A spiking network is unrolled and returns the read-out after each step, ``[T, B, ...]``.
    path: the file to write.
    steps: T, for a spiking network only; by default 8, or 2 D if that is larger.
    example: an example of each input, ``[B, ...]``; needed only if an input is not floating-point numbers.

    Returns a `Written`. If onnxruntime is installed, the file is run beside the network with another batch size,
    and ``deviation`` is the largest difference of their outputs.

    Raises `NotConvertible` with the name of an operator that ONNX does not have, or if PyTorch cannot export the
    network; `InvalidArgument` if the network is not in float32 on the CPU, if the steps or examples do not fit, or if
    the libraries are not installed; `NotCalibrated` if a step size is not set; `QffsError` if the file cannot be
    written.
    """
    kind = ONNX.check(network)
    path, steps = expanded(path), steps_of(network, steps)
    parameters = empty_like(network)
    if parameters.dtype != torch.float32 or parameters.device.type != "cpu":
        raise InvalidArgument(
            f"onnx takes a network in float32 on the CPU, not {parameters.dtype} on {parameters.device}: give a copy"
        )
    module = plain(network, steps)
    exportable = module if steps is not None else _with_operators(plain(network, None))
    exported = program(exportable, examples(network, 2, example))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about names that it chose itself
            onnx_program = torch.onnx.export(exported, dynamo=True, opset_version=OPSET, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise NotConvertible(f"ONNX has no counterpart of an operator of this network: {_cause(error)}") from error
    assert onnx_program is not None
    model: bytes = onnx_program.model_proto.SerializeToString()  # with a path, onnx would choose a form by its suffix
    deviation = _deviation(model, module, examples(network, 3, example))
    write(path, lambda fresh: fresh.write_bytes(model))
    return Written(path, kind, steps, deviation)


def _with_operators(qann: nn.Module) -> nn.Module:
    assert isinstance(qann, fx.GraphModule)
    for name, module in list(qann.named_modules(remove_duplicate=False)):
        if isinstance(module, Quantizer):
            qann.set_submodule(name, QuantizeClipDequantize(module))
    return qann


def _cause(error: BaseException) -> str:
    """Return the message of the first error in a chain of errors, which names the operator."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def _deviation(model: bytes, module: nn.Module, inputs: Sequence[Tensor]) -> float | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feed = {each.name: x.numpy() for each, x in zip(session.get_inputs(), inputs, strict=True)}
    with torch.no_grad():
        return apart([torch.from_numpy(each) for each in session.run(None, feed)], module(*inputs))


ONNX = Target(
    "onnx",
    "a graph of ONNX's operators: the quantized network in QCDQ form, or T steps of the spiking one",
    ("snn", "qann"),
    onnx,
    frozenset({"steps"}),
    "onnx",
    ("onnx", "onnxscript"),
    marks=(b"\x08", b"qffs"),
)
