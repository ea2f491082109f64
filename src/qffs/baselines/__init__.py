"""Other methods to a spiking network, each from any network that can be traced, on the same neurons and graphs.

A method is one file: what it trains with in the place of ReLUs, and how thresholds come from what it trained. Those of
direct training place neurons there, and train a network that spikes.
`METHODS` holds them by name.
"""

from qffs.baselines.balanced import RMP, SPIKE_NORM
from qffs.baselines.calibration import CALIBRATION
from qffs.baselines.diet import DIET
from qffs.baselines.dspike import DSPIKE
from qffs.baselines.method import Activation, Method, observed, over_time, placed, rates, started
from qffs.baselines.prepared import COS, SRP
from qffs.baselines.qcfs import QCFS
from qffs.baselines.quantised import AT_ONCE, FAST_SNN, MULTI_LEVEL, QFFS
from qffs.baselines.rnl import RNL
from qffs.baselines.sew import SEW
from qffs.baselines.tcl import TCL
from qffs.baselines.ts import TS

METHODS = {
    each.name: each
    for each in (
        *(QFFS, SPIKE_NORM, RMP, TCL, TS, RNL, CALIBRATION, QCFS, SRP, COS, FAST_SNN, AT_ONCE, MULTI_LEVEL),
        *(DIET, DSPIKE, SEW),
    )
}

__all__ = ["METHODS", "Activation", "Method", "observed", "over_time", "placed", "rates", "started"]
