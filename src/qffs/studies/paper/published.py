"""The published results as data: accuracies in percent."""

from __future__ import annotations

from typing import NamedTuple

SOURCE = "Li, Ma, Furber 2022"


class Published(NamedTuple):
    """A row of table 3: accuracy before conversion (``ann``) and after it (``snn``), and time steps of 1 ms."""

    method: str
    data: str
    network: str
    ann: float
    snn: float
    steps: int


TABLE_3 = tuple(
    Published(*row)
    for row in (
        ("RNL+RIL", "CIFAR-10", "ResNet-18", 93.06, 91.96, 64),
        ("RNL+RIL", "CIFAR-10", "VGG-16", 92.82, 91.15, 64),
        ("TCL", "CIFAR-10", "ResNet-20", 91.58, 91.22, 35),
        ("TCL", "CIFAR-10", "VGG-16", 93.25, 92.60, 20),
        ("QCFS", "CIFAR-10", "ResNet-20", 91.77, 91.62, 16),
        ("QCFS", "CIFAR-10", "ResNet-18", 96.04, 94.82, 8),
        ("QCFS", "CIFAR-10", "VGG-16", 95.52, 94.95, 8),
        ("TS", "CIFAR-10", "ResNet-20", 92.32, 92.41, 16),
        ("TS", "CIFAR-10", "VGG-16", 92.09, 92.29, 16),
        ("QFFS", "CIFAR-10", "ResNet-18", 93.12, 93.14, 4),
        ("QFFS", "CIFAR-10", "VGG-16", 92.44, 92.64, 4),
        ("Spike-Norm", "ImageNet", "VGG-16", 70.52, 69.96, 2500),
        ("Spike-Norm", "ImageNet", "ResNet-34", 70.69, 65.47, 2000),
        ("RMP", "ImageNet", "VGG-16", 73.49, 73.09, 4096),
        ("RMP", "ImageNet", "ResNet-34", 70.64, 69.89, 4096),
        ("TCL", "ImageNet", "VGG-16", 73.22, 70.75, 30),
        ("TCL", "ImageNet", "ResNet-34", 70.85, 70.37, 250),
        ("QCFS", "ImageNet", "VGG-16", 74.29, 72.85, 64),
        ("QCFS", "ImageNet", "ResNet-34", 74.32, 72.35, 64),
        ("TS", "ImageNet", "VGG-16", 72.40, 70.97, 64),
        ("QFFS", "ImageNet", "ResNet-50", 70.15, 70.18, 8),
        ("QFFS", "ImageNet", "VGG-16", 69.88, 69.69, 8),
        ("QFFS, analog output", "ImageNet", "ResNet-50, 2 bit", 72.81, 72.91, 5),
        ("QFFS, analog output", "ImageNet", "ResNet-50, 3 bit", 74.07, 74.36, 10),
        ("QFFS, analog output", "ImageNet", "VGG-16, 2 bit", 71.88, 72.10, 4),
        ("QFFS, analog output", "ImageNet", "VGG-16, 3 bit", 73.08, 73.10, 8),
    )
)
"""The rows of table 3; for QFFS, accuracy before conversion is that of the quantized network."""


class Direct(NamedTuple):
    """A spiking network that was trained directly: figure 1 shows its method, but the paper prints no number of it."""

    method: str
    data: str
    snn: float
    steps: int
    source: str


DIRECT = tuple(
    Direct(*row)
    for row in (
        ("Dspike", "CIFAR-10", 93.66, 4, "Li et al. 2021"),
        ("Dspike", "CIFAR-10", 94.25, 6, "Li et al. 2021"),
        ("SEW", "ImageNet", 67.04, 4, "Fang et al. 2021"),
        ("SEW", "ImageNet", 67.78, 4, "Fang et al. 2021"),
        ("SEW", "ImageNet", 68.76, 4, "Fang et al. 2021"),
        ("SEW", "ImageNet", 69.26, 4, "Fang et al. 2021"),
        ("DIET-SNN", "ImageNet", 69.0, 5, "Rathi, Roy 2020"),
    )
)
"""Results of direct training. Dspike: ResNet-18; SEW: ResNet-34, 50, 101 and 152."""

TABLE_4 = (
    ("converted, 2 bits in all layers", 0.01),
    ("+ negative spikes", 10.64),
    ("+ longer simulation", 67.29),
    ("+ max instead of average pooling", 68.69),
    ("+ 3 bits in the output layer", 70.18),
)
"""The settings of table 4 and their accuracies: ImageNet, ResNet-50."""
