"""Levels, schedules and firing rules refuse impossible values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qffs.errors import InvalidArgument
from qffs.method import FiringRule, Levels, Schedule


@given(st.integers(1, 8))
def test_bits(bits: int) -> None:
    assert Levels.from_bits(bits).highest == 2**bits - 1


@pytest.mark.parametrize("bad", [0, 9, True, 2.0, "2", None])
def test_impossible_bits(bad: object) -> None:
    with pytest.raises(InvalidArgument, match="bits"):
        Levels.from_bits(bad)  # type: ignore[arg-type]


@given(st.integers(1, 64), st.integers(0, 64))
def test_uniform(steps: int, more: int) -> None:
    weights = Schedule.of(steps).over(steps + more)
    assert len(weights) == steps + more
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12)
    assert weights[steps:] == (0.0,) * more


def test_weights_by_step() -> None:
    assert Schedule.of([0.5, 0.25, 0.25]).over(4) == (0.5, 0.25, 0.25, 0.0)
    assert Schedule.of((1.5, -0.5)).steps == 2


@pytest.mark.parametrize(
    "bad",
    [0, -1, [], [0.5], [0.5, math.nan], [math.inf, -math.inf], True, 2.5, "3", "1", b"\x01", [10**400], None],
)
def test_impossible_schedules(bad: object) -> None:
    with pytest.raises(InvalidArgument):
        Schedule.of(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [8.0, "8", True])
def test_steps_that_are_no_whole_number(bad: object) -> None:
    with pytest.raises(InvalidArgument, match="must be a whole number"):
        Schedule.uniform(3).over(bad)  # type: ignore[arg-type]


def test_whole_numbers_of_other_libraries_are_steps() -> None:
    assert (
        Schedule.uniform(3).over(np.int64(4)) == Schedule.uniform(3).over(torch.tensor(4)) == (1 / 3, 1 / 3, 1 / 3, 0)
    )  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="must be a whole number"):
        Schedule.uniform(3).over(np.float32(4))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [2, 0, -3])
def test_too_few_steps(bad: object) -> None:
    with pytest.raises(InvalidArgument, match="at least as many steps as the 3 charge steps"):
        Schedule.uniform(3).over(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [2**20 + 1, 10**9, 10**30, 10**5000], ids=["limit", "9", "30", "5000"])
def test_more_steps_than_anybody_waits_for_are_refused_before_they_take_memory(steps: int) -> None:
    for run in (Schedule.uniform, Schedule.of, Schedule.uniform(3).over):
        with pytest.raises(InvalidArgument, match="at most 1,048,576"):
            run(steps)


def test_the_longest_schedule() -> None:
    assert Schedule.uniform(2**20).over(2**20)[-1] == 2**-20


@pytest.mark.parametrize("bad", [math.nan, -math.inf, "x", [0.5], 10**400], ids=["nan", "inf", "text", "list", "huge"])
def test_impossible_precharge(bad: object) -> None:
    with pytest.raises(InvalidArgument, match="pre-charge"):
        FiringRule(precharge=bad)  # type: ignore[arg-type]
