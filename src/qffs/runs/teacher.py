"""The teacher of a run: the network that a recipe names, whose logits quantized training distills."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from qffs.data import Images
from qffs.errors import InvalidArgument
from qffs.measurement.batches import check_fit
from qffs.models import MODELS
from qffs.models.libraries import LIBRARIES
from qffs.nn.inspect import empty_like
from qffs.recipes.recipe import Recipe

Case = tuple[Images, Callable[[torch.Tensor], torch.Tensor], str]
"""Images, the function from them to a network's input, and words about them after the name of a network."""


def prepare(
    teacher: nn.Module, recipe: Recipe, student: nn.Module, cases: Sequence[Case], classes: int, outputs: int
) -> None:
    """Put the teacher that a recipe names in eval mode, in the type and on the device of the student, and check it.

    cases: what it has to take. outputs: the number that the student has. Raises `InvalidArgument` if its weights would
    be random, if it does not take one of the cases, or if it has another number of outputs.
    """
    name, weights = recipe.teacher or "", recipe.teacher_weights
    if weights is None and (name in MODELS or name.partition(":")[0] in LIBRARIES):
        raise InvalidArgument(f"the teacher {name} has random weights: name trained ones with teacher_weights")
    like = empty_like(student)
    teacher.to(like.device, like.dtype).eval()
    if recipe.channels_last:
        teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for images, normalize, words in cases:
        present = check_fit(teacher, images, normalize, classes=classes, name=f"the teacher {name}{words}")
        if present != outputs:
            raise InvalidArgument(
                f"the teacher {name} returns {present} numbers per image, but the network to train {outputs}"
            )
