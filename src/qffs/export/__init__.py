"""Networks in the form of other tools, one file a target.

Each function takes a network that `qffs.quantize` or `qffs.to_spiking` returned; those that write a file write it whole
or not at all, and say in what they return what was checked. A target whose library is not installed says how to
install it.
"""

from qffs.export.circuit.folder import BRIAN2, PYNN, brian2, pynn
from qffs.export.hub import HUB, hub, pull, push
from qffs.export.modules.snntorch import SNNTORCH, snntorch
from qffs.export.modules.spikingjelly import SPIKINGJELLY, spikingjelly
from qffs.export.nir.write import NIR, NIR_EXACT, nir, nir_exact, read_nir
from qffs.export.onnx import ONNX, onnx
from qffs.export.target import Target
from qffs.export.torch_export import PT2, pt2

TARGETS = {each.name: each for each in (SPIKINGJELLY, SNNTORCH, BRIAN2, PYNN, NIR, NIR_EXACT, PT2, ONNX, HUB)}

__all__ = [
    "TARGETS",
    "Target",
    "brian2",
    "hub",
    "nir",
    "nir_exact",
    "onnx",
    "pt2",
    "pull",
    "push",
    "pynn",
    "read_nir",
    "snntorch",
    "spikingjelly",
]
