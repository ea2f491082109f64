"""The loop over epochs and batches; a step depends only on the seed and its number, so it can continue anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from signal import Signals
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qffs.data import Images, batches
from qffs.data.augment import Augmentation, smaller
from qffs.errors import Diverged, InvalidArgument, Stopped
from qffs.nn.quantizer import Quantizer, fuse
from qffs.progress import Bar, track
from qffs.recipes.recipe import Training
from qffs.train import distributed
from qffs.train.loss import loss_of, recorded, wrong_levels
from qffs.train.optimize import Average, few_steps, optimizer_of, rate
from qffs.train.seeds import check_seed, seed_generators, seed_of
from qffs.train.state import Interruption, RunState


@dataclass(frozen=True)
class Epoch:
    """An epoch: ``loss`` and ``accuracy`` on the augmented training images, and ``held_out`` accuracy if measured."""

    number: int
    loss: float
    accuracy: float
    held_out: float | None = None


@dataclass(frozen=True)
class Setting:
    """The setting of a training beside its section of the recipe; ``label`` names it in bars, messages and seeds.

    ``teacher``: the network whose logits are distilled. ``output``: the quantizer of an output that spikes. ``fused``:
    train through compiled kernels. ``state``: the file of the run's state. ``interruption``: the signals that may stop
    the training. ``extra_state``: returns more entries of the state. ``penalty``: returns a term of the loss.
    ``resume_hint``: the words before the state's path in the message of `Stopped`.
    """

    label: str = "training"
    precision: Literal["float32", "bfloat16"] = "float32"
    augmentation: Augmentation | None = None
    teacher: nn.Module | None = None
    output: Quantizer | None = None
    fused: bool = False
    seed: int = 0
    workers: int = 0
    progress: bool = True
    state: RunState | None = None
    interruption: Interruption = field(default_factory=Interruption)
    extra_state: Callable[[], dict[str, Any]] = dict
    penalty: Callable[[], Tensor] | None = None
    resume_hint: str = "--resume continues from"


AfterEpoch = Callable[[Epoch], float | None]


def fit(
    network: nn.Module,
    images: Images,
    normalize: Callable[[Tensor], Tensor],
    training: Training,
    setting: Setting | None = None,
    *,
    after_epoch: AfterEpoch | None = None,
    resume: dict[str, Any] | None = None,
) -> list[Epoch]:
    """Train ``network`` in place on its device, leave it in eval mode, and return the results of each epoch.

    normalize: the function from uint8 images ``[B, C, H, W]`` to the network's input. after_epoch: called after each
    epoch, with averaged weights in the network if there are any, for example to save a checkpoint; returns the accuracy
    on held-out images, or None. resume: a state of a run with the same arguments, from which training continues to the
    same weights. The same seed, machine and number of threads give the same weights, bit for bit.

    Raises `Diverged` for NaN or infinity in a loss, before the weights change, or in a weight after an epoch, before
    ``after_epoch``, so that the last checkpoint is good; `Stopped` between two steps, when the state is saved;
    and `CheckpointError` for a damaged state.
    """
    if not training.epochs:
        network.eval()
        return []
    loop = _Loop(network, images, normalize, training, setting or Setting())
    if resume is not None:
        loop.restore(resume)
    with _training(network, loop.setting.fused), distributed.synchronized(network):
        loop.run(after_epoch or (lambda _: None))
    if loop.average is not None:
        loop.average.exchange()
    network.eval()
    return loop.history


@contextmanager
def _training(network: nn.Module, fused: bool) -> Iterator[None]:
    network.train()
    fuse(network, fused)
    try:
        yield
    finally:
        fuse(network, False)


class _Loop:
    """A training in progress, which `state` returns as plain data and `restore` continues."""

    def __init__(
        self,
        network: nn.Module,
        images: Images,
        normalize: Callable[[Tensor], Tensor],
        training: Training,
        setting: Setting,
    ) -> None:
        check_seed(setting.seed)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise InvalidArgument(
                f"{setting.label}: no parameter of the network requires a gradient: set its epochs to 0"
            )
        if min(training.batch_size, len(images)) < distributed.world():
            raise InvalidArgument(
                f"a batch of {min(training.batch_size, len(images))} cannot be shared by {distributed.world()} "
                "processes: raise batch_size, or start fewer processes"
            )
        self.network, self.images, self.normalize = network, images, normalize
        self.training, self.setting = training, setting
        self.device = next(network.parameters()).device
        self.optimizer = optimizer_of(network, training)
        self.average = Average(network, training.ema) if training.ema else None
        # Names of the tensors that must stay finite; others, such as a mask, may hold infinities from the beginning.
        self.finite = {name for name, tensor in network.state_dict().items() if bool(torch.isfinite(tensor).all())}
        self.history: list[Epoch] = []
        self.step = 0  # within the epoch
        self.sums = [0.0, 0.0]  # of losses and of correctly classified images in this epoch so far
        # The last batch is left out if it has fewer images than there are processes, or one, which has no variance.
        groups = math.ceil(len(images) / training.batch_size)
        last = len(images) % training.batch_size
        self.steps = groups - (groups > 1 and 0 < last < max(2, distributed.world()))

    def state(self) -> dict[str, Any]:
        """Return the state from which the training continues, as tensors and plain data."""
        return {
            **self.setting.extra_state(),
            "stage": self.setting.label,
            "history": [asdict(epoch) for epoch in self.history],
            "step": self.step,
            "sums": self.sums,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.tensors if self.average else [],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state` returned; raises `CheckpointError` where it does not fit."""
        from qffs.train.saved import load  # imported here because most trainings do not continue one

        load(state, self.network, self.optimizer, self.average, self.training, len(self.images))
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.step, self.sums = state["step"], list(state["sums"])

    def run(self, after_epoch: AfterEpoch) -> None:
        """Train the remaining epochs."""
        epochs, label = self.training.epochs, self.setting.label
        model = distributed.parallel(self.network)
        done = len(self.history) * len(self.images) + min(self.step * self.training.batch_size, len(self.images))
        total, shown = epochs * len(self.images), self.setting.progress and len(self.history) < epochs
        with track(label, total, "images", show=shown) as bar:
            bar.advance(done)
            if few := few_steps(len(self.images), self.training.batch_size):
                bar.say(few)
            for number in range(len(self.history) + 1, epochs + 1):
                with self.setting.interruption.deferred():
                    self._epoch(model, number, bar)
                    self._save(number)
                self.history.append(self._measured(number, after_epoch, bar))
                self.step, self.sums = 0, [0.0, 0.0]

    def _epoch(self, model: nn.Module, number: int, bar: Bar) -> None:
        for x, labels, part, count in self._batches(number):
            losses, hits = self._train(model, x.to(self.device), labels.to(self.device), part, count, number)
            self.step += 1
            self.sums = [self.sums[0] + losses, self.sums[1] + hits]
            bar.advance(count, f"epoch {number}/{self.training.epochs} loss {losses / count:.3f}")
            self._pause(number)

    def _batches(self, number: int) -> Iterator[tuple[Tensor, Tensor, slice, int]]:
        """Yield this process's images and labels of each remaining batch, their slice of it, and its whole size."""
        generator = torch.Generator().manual_seed(seed_of(self.setting.seed, self.setting.label, number))
        order = torch.randperm(len(self.images), generator=generator)
        groups = order.split(self.training.batch_size)[self.step : self.steps]
        parts = [part_of(len(group)) for group in groups]
        numbers = [group[part] for group, part in zip(groups, parts, strict=True)]
        read = batches(self.images, numbers, self.setting.workers)
        for (x, labels), part, group in zip(read, parts, groups, strict=True):
            yield x, labels, part, len(group)

    def _train(
        self, model: nn.Module, x: Tensor, labels: Tensor, part: slice, count: int, number: int
    ) -> tuple[float, float]:
        """Train one step; return the sum of the losses and the number of correct images, over all processes."""
        setting, training = self.setting, self.training
        done = (number - 1) * self.steps + self.step
        key = setting.seed, setting.label, number, self.step
        seed_generators(seed_of(*key), self.device)
        if setting.augmentation is not None:
            x = setting.augmentation(x, count, part)
        if distributed.world() > 1:  # dropout should drop other units in each process
            seed_generators(seed_of(*key, distributed.rank()), self.device)
        x = self.normalize(x)
        if number <= round(training.small_share * training.epochs):
            x = smaller(x)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=setting.precision == "bfloat16"):
            with recorded(setting.output) as charge:
                logits = model(x)
            loss = loss_of(logits, labels, training, self._teacher_logits(x))
            if setting.output is not None and training.level_penalty:
                loss = loss + training.level_penalty * wrong_levels(charge[0], labels, setting.output)
            loss = loss if setting.penalty is None else loss + setting.penalty()
        hits = (logits.argmax(-1) == labels).sum()
        losses, correct = distributed.total(torch.stack([loss.detach() * len(x), hits]).double()).tolist()
        if not math.isfinite(losses):
            raise Diverged(self._diverged(f"the loss became {losses / count}", number))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate(training, done, self.steps)
        self.optimizer.zero_grad()
        # DDP takes the mean over processes, which has to be the mean over all images, even if shares are not equal.
        (loss * (len(x) * distributed.world() / count)).backward()
        if training.clip_gradient is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), training.clip_gradient)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(done)
        return losses, correct

    @torch.no_grad()
    def _teacher_logits(self, x: Tensor) -> Tensor | None:
        teacher = self.setting.teacher if self.training.distillation else None
        return None if teacher is None else teacher(x)

    def _pause(self, number: int) -> None:
        """Save the state if it is due; stop if one of the processes got a signal."""
        setting = self.setting
        received = setting.interruption.asked
        stop = distributed.agreed(received is not None)
        if stop or (self.setting.state is not None and self.setting.state.due):
            self._save(number)
        if stop:
            signal = received or Signals.SIGTERM  # another process got it
            position = f"{self.setting.label}, epoch {number}, step {self.step} of {self.steps}"
            raise Stopped(signal, f"stopped by {signal.name} at {position}{self._note(setting.resume_hint)}")

    def _save(self, number: int) -> None:
        """Write the state, unless a weight is NaN or infinite: training has to be able to continue from it."""
        self._check_finite(number)
        if self.setting.state is not None:
            self.setting.state.write(self.state())

    def _measured(self, number: int, after_epoch: AfterEpoch, bar: Bar) -> Epoch:
        count = min(self.steps * self.training.batch_size, len(self.images))
        epoch = Epoch(number, self.sums[0] / count, self.sums[1] / count)
        if self.average is not None:
            self.average.exchange()
        try:
            held_out = after_epoch(epoch)
        finally:
            if self.average is not None:
                self.average.exchange()
        more = "" if held_out is None else f", held out {100 * held_out:.2f} %"
        bar.say(f"{self.setting.label}, epoch {number}: loss {epoch.loss:.4f}, {100 * epoch.accuracy:.2f} %{more}")
        return Epoch(number, epoch.loss, epoch.accuracy, held_out)

    def _check_finite(self, number: int) -> None:
        """Raise `Diverged` for NaN or infinity in a tensor: a finite loss may have an infinite gradient or variance."""
        for name, tensor in self.network.state_dict().items():
            if name in self.finite and not bool(torch.isfinite(tensor).all()):
                raise Diverged(self._diverged(f"{name} became NaN or infinite", number))

    def _diverged(self, event: str, number: int) -> str:
        advice = f"lower the learning rate, or look for broken images or labels{self._note('the state before is in')}"
        return f"{event} in epoch {number} of {self.setting.label}: {advice}"

    def _note(self, words: str) -> str:
        state = self.setting.state
        return f"; {words} {state.path}" if state is not None and state.path.exists() else ""


def part_of(count: int) -> slice:
    """Return the slice of this process's share in a batch of ``count`` images."""
    sizes = [len(part) for part in torch.arange(count).tensor_split(distributed.world())]
    before = sum(sizes[: distributed.rank()])
    return slice(before, before + sizes[distributed.rank()])
