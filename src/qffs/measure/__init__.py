"""What networks do on images: accuracy by step, the four noises, and what an inference costs."""

from qffs.measure.batches import Normalise, check_fit, fitting
from qffs.measure.classified import Activity, Measurement, Stopping, accuracy, measure

__all__ = [
    "Activity",
    "Measurement",
    "Normalise",
    "Stopping",
    "accuracy",
    "check_fit",
    "fitting",
    "measure",
]
