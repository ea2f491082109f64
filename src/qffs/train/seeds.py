"""Seeds: random numbers depend only on the run's seed, stage, epoch and step, so that it can continue at any step."""

from __future__ import annotations

from hashlib import blake2b

import torch

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


def seed_generators(seed: int, device: torch.device) -> None:
    """Set the seed of torch's random number generators on the CPU and on a device, as `torch.manual_seed` does.

    On the CPU this takes microseconds. `torch.manual_seed` takes a hundred times as long, because for every kind of
    device that is not used it also keeps the stack of the call.

    >>> seed_generators(0, torch.device("cpu"))
    >>> first = torch.rand(3)
    >>> _ = torch.manual_seed(0)
    >>> torch.equal(torch.rand(3), first)
    True
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
