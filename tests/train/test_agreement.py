"""Agreement, and the warning of little of it."""

from __future__ import annotations

import warnings

import pytest
import torch

from qffs.errors import Inaccurate
from qffs.train.agreement import FEWEST, agreement, warn_of_little


def pair(count: int, others: int) -> tuple[tuple[torch.Tensor], tuple[torch.Tensor]]:
    """Outputs of three classes whose largest is another one in the first images."""
    targets = torch.eye(3).repeat(count, 1)[:count]
    outputs = targets.clone()
    outputs[:others] = targets[:others].roll(1, 1)
    return (outputs,), (targets,)


def test_the_agreement_is_a_share_of_images() -> None:
    assert agreement(*pair(10, 3)) == pytest.approx(0.7)


@pytest.mark.parametrize("shape", [(10,), (10, 1), (10, 3, 2)])
def test_other_outputs_have_no_largest(shape: tuple[int, ...]) -> None:
    outputs = (torch.rand(shape),)
    assert agreement(outputs, outputs) is None
    assert agreement(2 * pair(10, 0)[0], 2 * pair(10, 0)[1]) is None


def test_the_warning_says_how_many_and_what_to_do() -> None:
    with pytest.warns(
        Inaccurate, match=r"is another one .* for 12\.0 % of 100 held-out images: use more bits"
    ) as caught:
        warn_of_little(*pair(100, 12), "use more bits", stacklevel=1)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(("count", "others"), [(100, 10), (FEWEST - 1, FEWEST - 1)])
def test_no_warning_where_it_is_enough_or_too_few_images_tell(count: int, others: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_little(*pair(count, others), "use more bits", stacklevel=1)
