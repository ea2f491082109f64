"""Training, in full precision or with quantised activations: the same loop, because a QANN is an ordinary module."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qffs.data import Images
from qffs.errors import Diverged, InvalidArgument
from qffs.progress import track


@dataclass(frozen=True)
class Training:
    """How to train: SGD with momentum, cross-entropy, learning rate falling to zero along a cosine.

    ``learning_rate`` is that of the first step; ``weight_decay`` applies to weights of convolutions and linear
    layers, not to biases, batch norm or step sizes; ``augment`` shifts each image by up to 1/8 of its side and
    mirrors half of them; ``autocast`` computes in bfloat16 where PyTorch deems that safe.
    """

    epochs: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    augment: bool = False
    mirror: bool = False
    autocast: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise InvalidArgument(f"epochs must be 0 or more, not {self.epochs}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InvalidArgument(f"the learning rate must be a finite number above 0, not {self.learning_rate}")
        if not 1 <= self.batch_size < 2**31:
            raise InvalidArgument(f"the batch size must be from 1 to 2^31 - 1, not {self.batch_size}")
        check_seed(self.seed)


def check_seed(seed: int) -> None:
    """Raise `InvalidArgument` on a seed that no generator of random numbers takes."""
    if not 0 <= seed < 2**63:
        raise InvalidArgument(f"the seed must be from 0 to 2^63 - 1, not {seed}")


@dataclass(frozen=True)
class Epoch:
    """One epoch's ``loss`` (mean cross-entropy) and ``accuracy`` on the images as trained on, augmented."""

    number: int
    loss: float
    accuracy: float


def fit(
    network: nn.Module,
    images: Images,
    normalise: Callable[[Tensor], Tensor],
    training: Training,
    *,
    after_epoch: Callable[[Epoch], None] | None = None,
    label: str = "training",
    progress: bool = True,
) -> list[Epoch]:
    """Train ``network`` in place on its own device and return what each epoch measured; left in eval mode.

    normalise: uint8 images ``[B, C, H, W]`` to the network's input; after_epoch: called after each epoch, to save
    a checkpoint, say. Same seed, machine and thread count give the same weights, bit for bit.
    Raises `Diverged` as soon as a loss is NaN or infinite, before it can reach the weights, and where a weight became
    so in an epoch, before ``after_epoch``: what that saved last is good.
    """
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(training.seed)
    torch.manual_seed(training.seed)
    optimiser = torch.optim.SGD(_groups(network, training.weight_decay), training.learning_rate, training.momentum)
    total = max(1, training.epochs * math.ceil(len(images) / training.batch_size))
    cosine = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: (1 + math.cos(math.pi * done / total)) / 2)
    network.train()
    history = []
    with track(label, training.epochs * len(images), "images", show=progress and training.epochs > 0) as bar:
        for number in range(1, training.epochs + 1):
            losses, correct = 0.0, 0
            for x, labels in _batches(images, normalise, training, generator):
                x, labels = x.to(device), labels.to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=training.autocast):
                    logits = network(x)
                    loss = F.cross_entropy(logits.float(), labels)
                if not math.isfinite(loss.item()):
                    raise Diverged(
                        f"the loss became {loss.item()} in epoch {number} of {label}: lower the learning rate, "
                        "or look for broken images or labels"
                    )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                cosine.step()
                losses += loss.item() * len(x)
                correct += int((logits.argmax(-1) == labels).sum())
                bar.advance(len(x), f"epoch {number}/{training.epochs} loss {loss.item():.3f}")
            _check_finite(network, number, label)
            history.append(Epoch(number, losses / len(images), correct / len(images)))
            if after_epoch is not None:
                after_epoch(history[-1])
    network.eval()
    return history


def _check_finite(network: nn.Module, number: int, label: str) -> None:
    """A finite loss may have an infinite gradient, which only the next loss would show."""
    for name, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise Diverged(f"{name} became NaN or infinite in epoch {number} of {label}: lower the learning rate")


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameters in two groups: weights of two or more dimensions decay, everything else does not."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _batches(
    images: Images, normalise: Callable[[Tensor], Tensor], training: Training, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    for chosen in torch.randperm(len(images), generator=generator).split(training.batch_size):
        x = images.images[chosen]
        if training.augment:
            x = _shifted(x, generator)
        if training.mirror:
            mirrored = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
        yield normalise(x), images.labels[chosen]


def _shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to an eighth of its side in both directions, black where nothing was."""
    count, channels, height, width = x.shape
    reach = (height // 8, width // 8)
    padded = F.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    rows = torch.randint(2 * reach[0] + 1, (count, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(2 * reach[1] + 1, (count, 1), generator=generator) + torch.arange(width)
    image, channel = torch.arange(count).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1)
    return padded[image, channel, rows.view(count, 1, height, 1), columns.view(count, 1, 1, width)]
