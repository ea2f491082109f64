"""Seeds: random numbers depend only on the run's seed, stage, epoch and step, so that it can continue at any step."""

from __future__ import annotations

from hashlib import blake2b

from qffs.errors import InvalidArgument


def check_seed(seed: int) -> None:
    """Raise `InvalidArgument` unless a seed is from 0 to 2^63 - 1, as PyTorch's random number generators need."""
    if not 0 <= seed < 2**63:
        raise InvalidArgument(f"the seed must be from 0 to 2^63 - 1, not {seed}")


def seed_of(*key: int | str) -> int:
    """Return the seed, from 0 to 2^63 - 1, of a key, such as the run's seed, stage, epoch and step.

    >>> seed_of(0, "quantized", 3, 14) == seed_of(0, "quantized", 3, 14)
    True
    >>> seed_of(0, "quantized", 3, 14) == seed_of(0, "quantized", 31, 4)
    False
    """
    # The first runs spelled the stage so, and another text would give other random numbers, and other results.
    text = "/".join(map(str, key)).replace("quantize", "quantise").encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest()) >> 1
