"""Convert a PyTorch network into a fast spiking network, exactly.

    import qffs
    qann = qffs.quantize(model, bits=2, example=x)   # train it with any loop
    snn = qffs.to_spiking(qann)                      # snn(x, steps=8) returns the output after each step
    qffs.verify(qann, snn, x)                        # raises Mismatch, which names the first layer that differs

Each name is imported when it is first used, so that ``qffs --help`` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qffs import errors
from qffs.errors import (
    CheckpointError,
    DataError,
    Diverged,
    InvalidArgument,
    Mismatch,
    NotCalibrated,
    NotConvertible,
    NothingToQuantize,
    NotTraceable,
    QffsError,
    Stopped,
)
from qffs.version import __version__

if TYPE_CHECKING:
    from qffs import export
    from qffs.convert import plan, quantize, to_spiking
    from qffs.graph.plan import Plan
    from qffs.graph.rules import register
    from qffs.measurement.accuracy import measure
    from qffs.measurement.choose_bits import choose_bits
    from qffs.method import FiringRule, Levels
    from qffs.models.checkpoint import save
    from qffs.models.load import load
    from qffs.spiking.network import SpikingNetwork
    from qffs.train.calibrate import calibrate
    from qffs.train.reconstruct import reconstruct
    from qffs.verification import verify

_HOMES = {
    "FiringRule": "qffs.method",
    "Levels": "qffs.method",
    "Plan": "qffs.graph.plan",
    "SpikingNetwork": "qffs.spiking.network",
    "calibrate": "qffs.train.calibrate",
    "choose_bits": "qffs.measurement.choose_bits",
    "load": "qffs.models.load",
    "measure": "qffs.measurement.accuracy",
    "plan": "qffs.convert",
    "quantize": "qffs.convert",
    "reconstruct": "qffs.train.reconstruct",
    "register": "qffs.graph.rules",
    "save": "qffs.models.checkpoint",
    "to_spiking": "qffs.convert",
    "verify": "qffs.verification",
}

__all__ = [
    "CheckpointError",
    "DataError",
    "Diverged",
    "FiringRule",
    "InvalidArgument",
    "Levels",
    "Mismatch",
    "NotCalibrated",
    "NotConvertible",
    "NotTraceable",
    "NothingToQuantize",
    "Plan",
    "QffsError",
    "SpikingNetwork",
    "Stopped",
    "__version__",
    "calibrate",
    "choose_bits",
    "errors",
    "export",
    "load",
    "measure",
    "plan",
    "quantize",
    "reconstruct",
    "register",
    "save",
    "to_spiking",
    "verify",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in {"data", "export"}:
        return import_module(f"qffs.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
