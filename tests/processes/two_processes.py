"""What several processes compute together, and one alone: the same code, so that tests compare the two.

``torchrun --standalone --nproc-per-node 2 tests/processes/two_processes.py FOLDER`` writes what each process found to
``FOLDER/<rank>``; with a second argument, process 1 fails while the other waits for it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import qffs
from qffs import quantize, to_spiking
from qffs.data import Images, load
from qffs.graph.trace.trace import trace
from qffs.measurement.accuracy import Measurement, accuracy, measure
from qffs.measurement.batches import check_fit
from qffs.measurement.cost import cost
from qffs.measurement.energy import Cost
from qffs.measurement.noise import Noise, noise
from qffs.models import DigitsNet
from qffs.nn.quantizer import Quantizer
from qffs.recipes.recipe import Training
from qffs.train import distributed
from qffs.train.calibrate import calibrate
from qffs.train.loop import Setting, fit

PATIENCE_S = 300
"""Far more than any of these needs; what hangs fails."""


def launched(
    *arguments: object, processes: int = 2, limit: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script as so many processes of one thread each, under a limit; they are all gone afterwards."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    paths = [str(Path(qffs.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    more = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    started = subprocess.Popen(
        [*command, *map(str, arguments)],
        env=os.environ | more,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=limit,  # noqa: PLW1509  # it only sets a limit
    )
    try:
        out, err = started.communicate(timeout=PATIENCE_S)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, started.returncode, out, err)


NORMS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "images": (nn.BatchNorm2d(3, eps=1e-3), (5, 3, 4, 4)),
    "features, averaged over all batches": (nn.BatchNorm1d(3, momentum=None), (5, 3)),
    "sequences without weights": (nn.BatchNorm1d(3, affine=False), (4, 3, 7)),
    "volumes without running statistics": (nn.BatchNorm3d(3, track_running_stats=False), (3, 3, 2, 3, 2)),
    "fewer images than processes": (nn.BatchNorm2d(3), (1, 3, 4, 4)),
}
"""Batch norms and the shape of the batch they see; shares are unequal or empty."""

STEPS = 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Values around 3 with a spread of 2."""
    return 3 + 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def part(x: Tensor) -> Tensor:
    """This process's part of a batch, which comes first where parts are unequal, as the training loop has it."""
    return x.tensor_split(distributed.world())[distributed.rank()]


