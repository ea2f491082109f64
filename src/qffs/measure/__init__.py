"""What networks do on images: accuracy by step, the four noises, and what an inference costs."""

from qffs.measure.batches import Normalise, check_fit, fitting
from qffs.measure.classified import Activity, Measurement, Stopping, accuracy, measure
from qffs.measure.costs import ADD_PJ, MULTIPLY_ADD_PJ, Cost, Energy, Synapses, Units, cost

__all__ = [
    "ADD_PJ",
    "MULTIPLY_ADD_PJ",
    "Activity",
    "Cost",
    "Energy",
    "Measurement",
    "Normalise",
    "Stopping",
    "Synapses",
    "Units",
    "accuracy",
    "check_fit",
    "cost",
    "fitting",
    "measure",
]
