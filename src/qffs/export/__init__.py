"""Networks in the form of other tools, one file a target.

Each function takes a network that `qffs.quantize` or `qffs.to_spiking` returned; those that write a file write it whole
or not at all, and say in what they return what was checked. A target whose library is not installed says how to
install it.
"""

from qffs.export.hub_folder import HUB, hub, pull, push
from qffs.export.onnx_file import ONNX, onnx
from qffs.export.pt2_archive import PT2, pt2
from qffs.export.snntorch_module import SNNTORCH, snntorch
from qffs.export.spikingjelly_module import SPIKINGJELLY, spikingjelly
from qffs.export.target import Target

TARGETS = {each.name: each for each in (SPIKINGJELLY, SNNTORCH, PT2, ONNX, HUB)}

__all__ = ["HUB", "TARGETS", "Target", "hub", "onnx", "pt2", "pull", "push", "snntorch", "spikingjelly"]
