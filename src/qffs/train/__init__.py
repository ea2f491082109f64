"""Training, in full precision or with quantised activations: the same loop, because a QANN is an ordinary module."""

from qffs.train.loop import Epoch, Setting, fit
from qffs.train.seeds import check_seed
from qffs.train.state import Interruption, RunState

__all__ = ["Epoch", "Interruption", "RunState", "Setting", "check_seed", "fit"]