def normalized(norm: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Two steps through a batch norm: outputs and gradients of x by part, of weights in sum; its state afterwards."""
    norm = norm.double().train()
    for seed, parameter in enumerate(norm.parameters()):
        parameter.data = drawn(3, seed=seed)
    outputs, gradients = [], []
    for seed in (1, 2):
        x = part(drawn(*shape, seed=seed)).requires_grad_()
        with distributed.synchronized(nn.Sequential(norm)):
            y = norm(x)
            (y**2 * part(drawn(*shape, seed=3))).sum().backward()
        outputs.append(y.detach())
        gradients.append(x.grad)
    of_weights = [distributed.total(parameter.grad) for parameter in norm.parameters()]
    with distributed.synchronized(nn.Sequential(norm.eval())):
        outputs.append(norm(part(drawn(*shape))).detach() if norm.track_running_stats else torch.zeros(0))
    own = "forward" in vars(norm)
    state = dict(norm.state_dict())
    return {"parts": outputs + gradients, "same": [*of_weights, *state.values()], "keys": list(state), "changed": own}


def stepped(network: nn.Module, x: Tensor, labels: Tensor, autocast: bool = False) -> list[Tensor]:
    """The gradients of one step of the training loop, and the buffers after it."""
    network.train()
    wrapped = DistributedDataParallel(network) if distributed.world() > 1 else network
    with distributed.synchronized(network), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = F.cross_entropy(wrapped(part(x)).to(x.dtype), part(labels), reduction="sum") / len(labels)
        (loss * distributed.world()).backward()
    return [p.grad for p in network.parameters()] + [b.double() for b in network.buffers()]


def network() -> nn.Module:
    """A quantized network with batch norm, of random weights."""
    torch.manual_seed(0)
    quantizers = Quantizer(3), Quantizer(2, channels=4)
    for quantizer in quantizers:
        quantizer.set_step_size(0.4)
    convolutions = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
    norms = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    layers = [layer for group in zip(convolutions, norms, quantizers, strict=True) for layer in group]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3))


def learned_step_size(channels: int | None) -> Tensor:
    """The gradient of the step size of a quantizer alone, of a loss that is a mean over the images of a batch."""
    quantizer = Quantizer(3, channels=channels).double()
    quantizer.set_step_size(2.0)
    wrapped = DistributedDataParallel(quantizer) if distributed.world() > 1 else quantizer
    (wrapped(part(drawn(6, 2, 5))).flatten(1).sum(1).mean()).backward()
    assert quantizer.step_size.grad is not None
    return quantizer.step_size.grad


def trained() -> dict[str, Tensor]:
    """The weights after both stages of training in float64, the last batch smaller and no batch even."""
    data = load("digits")
    images = data.train.select(torch.arange(101))

    def prepare(pictures: Tensor) -> Tensor:
        return data.normalize(pictures).double()

    torch.manual_seed(0)
    network = trace(DigitsNet(width=4), data.normalize(images.read(torch.arange(2)))).double()
    training = Training(epochs=2, learning_rate=0.03, batch_size=33, ema=0.9, clip_gradient=2.0, warmup_epochs=0.5)
    fit(network, images, prepare, training, Setting("first", progress=False))
    qann = quantize(network, 2, example=prepare(images.read(torch.arange(2))))
    calibrate(qann, [prepare(images.read(torch.arange(50)))], "lsq")
    taught = training.model_copy(update={"distillation": 0.5, "temperature": 2.0})
    fit(qann, images, prepare, taught, Setting("second", teacher=network.eval(), progress=False))
    return {**network.state_dict(), **{f"quantized {name}": value for name, value in qann.state_dict().items()}}


def normalize(images: Tensor) -> Tensor:
    return images.double() / 128 - 1


def measured(count: int) -> tuple[Measurement, float, Noise, Cost]:
    """A spiking network beside its quantized one on some images, more or fewer than processes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (11, 1, 4, 4), generator=generator, dtype=torch.uint8)
    data = Images(images, torch.randint(0, 3, (11,), generator=generator))
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    qann = calibrate(
        quantize(nn.Sequential(*layers).double(), 2, example=normalize(images)), [normalize(images)], "lsq"
    )
    snn, few = to_spiking(qann), data.select(torch.arange(count))
    check_fit(snn, few, normalize, 3, "it")
    found = measure(snn, few, normalize, STEPS, qann=qann, stop_when=(0.1, 0.5), batch_size=2, progress=False)
    noises = noise(snn, qann, few, normalize, STEPS, batch_size=2, progress=False)
    rounded = tuple(replace(each, output_error=round(each.output_error or 0, 9)) for each in noises.remedies)
    costs = cost(snn, few, normalize, STEPS, batch_size=2, progress=False)
    own = accuracy(qann, few, normalize, batch_size=2, progress=False)
    return found, own, replace(noises, remedies=rounded), costs


def messages() -> dict[str, Any]:
    """What comes of the messages where each process gives its own number."""
    rank, given = distributed.rank(), torch.full((2,), 10.0 ** distributed.rank())
    sums = distributed.totals(torch.tensor([[rank], [1]]), torch.tensor(2**60 + rank))
    total = distributed.total(given)
    distributed.barrier()
    return {
        "share": distributed.share(5).tolist(),
        "total": (total.tolist(), given.tolist()),
        "totals": [each.tolist() for each in sums],
        "gather": distributed.gather(torch.tensor([rank, 7])).tolist(),
        "broadcast": distributed.broadcast({"from": rank}),
        "world": distributed.world(),
    }


def everything() -> dict[str, Any]:
    """All of the above."""
    x, labels = drawn(5, 1, 8, 8), torch.arange(5) % 3
    return {
        **{name: normalized(*case) for name, case in NORMS.items()},
        "stepped": stepped(network().double(), x, labels),
        "autocast": stepped(network(), x.float(), labels, autocast=True),
        "step size": [learned_step_size(channels) for channels in (None, 2)],
        "measured": [measured(count) for count in (11, 1)],
        "trained": trained(),
        "messages": messages(),
    }


def main(folder: str, *fail: str) -> None:
    """Run as one of several processes."""
    torch.set_num_threads(1)
    with distributed.processes(torch.device("cpu")):
        if fail and distributed.rank() == 1:
            raise RuntimeError("process 1 fails")
        distributed.barrier()
        (Path(folder) / str(distributed.rank())).write_bytes(pickle.dumps(everything()))


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # as the command line ends, past what PyTorch's threads may do then
