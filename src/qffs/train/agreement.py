"""The agreement of two networks: on how many images the largest of their outputs is the same one."""

from __future__ import annotations

import warnings

from torch import Tensor

from qffs.errors import Inaccurate
from qffs.train.values import Values

LEAST = 0.9
"""The share of images from which on a quantized network is good enough."""
FEWEST = 50
"""The images that it takes to tell."""


def agreement(outputs: Values, targets: Values) -> float | None:
    """Return the share of images on which the largest of the K outputs is the same one, from 0 to 1.

    It is None where there are several outputs, or one that is not ``[B, K]``.

    >>> y, t = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [4.0, 3.0]])
    >>> agreement((y,), (t,))
    0.5
    """
    if len(outputs) != 1 or outputs[0].dim() != 2 or outputs[0].shape[1] < 2:
        return None
    same: Tensor = outputs[0].argmax(1) == targets[0].argmax(1)
    return float(same.double().mean())


def warn_of_little(outputs: Values, targets: Values, remedy: str, stacklevel: int) -> None:
    """Warn with `qffs.errors.Inaccurate` where enough images tell that the agreement is less than `LEAST`.

    remedy: the one thing to try next, in words; stacklevel: 1 for the function that calls this one.
    """
    share = agreement(outputs, targets)
    if share is not None and len(targets[0]) >= FEWEST and share < LEAST:
        others = f"{100 * (1 - share):.1f} % of {len(targets[0])} held-out images"
        warnings.warn(
            f"the largest output of the quantized network is another one than in full precision for {others}: {remedy}",
            Inaccurate,
            stacklevel=stacklevel + 1,
        )
