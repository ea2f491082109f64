"""The settings of the method: levels of a quantizer, charge schedule, firing rule. Frozen, and without torch."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

from qffs.errors import InvalidArgument

MAX_STEPS = 2**20
"""The most steps of a schedule or a run: both take memory for every step."""


@dataclass(frozen=True)
class Levels:
    """The levels 0, 1, ..., ``highest`` of a quantized activation.

    highest: n in ``Q(x) = s * clip(floor(x / s + offset), 0, n)``. It is also the most spikes, negative ones
    subtracted, that a neuron may have sent at any time (Z_max in eq. 20 of the paper). It can be any whole number from
    1; a number of bits b gives n = 2^b - 1 (`Levels.from_bits`). Raises `InvalidArgument` on anything else.

    >>> Levels(highest=5), Levels.from_bits(2)
    (Levels(highest=5), Levels(highest=3))
    """

    highest: int

    def __post_init__(self) -> None:
        if not isinstance(self.highest, int) or isinstance(self.highest, bool) or self.highest < 1:
            raise InvalidArgument(f"the highest level must be a whole number of at least 1, not {self.highest!r}")

    @classmethod
    def from_bits(cls, bits: int) -> Levels:
        """Return the levels of a number of bits: the highest level is ``2**bits - 1``.

        bits: a whole number from 1 to 8. Raises `InvalidArgument` on anything else.
        """
        if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 8:
            raise InvalidArgument(f"bits must be a whole number from 1 to 8, not {bits!r}")
        return cls(2**bits - 1)


FULL = "full"
"""The word that a user writes instead of bits, for an activation that stays in full precision."""

Choice = int | Mapping[str, int | str]
"""Bits or highest levels: one number for all activations, or numbers (or `FULL`) by pattern of their paths."""


def by_pattern(bits: Choice | None = None, levels: Choice | None = None) -> dict[str, Levels | None]:
    """Return levels by path pattern, None for full precision, from bits or from highest levels; by default, of 2 bits.

    Raises `InvalidArgument` on bits together with levels, on an impossible number, and on an empty mapping.

    >>> by_pattern({"stem": "full", "*": 2})
    {'stem': None, '*': Levels(highest=3)}
    """
    if bits is not None and levels is not None:
        raise InvalidArgument("give bits, or levels, but not both")
    name, value, read = ("bits", bits, Levels.from_bits) if levels is None else ("levels", levels, Levels)
    if not isinstance(value, Mapping):
        return {"*": read(2 if value is None else value)}
    if not value or not all(isinstance(pattern, str) for pattern in value):
        raise InvalidArgument(f'{name} by pattern must map at least one text, such as "*", to {name}, not be {value!r}')
    return {pattern: _levels_of(pattern, each, read) for pattern, each in value.items()}


def _levels_of(pattern: str, value: Any, read: Callable[[Any], Levels]) -> Levels | None:
    try:
        return None if isinstance(value, str) and value == FULL else read(value)
    except InvalidArgument as error:
        raise InvalidArgument(f'for {pattern!r}, {error}; "{FULL}" keeps it in full precision') from None


@dataclass(frozen=True)
class Schedule:
    """The charge schedule: the share of the analog input and of all biases that is injected at each of the first steps.

    weights: one number for each charge step; they add up to 1, and may be negative. At step t a constant x is injected
    as ``weights[t] * x``; after the last weight nothing is injected. Raises `InvalidArgument` on other weights.

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
        """Return the schedule with weight ``1 / steps`` at each of ``steps`` steps.

        Raises `InvalidArgument` unless steps is a whole number from 1 to 2^20.
        """
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise InvalidArgument(f"charge steps must be a whole number of at least 1, not {steps!r}")
        if steps > MAX_STEPS:
            raise InvalidArgument(f"there can be at most {MAX_STEPS:,} charge steps")
        return cls((1 / steps,) * steps)

    @classmethod
    def of(cls, charge_steps: int | Sequence[float]) -> Schedule:
        """Return the uniform schedule of a number of steps, or the schedule of a sequence of weights.

        Raises `InvalidArgument` on anything else.
        """
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
        """The number of steps of a run by default: 8, but at least 2 D, so that the network can settle."""
        return max(8, 2 * self.steps)

    def over(self, steps: int) -> tuple[float, ...]:
        """Return the weights of a run of ``steps`` steps, zero after step D.

        Raises `InvalidArgument` unless steps is a whole number from D to 2^20.
        """
        try:
            if isinstance(steps, bool):
                raise TypeError
            steps = operator.index(steps)
        except TypeError:
            raise InvalidArgument(f"the number of steps must be a whole number, not {steps!r}") from None
        if steps < self.steps:
            raise InvalidArgument(
                f"a run needs at least as many steps as the {self.steps} charge steps of its schedule, not {steps!r}"
            )
        if steps > MAX_STEPS:
            raise InvalidArgument(f"a run can have at most {MAX_STEPS:,} steps")
        return self.weights + (0.0,) * (steps - self.steps)


