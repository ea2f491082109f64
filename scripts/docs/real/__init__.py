"""Real networks: with published weights, on the images that they are made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from real.blazeface import blazeface
from real.classifiers import cifar, efficientnet, squeezenet
from real.fastestdet import fastestdet
from real.subject import Choice, Subject

NETWORKS: Mapping[str, Callable[[Choice], Subject]] = {
    "resnet20": cifar("cifar_resnet20", "cifar10_resnet20.safetensors"),
    "resnet32": cifar("cifar_resnet32", "cifar10_resnet32.safetensors"),
    "resnet56": cifar("cifar_resnet56", "cifar10_resnet56.safetensors"),
    "mlperf_resnet8": cifar("mlperf_resnet8", "mlperf_tiny_resnet8.safetensors"),
    "squeezenet1_1": squeezenet,
    "efficientnet_lite0": efficientnet,
    "fastestdet": fastestdet,
    "blazeface": blazeface,
}
"""The functions that load each network and its images; they raise a `QffsError` where a file or package is missing."""
