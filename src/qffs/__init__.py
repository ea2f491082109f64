"""Quantised networks into fast spiking networks, exactly.

    import qffs
    qann = qffs.quantize(model, bits=2, output="analog", example=x)   # train it with any loop
    snn = qffs.to_spiking(qann)                                       # snn(x, steps=8): read-out by step
    qffs.verify(qann, snn, x)                                         # raises, naming the first layer that differs

Names are imported when they are first used, so that ``qffs --help`` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qffs.version import __version__

if TYPE_CHECKING:
    from qffs import export
    from qffs.checkpoint import load, save
    from qffs.convert import calibrate, plan, quantize, to_spiking
    from qffs.errors import QffsError
    from qffs.graph.rules import register
    from qffs.method import FiringRule
    from qffs.verify import verify

_HOMES = {
    "FiringRule": "qffs.method",
    "QffsError": "qffs.errors",
    "calibrate": "qffs.convert",
    "load": "qffs.checkpoint",
    "plan": "qffs.convert",
    "quantize": "qffs.convert",
    "register": "qffs.graph.rules",
    "save": "qffs.checkpoint",
    "to_spiking": "qffs.convert",
    "verify": "qffs.convert",
}

__all__ = [
    "FiringRule",
    "QffsError",
    "__version__",
    "calibrate",
    "export",
    "load",
    "plan",
    "quantize",
    "register",
    "save",
    "to_spiking",
    "verify",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name == "export":
        return import_module("qffs.export")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
