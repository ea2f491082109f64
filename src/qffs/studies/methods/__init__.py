"""Other methods to make a spiking network from any network that can be traced, with the same neurons and graphs.

A method is one file: the activation that it trains in the place of ReLUs, and the thresholds that follow from it.
Methods of direct training place neurons there and train a network that spikes. `METHODS` holds all methods by name.
"""

from qffs.studies.methods.diet_snn import DIET
from qffs.studies.methods.dspike import DSPIKE
from qffs.studies.methods.method import Activation, Method, observed, over_time, placed, rates, started
from qffs.studies.methods.qcfs import QCFS
from qffs.studies.methods.quantized import AT_ONCE, FAST_SNN, MULTI_LEVEL, QFFS, RECONSTRUCTED
from qffs.studies.methods.rnl import RNL
from qffs.studies.methods.sew import SEW
from qffs.studies.methods.snn_calibration import CALIBRATION
from qffs.studies.methods.spike_norm import RMP, SPIKE_NORM
from qffs.studies.methods.srp_cos import COS, SRP
from qffs.studies.methods.tcl import TCL
from qffs.studies.methods.threshold_shift import TS

METHODS = {
    each.name: each
    for each in (
        *(
            QFFS,
            RECONSTRUCTED,
            SPIKE_NORM,
            RMP,
            TCL,
            TS,
            RNL,
            CALIBRATION,
            QCFS,
            SRP,
            COS,
            FAST_SNN,
            AT_ONCE,
            MULTI_LEVEL,
        ),
        *(DIET, DSPIKE, SEW),
    )
}

__all__ = ["METHODS", "Activation", "Method", "observed", "over_time", "placed", "rates", "started"]
