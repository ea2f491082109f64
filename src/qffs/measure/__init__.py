"""What networks do on images: accuracy by step, the four noises, and what an inference costs."""

from qffs.measure.accuracy import Measurement, Stopping, accuracy, measure
from qffs.measure.activity import Activity
from qffs.measure.batches import Normalise, check_fit, fitting
from qffs.measure.cost import cost
from qffs.measure.energy import ADD_PJ, MULTIPLY_ADD_PJ, Cost, Energy, Synapses, Units
from qffs.measure.noise import LayerNoise, Noise, Remedy, noise, without

__all__ = [
    "ADD_PJ",
    "MULTIPLY_ADD_PJ",
    "Activity",
    "Cost",
    "Energy",
    "LayerNoise",
    "Measurement",
    "Noise",
    "Normalise",
    "Remedy",
    "Stopping",
    "Synapses",
    "Units",
    "accuracy",
    "check_fit",
    "cost",
    "fitting",
    "measure",
    "noise",
    "without",
]
