"""The quantizer module: when it is ready, and what it refuses."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from qffs.errors import Diverged, InvalidArgument, NotCalibrated
from qffs.nn.quantizer import Quantizer


def test_unset_in_eval_mode() -> None:
    with pytest.raises(NotCalibrated, match=r"qffs\.calibrate"):
        Quantizer(3).eval()(torch.zeros(1, 2))


def test_the_first_batch_in_train_mode_sets_the_step_size_once() -> None:
    quantizer, x = Quantizer(3), torch.tensor([[1.0, -2.0, 3.0]])
    for scale in (1, 100):
        quantizer(scale * x)
        assert quantizer.step_size.item() == pytest.approx(2 * 2.0 / math.sqrt(3))


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


# A step size a channel


def test_the_first_batch_sets_each_channel_as_if_it_were_alone() -> None:
    """The equation by channel, bounded by the clip; a channel that saw only zeros gets 1, or the clip over n."""
    x = torch.tensor([0.1, 0.0, 50.0]).view(-1, 1, 1) * torch.randn(4, 3, 5, 5)
    for clip in (None, 1.5):
        quantizer = Quantizer(3, clip=clip, channels=3)
        assert not quantizer.ready
        quantizer(x)
        for channel, step_size in enumerate(quantizer.step_size.tolist()):
            alone = Quantizer(3, clip=clip)
            alone(x[:, channel])
            assert step_size == pytest.approx(alone.step_size.item(), rel=1e-6)
        assert quantizer.step_size[1] == (1 if clip is None else 0.5)


def test_one_unset_channel_is_not_ready() -> None:
    quantizer = Quantizer(3, channels=3)
    quantizer.step_size.data[:2] = 0.5
    assert not quantizer.ready
    quantizer.step_size.data[2] = 0.5
    assert quantizer.ready


def test_step_sizes_are_set_for_all_or_one_by_one() -> None:
    quantizer = Quantizer(3, channels=3)
    quantizer.set_step_size(0.5)
    assert quantizer.step_size.tolist() == [0.5, 0.5, 0.5]
    quantizer.set_step_size(torch.tensor([0.25, 0.5, 1.0]))
    assert quantizer.step_size.tolist() == [0.25, 0.5, 1.0]
    x = torch.full((1, 3, 2), 0.5)
    assert quantizer(x).tolist() == [[[0.5, 0.5], [0.5, 0.5], [1.0, 1.0]]]
    assert quantizer.level(x).tolist() == [[[2, 2], [1, 1], [1, 1]]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_one_impossible_channel_changes_nothing(bad: float) -> None:
    quantizer = Quantizer(3, channels=2)
    quantizer.set_step_size(0.5)
    with pytest.raises(Diverged, match=f"finite number above 0, not {bad}"):
        quantizer.set_step_size(torch.tensor([0.25, bad]))
    assert quantizer.step_size.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 1)])
def test_step_sizes_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument, match=r"step size has shape \[2\], not \["):
        Quantizer(3, channels=2).set_step_size(torch.ones(shape))
    with pytest.raises(InvalidArgument, match=r"step size has shape \[\], not \["):
        Quantizer(3).set_step_size(torch.ones(shape))


def test_values_of_one_channel_that_are_not_finite() -> None:
    with pytest.raises(Diverged, match="NaN or infinity"):
        Quantizer(3, channels=2)(torch.tensor([[1.0, math.nan]]))
