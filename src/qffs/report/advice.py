"""Advice: a sentence on a result that is no good, with the one thing to try next."""

from __future__ import annotations

from qffs.files import Results
from qffs.report.results import LOST

AGREEMENT = 0.9
"""The least share of equal predictions."""
CHANCE = 1.5
"""The accuracy up to which a network knows nothing, as a multiple of that of a guess."""


def of_quantization(results: Results, classes: int) -> str:
    """Return advice on results of `qffs.runs.quantize.quantize`; an empty text where there is none.

    classes: the number of classes of the data.

    >>> networks = [{"name": "full precision", "accuracy": 0.9}, {"name": "QANN", "accuracy": 0.8, "agreement": 0.85}]
    >>> of_quantization({"networks": networks, "bits": 2, "reconstruction_steps": 0}, 10)
    'the quantized network loses 10.0 points and predicts the same class for 85.0 % of the images: use --reconstruct'
    """
    full, qann = results["networks"][0], results["networks"][-1]
    if "accuracy" in full and full["accuracy"] <= CHANCE / classes:
        return (
            f"in full precision the network is right for {100 * full['accuracy']:.1f} % of the images, as good as a "
            f"guess among {classes} classes: check that its weights are loaded, and that size, normalization and order "
            "of the classes are those that it was trained with"
        )
    lost = full["accuracy"] - qann["accuracy"] if "accuracy" in full else 0.0
    if lost <= LOST and qann["agreement"] >= AGREEMENT:
        return ""
    if results["reconstruction_steps"]:
        bits = results["bits"]
        more = f"bits={bits + 1}" if isinstance(bits, int) and bits < 8 else "more bits in some layers"
        step = f"use {more}, more --images, or train it with quantized.epochs=10"
    else:
        step = "use --reconstruct"
    loss = f"loses {100 * lost:.1f} points and " if lost > LOST else ""
    same = f"{100 * qann['agreement']:.1f} %"
    return f"the quantized network {loss}predicts the same class for {same} of the images: {step}"
