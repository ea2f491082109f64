"""Exports: networks in the form of other tools, with one function for each target.

A function of a target takes a network that `qffs.quantize` or `qffs.to_spiking` returned. `spikingjelly` and `snntorch`
return a module of another library. The other functions of targets write a file or a folder: it is complete, or it is
not written. They return a `qffs.export.target.Written`, the report about the file. If a target needs a library that is
not installed, its function raises `InvalidArgument` with the command that installs the library.

`read_nir` reads a file of `nir_exact`. `push` uploads a folder of `hub` to the Hugging Face Hub; `pull` downloads it.
`TARGETS` contains all targets by name, as ``qffs export`` uses them.
"""

from qffs.export.circuit.folder import BRIAN2, PYNN, brian2, pynn
from qffs.export.hub import HUB, hub, pull, push
from qffs.export.modules.snntorch import SNNTORCH, snntorch
from qffs.export.modules.spikingjelly import SPIKINGJELLY, spikingjelly
from qffs.export.nir.read import read_nir
from qffs.export.nir.write import NIR, NIR_EXACT, nir, nir_exact
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
