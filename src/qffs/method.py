"""The numbers of the method: levels of a quantizer, charge schedule, firing rule. Frozen, and free of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

from qffs.errors import InvalidArgument

MAX_STEPS = 2**20
"""More steps than anybody waits for: a schedule and a run take memory for each."""


@dataclass(frozen=True)
class Levels:
    """The levels 0, 1, ..., ``highest`` of a quantized activation.

    ``highest`` is n in ``Q(x) = s * clip(floor(x / s + 1/2), 0, n)`` and the largest number of spikes a
    neuron may have sent, on balance, at any time (the paper's Z_max, eq. 20).

    >>> Levels.from_bits(2)
    Levels(highest=3)
    """

    highest: int

    def __post_init__(self) -> None:
        if not isinstance(self.highest, int) or isinstance(self.highest, bool) or self.highest < 1:
            raise InvalidArgument(f"the highest level must be a whole number of at least 1, not {self.highest!r}")

    @classmethod
    def from_bits(cls, bits: int) -> Levels:
        """``2**bits - 1`` as the highest level; raises `InvalidArgument` unless bits is a whole number in 1..8."""
        if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 8:
            raise InvalidArgument(f"bits must be a whole number from 1 to 8, not {bits!r}")
        return cls(2**bits - 1)


FULL = "full"
"""What a user writes instead of bits where an activation stays in full precision."""

Choice = int | Mapping[str, int | str]
"""Bits, or highest levels, as a user gives them: one number for all activations, or numbers (or `FULL`) by pattern."""


def by_pattern(bits: Choice | None = None, levels: Choice | None = None) -> dict[str, Levels | None]:
    """Levels by name pattern, None for full precision, from bits or from highest levels; without either, 2 bits.

    Raises `InvalidArgument` where both are given, a number is impossible, or a mapping is empty.

    >>> by_pattern({"stem": "full", "*": 2})
    {'stem': None, '*': Levels(highest=3)}
    """
    if bits is not None and levels is not None:
        raise InvalidArgument("give bits, or levels, but not both")
    name, given, read = ("bits", bits, Levels.from_bits) if levels is None else ("levels", levels, Levels)
    if not isinstance(given, Mapping):
        return {"*": read(2 if given is None else given)}
    if not given or not all(isinstance(pattern, str) for pattern in given):
        raise InvalidArgument(f'{name} by pattern must map at least one text, such as "*", to {name}, not be {given!r}')
    return {pattern: _levels_of(pattern, value, read) for pattern, value in given.items()}


def _levels_of(pattern: str, value: Any, read: Callable[[Any], Levels]) -> Levels | None:
    try:
        return None if isinstance(value, str) and value == FULL else read(value)
    except InvalidArgument as error:
        raise InvalidArgument(f'for {pattern!r}, {error}; "{FULL}" keeps it in full precision') from None


@dataclass(frozen=True)
class Schedule:
    """How the analog input and all biases are spread over the first steps: one weight a step, adding up to 1.

    At step t a constant current x is injected as ``weights[t] * x``; after the last weight it is off. A weight may be
    negative.

    >>> Schedule.uniform(4).weights
    (0.25, 0.25, 0.25, 0.25)
    >>> Schedule((0.5, 0.25, 0.25)).over(5)
    (0.5, 0.25, 0.25, 0.0, 0.0)
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.weights or not all(math.isfinite(weight) for weight in self.weights):
            raise InvalidArgument(f"charge weights must be a non-empty sequence of finite numbers, not {self.weights}")
        total = math.fsum(self.weights)
        if abs(total - 1) > 1e-9:
            raise InvalidArgument(f"charge weights must add up to 1, but {self.weights} add up to {total}")

    @classmethod
    def uniform(cls, steps: int) -> Schedule:
        """Weight ``1 / steps`` at each of the first ``steps`` steps."""
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise InvalidArgument(f"charge steps must be a whole number of at least 1, not {steps!r}")
        if steps > MAX_STEPS:
            raise InvalidArgument(f"there can be at most {MAX_STEPS:,} charge steps")
        return cls((1 / steps,) * steps)

    @classmethod
    def of(cls, charge_steps: int | Sequence[float]) -> Schedule:
        """A uniform schedule from a number of steps, or the given weights by step."""
        if isinstance(charge_steps, int):
            return cls.uniform(charge_steps)
        try:
            if isinstance(charge_steps, str | bytes):
                raise TypeError("a text is no sequence of weights")
            weights = tuple(float(weight) for weight in charge_steps)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidArgument(f"charge steps must be a number of steps or weights, not {charge_steps!r}") from error
        return cls(weights)

    @property
    def steps(self) -> int:
        """The number of charge steps D."""
        return len(self.weights)

    @property
    def usual_steps(self) -> int:
        """How many steps a run takes where nobody says: 8, and at least 2 D, for the network to settle."""
        return max(8, 2 * self.steps)

    def over(self, steps: int) -> tuple[float, ...]:
        """The weights of a run of ``steps`` steps, zero after step D; `InvalidArgument` if steps < D or > 2^20."""
        if not isinstance(steps, int) or isinstance(steps, bool):
            raise InvalidArgument(f"the number of steps must be a whole number, not {steps!r}")
        if steps < self.steps:
            raise InvalidArgument(
                f"a run needs at least as many steps as the {self.steps} charge steps of its schedule, not {steps!r}"
            )
        if steps > MAX_STEPS:
            raise InvalidArgument(f"a run can have at most {MAX_STEPS:,} steps")
        return self.weights + (0.0,) * (steps - self.steps)


@dataclass(frozen=True)
class FiringRule:
    """What a neuron may do; each of the first three fields switches one remedy of the paper's section 4.4 on or off.

    ``negative_spikes``: take a spike back when the potential is below 0 and spikes were sent;
    ``cap``: never send more spikes, on balance, than the highest level;
    ``precharge``: the potential before the first step, in units of the threshold; None takes the rounding offset of the
    quantizer that the neuron stands for, which is what makes the neuron round as the quantizer does.

    Three more fields are other methods' (`qffs.studies.methods`). ``reset``: what a spike does to the potential,
    ``"subtract"`` the threshold from it or set it to ``"zero"`` (hard reset); ``multi_spike``: whether a neuron sends
    as many spikes in one step as take it to the level of all that has arrived; ``decay``: the share of the potential
    that stays from one step to the next (1: no leak). Raises `InvalidArgument` on values that can never work.

    >>> FiringRule(cap=False).is_standard, FiringRule(decay=0.5).is_standard
    (True, False)
    """

    negative_spikes: bool = True
    cap: bool = True
    precharge: float | None = None
    reset: Literal["subtract", "zero"] = "subtract"
    multi_spike: bool = False
    decay: float = 1.0

    def __post_init__(self) -> None:
        if self.reset not in ("subtract", "zero"):
            raise InvalidArgument(f'reset must be "subtract" or "zero", not {self.reset!r}')
        if self.reset == "zero" and (self.negative_spikes or self.multi_spike):
            raise InvalidArgument("a spike that sets the potential to zero can be neither negative nor one of several")
        try:
            finite = self.precharge is None or math.isfinite(self.precharge)
        except (TypeError, OverflowError):
            finite = False
        if not finite:
            raise InvalidArgument(f"the pre-charge must be a finite number, not {self.precharge!r}")
        if not isinstance(self.decay, int | float) or not 0 <= self.decay < math.inf:
            raise InvalidArgument(f"the decay must be a number of at least 0, not {self.decay!r}")

    @property
    def is_standard(self) -> bool:
        """Whether a spike takes one threshold off the potential, one spike a step, and nothing else is lost."""
        return self.reset == "subtract" and not self.multi_spike and self.decay == 1


T = TypeVar("T")

SHOWN = 3
"""How many paths a message names."""


def resolve(choices: Mapping[str, T], paths: Sequence[str]) -> dict[str, T]:
    """The choice for each path, in the order of ``paths``: that of the first pattern that matches it.

    choices: by pattern, as `fnmatch.fnmatchcase` reads it (``*`` any characters, ``?`` one, ``[ab]`` one of these).
    Raises `InvalidArgument` where a pattern decides nothing, because it matches no path or only what patterns before it
    took, and where no pattern matches a path.

    >>> resolve({"layer4.*": 3, "*": 2}, ["stem.relu", "layer4.0.relu"])
    {'stem.relu': 2, 'layer4.0.relu': 3}
    """
    deciding = {path: next((pattern for pattern in choices if fnmatchcase(path, pattern)), None) for path in paths}
    for pattern in choices:
        if pattern not in deciding.values():
            raise InvalidArgument(_idle(pattern, deciding))
    left = [path for path, pattern in deciding.items() if pattern is None]
    if left:
        raise InvalidArgument(f'no pattern matches {_some(left)}: end with "*", which matches all that is left')
    return {path: choices[pattern] for path, pattern in deciding.items() if pattern is not None}


def _idle(pattern: str, deciding: Mapping[str, str | None]) -> str:
    """Why a pattern decides nothing, in a sentence."""
    taken = [path for path in deciding if fnmatchcase(path, pattern)]
    if taken:
        return f"{pattern!r} decides nothing: {deciding[taken[0]]!r} before it matches {_some(taken)}; put it first"
    near = get_close_matches(pattern, deciding, SHOWN) or list(deciding)
    return f"{pattern!r} matches no activation that is to be quantized; there are {_some(near)}"


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