@dataclass(frozen=True)
class FiringRule:
    """The firing rule: what a neuron may do. `qffs.to_spiking` takes one for all neurons of a network.

    Each of the first three fields switches one remedy of section 4.4 of the paper on or off; all are on by default, and
    then the network is exact.

    negative_spikes: send a spike of -1, which takes a spike back, where the potential is below 0 and spikes were sent;
    cap: send no positive spike while the count, negative spikes subtracted, is the highest level n;
    precharge: the potential before the first step, in thresholds; None takes the rounding offset of the quantizer in
    the place of the neuron, so that the neuron rounds as the quantizer does.

    The other three fields belong to the methods that are compared with this one (`qffs.studies.methods`). reset: the
    effect of a spike on the potential: ``"subtract"`` the threshold, or set it to ``"zero"`` (hard reset); multi_spike:
    send as many spikes in one step as reach the level of all input so far; decay: the share of the potential that stays
    from one step to the next (1: no leak).

    Raises `InvalidArgument` on values that can never work. `qffs.functional.neuron.step` holds the equations.

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
        """True for one spike per step, which takes one threshold off the potential, without a leak."""
        return self.reset == "subtract" and not self.multi_spike and self.decay == 1


T = TypeVar("T")

SHOWN = 3
"""The most paths that a message names."""


def resolve(choices: Mapping[str, T], paths: Sequence[str]) -> dict[str, T]:
    """Return the choice of each path, in the order of ``paths``: the choice of the first pattern that matches the path.

    choices: by pattern, as `fnmatch.fnmatchcase` reads it (``*`` any characters, ``?`` one, ``[ab]`` one of these).
    Raises `InvalidArgument` where no pattern matches a path, and where a pattern decides nothing, because it matches no
    path, or only paths that earlier patterns match.

    >>> resolve({"layer4.*": 3, "*": 2}, ["stem.relu", "layer4.0.relu"])
    {'stem.relu': 2, 'layer4.0.relu': 3}
    """
    deciding = {path: next((pattern for pattern in choices if fnmatchcase(path, pattern)), None) for path in paths}
    for pattern in choices:
        if pattern not in deciding.values():
            raise InvalidArgument(_idle(pattern, deciding))
    unmatched = [path for path, pattern in deciding.items() if pattern is None]
    if unmatched:
        raise InvalidArgument(f'no pattern matches {_some(unmatched)}: end with "*", which matches all other paths')
    return {path: choices[pattern] for path, pattern in deciding.items() if pattern is not None}


def _idle(pattern: str, deciding: Mapping[str, str | None]) -> str:
    """Return why a pattern decides nothing, in a sentence."""
    matches = [path for path in deciding if fnmatchcase(path, pattern)]
    if matches:
        return f"{pattern!r} decides nothing: {deciding[matches[0]]!r} before it matches {_some(matches)}; put it first"
    near = get_close_matches(pattern, deciding, SHOWN) or list(deciding)
    return f"{pattern!r} matches no activation that is to be quantized; there are {_some(near)}"


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
