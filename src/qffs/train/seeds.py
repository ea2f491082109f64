"""Seeds: what is random in training is a function of the seed and of the place, so that a run can go on anywhere."""

from __future__ import annotations

from hashlib import blake2b

from qffs.errors import InvalidArgument


def check_seed(seed: int) -> None:
    """Raise `InvalidArgument` on a seed that no generator of random numbers takes."""
    if not 0 <= seed < 2**63:
        raise InvalidArgument(f"the seed must be from 0 to 2^63 - 1, not {seed}")


def seed_of(*place: int | str) -> int:
    """A seed from 0 to 2^63 - 1 for a place, such as the run's seed, stage, epoch and step.

    >>> seed_of(0, "quantized", 3, 14) == seed_of(0, "quantized", 3, 14)
    True
    >>> seed_of(0, "quantized", 3, 14) == seed_of(0, "quantized", 31, 4)
    False
    """
    # The first runs spelled it so, and another text would give other random numbers, and other results.
    text = "/".join(map(str, place)).replace("quantize", "quantise").encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest()) >> 1
