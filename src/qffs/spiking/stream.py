"""A stream: simulation one step at a time. Frames arrive one by one, and images stop early.

Memory is that of one step, however many there are. An image stops once its largest output is far enough above the
next, and does not wait for steps that will hardly change its class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from qffs.errors import InvalidArgument
from qffs.method import Schedule
from qffs.nn.inspect import without_autocast
from qffs.spiking.inputs import explain_failure
from qffs.spiking.operations import Operations
from qffs.spiking.step_by_step import State, advance


@dataclass(frozen=True)
class Moment:
    """A moment between two steps: steps taken, what has been read out so far ``[B, ...]``, and the network's state.

    ``readout`` is None before the first step.
    """

    steps: int
    readout: Tensor | None
    state: State


class Stopped(NamedTuple):
    """The read-out of each image when it stopped, ``[B, classes]``, and the steps it took: int64 ``[B]``."""

    readout: Tensor
    steps: Tensor


class Stream:
    """A spiking network run step by step; see `SpikingNetwork.stream`. It holds no state itself.

    >>> import qffs
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    >>> stream = qffs.to_spiking(qffs.calibrate(qffs.quantize(model, 2, example=x), [x])).stream()
    >>> moment = stream.begin(x)
    >>> for _ in range(4):
    ...     moment = stream.step(moment)
    >>> moment.steps, moment.readout.shape
    (4, torch.Size([2, 2]))
    """

    def __init__(self, operations: Operations, schedule: Schedule, initial_state: Callable[..., State]) -> None:
        self.operations, self.schedule, self._initial_state = operations, schedule, initial_state

    def begin(self, *inputs: Tensor) -> Moment:
        """Return the moment before the first step. Raises as `SpikingNetwork.initial_state` does."""
        return Moment(0, None, self._initial_state(*inputs))

    @torch.no_grad()
    @without_autocast()
    def step(self, moment: Moment, *frames: Tensor) -> Moment:
        """Return the next moment; the moment passed in is not changed, and can be continued from again.

        frames: new inputs of the same shapes, from this step on. Step t charges ``schedule.weights[t]`` times the input
        of its time, and nothing once the schedule is over. So the network settles on its output for the frames' mean by
        these weights, if the operators before its first neurons are linear.
        Raises as `SpikingNetwork.initial_state` does, and `InvalidArgument` where frames are of another shape.
        """
        state = moment.state
        if frames:
            shapes, before = ([tuple(x.shape) for x in each] for each in (frames, state.inputs))
            if shapes != before:
                raise InvalidArgument(f"frames must have the shapes of those before, {before}, not {shapes}")
            state = self._initial_state(*frames).after(state)
        weights = self.schedule.weights
        weight = weights[moment.steps] if moment.steps < len(weights) else 0.0
        increments, after = explain_failure(
            self.operations, state.inputs, partial(advance, self.operations, state, (weight,))
        )
        if not isinstance(increments, Tensor):
            raise InvalidArgument("a stream needs a network with one output")
        readout = increments[0] if moment.readout is None else moment.readout + increments[0]
        return Moment(moment.steps + 1, readout, after)

    def run(self, *inputs: Tensor, stop_when: float, longest: int) -> Stopped:
        """Run each image until its largest output is ``stop_when`` above the next, or for ``longest`` steps.

        Images that have stopped are not computed any more, where each is a row of every signal. One may stop before
        the schedule is over, on what has come of its input by then.
        Raises as `begin` does, and `InvalidArgument` unless the margin is a number above 0, ``longest`` at least the
        schedule's steps, and the output ``[B, classes]`` with two classes or more.
        """
        check_margin(stop_when)
        self.schedule.over(longest)
        moment, images = self.begin(*inputs), len(inputs[0])
        going, readout = torch.arange(images, device=inputs[0].device), torch.empty(0)
        steps = torch.zeros_like(going)
        while moment.steps < longest:
            moment = self.step(moment)
            now = moment.readout
            assert now is not None
            if now.dim() != 2:
                raise InvalidArgument(f"to stop by a margin takes outputs [B, classes], not {list(now.shape)}")
            stops = margins(now) >= stop_when
            if moment.steps == longest:
                stops = torch.ones_like(stops)
            if moment.steps == 1:
                readout = torch.empty_like(now)
            running = steps[going] == 0
            at = going[stops & running]
            readout[at], steps[at] = now[stops & running], moment.steps
            if self.operations.images_first and bool(stops.any()):
                going = going[~stops]
                moment = Moment(moment.steps, now[~stops], moment.state.of(~stops))
            if bool((steps > 0).all()):
                break
        return Stopped(readout, steps)


def margins(readout: Tensor) -> Tensor:
    """Return how far the largest output lies above the second largest, ``[...]`` of ``[..., classes]``.

    Raises `InvalidArgument` where there are not two classes.

    >>> margins(torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, 0.0]]))
    tensor([0.5000, 4.0000])
    """
    if readout.dim() < 2 or readout.shape[-1] < 2:
        raise InvalidArgument(f"to stop by a margin takes outputs [B, classes], not {list(readout.shape)}")
    largest = readout.topk(2, -1).values
    return largest[..., 0] - largest[..., 1]


def check_margin(margin: float) -> None:
    """Raise `InvalidArgument` unless a margin is a finite number above 0."""
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < float("inf"):
        raise InvalidArgument(f"stop_when must be a finite number above 0, not {margin!r}")
