"""The quantiser module: when it is ready, and what it refuses."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from qffs.errors import Diverged, InvalidArgument, NotCalibrated
from qffs.functional.lsq import first_step_size
from qffs.nn.quantizer import Quantizer


def test_unset_in_eval_mode() -> None:
    with pytest.raises(NotCalibrated, match=r"qffs\.calibrate"):
        Quantizer(3).eval()(torch.zeros(1, 2))


def test_the_first_batch_in_train_mode_sets_the_step_size_once() -> None:
    quantizer, x = Quantizer(3), torch.tensor([[1.0, -2.0, 3.0]])
    quantizer(x)
    assert quantizer.step_size.item() == pytest.approx(first_step_size(2.0, 3))
    quantizer(100 * x)
    assert quantizer.step_size.item() == pytest.approx(first_step_size(2.0, 3))


def test_readiness_follows_the_weights() -> None:
    """Loading, copying and setting in place are seen, although readiness is cached."""
    unset, ready = Quantizer(3), Quantizer(3)
    ready.set_step_size(0.5)
    assert not unset.ready
    assert ready.ready
    assert copy.deepcopy(ready).ready
    ready.load_state_dict(unset.state_dict())
    assert not ready.ready
    unset.step_size.data.fill_(0.25)
    assert unset.ready


def test_an_image_of_zeros_gives_a_usable_step_size() -> None:
    quantizer = Quantizer(3)
    quantizer.set_step_size_from(0.0)
    assert quantizer.step_size == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_impossible_step_sizes(bad: float) -> None:
    with pytest.raises(Diverged, match="finite number above 0"):
        Quantizer(3).set_step_size(bad)


def test_values_that_are_not_finite() -> None:
    with pytest.raises(Diverged, match="NaN or infinity"):
        Quantizer(3)(torch.tensor([[math.nan]]))


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_impossible_levels(bad: object) -> None:
    with pytest.raises(InvalidArgument, match="highest level"):
        Quantizer(bad)  # type: ignore[arg-type]
