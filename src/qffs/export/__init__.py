"""Networks in the form of other tools, one file a target.

Each function takes a network that `qffs.quantize` or `qffs.to_spiking` returned; those that write a file write it whole
or not at all, and say in what they return what was checked. A target whose library is not installed says how to
install it.
"""

from qffs.export.brian2_folder import BRIAN2, brian2
from qffs.export.hub_folder import HUB, hub, pull, push
from qffs.export.nir_file import NIR, NIR_EXACT, nir, nir_exact, read_nir
from qffs.export.onnx_file import ONNX, onnx
from qffs.export.pt2_archive import PT2, pt2
from qffs.export.pynn_folder import PYNN, pynn
from qffs.export.snntorch_module import SNNTORCH, snntorch
from qffs.export.spikingjelly_module import SPIKINGJELLY, spikingjelly
from qffs.export.target import Target

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
