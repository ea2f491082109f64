"""Advice: a sentence on a result that is no good, with the one thing to try next."""

from __future__ import annotations

from qffs.files import Results
from qffs.report.results import loss_of

AGREEMENT = 0.9
"""The least share of equal predictions, as in `qffs.train.agreement`, which warns in Python."""
CHANCE, ABOVE = 1.5, 0.05
"""A network knows nothing up to this multiple of a guess's accuracy, and not more than so much above it."""
FEW_BITS = 3
"""Up to so many bits, one more bit gains the most; above, training does."""


def of_quantization(results: Results, classes: int) -> str:
    """Return advice on results of `qffs.runs.quantize.quantize`; an empty text where there is none.

    classes: the number of classes of the data.

    >>> networks = [{"name": "full precision", "accuracy": 0.9}, {"name": "QANN", "accuracy": 0.8, "agreement": 0.85}]
    >>> results = {"networks": networks, "bits": 2, "reconstruction_steps": 0, "quantized": {"epochs": 0}}
    >>> of_quantization(results | {"labeled": True}, 10)
    'the quantized network loses 10.0 points and predicts another class for 15.0 % of the images: use --reconstruct'
    """
    full, qann = results["networks"][0], results["networks"][-1]
    if "accuracy" in full and full["accuracy"] <= min(CHANCE / classes, 1 / classes + ABOVE):
        return (
            f"in full precision the network is right for {100 * full['accuracy']:.1f} % of the images, as good as a "
            f"guess among {classes} classes: check that its weights are loaded, and that size, normalization and order "
            "of the classes are those that it was trained with"
        )
    lost = loss_of(full["accuracy"], qann["accuracy"]) if "accuracy" in full else 0.0
    if not lost and qann["agreement"] >= AGREEMENT:
        return ""
    loss = f"loses {100 * lost:.1f} points and " if lost else ""
    other = f"{100 * (1 - qann['agreement']):.1f} %"
    return f"the quantized network {loss}predicts another class for {other} of the images: {_next_step(results)}"


def _next_step(results: Results) -> str:
    """Return the one thing to try next."""
    bits = results["bits"]
    if results["quantized"]["epochs"]:
        return "train it for more epochs (quantized.epochs)"
    if not results["reconstruction_steps"]:
        return "use --reconstruct"
    if isinstance(bits, int) and bits <= FEW_BITS:
        return f"use bits={bits + 1}"
    return "train it with quantized.epochs=10" if results["labeled"] else "use more --images"
