"""SRP and COS: a first run of some steps decides the potentials with which neurons begin the run that is read out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from qffs.spiking.network import SpikingNetwork
from qffs.studies.methods.first_run import FirstRun, Shift
from qffs.studies.methods.method import Batches, Method
from qffs.studies.methods.qcfs import QCFS, spiking

STEPS_BEFORE = 4
SILENT = -1e6


def _after_first_run(shift: Shift) -> Callable[[fx.GraphModule, Batches, int], SpikingNetwork]:
    def shifted(network: fx.GraphModule, batches: Batches, steps: int) -> SpikingNetwork:
        snn, first = (spiking(network, batches, count) for count in (steps, STEPS_BEFORE))
        return SpikingNetwork(snn.graph, snn.schedule, FirstRun(first, shift))

    return shifted


def silenced(potential: Tensor, _: Tensor) -> Tensor:
    """Return the shift of SRP: a neuron whose potential is not above 0 after the first run never fires.

    >>> silenced(torch.tensor([0.25, 0.0, -2.0]), torch.ones(3)) == SILENT
    tensor([False,  True,  True])
    """
    return torch.where(potential > 0, 0.0, SILENT)


def offset(potential: Tensor, sent: Tensor) -> Tensor:
    """Return the shift of COS: -1 for a neuron that sent a spike too many, 1 for one that sent a spike too few, else 0.

    >>> offset(torch.tensor([-0.5, -0.5, 0.5, 1.0]), torch.tensor([2.0, 0.0, 1.0, 1.0]))
    tensor([-1.,  0.,  0.,  1.])
    """
    return (potential >= 1).to(potential) - ((potential < 0) & (sent > 0)).to(potential)


SRP = Method(
    "srp",
    "SRP",
    "Hao et al., AAAI 2023",
    "QCFS; neurons that end a first run without potential are silent in a second run",
    QCFS.activation,
    _after_first_run(silenced),
    before=STEPS_BEFORE,
)
COS = Method(
    "cos",
    "COS",
    "Hao et al., ICLR 2023",
    "QCFS; neurons that end a first run one spike off start a second run one threshold away",
    QCFS.activation,
    _after_first_run(offset),
    before=STEPS_BEFORE,
)
