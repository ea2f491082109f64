"""What a simulation asks about the nodes of a network, on small networks whose answers are plain to see."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qffs
from qffs.errors import InvalidArgument
from qffs.graph.site import Kind
from qffs.spiking.operations import Operation, Operations
from test_verification import every_network, spiking


def converted(model: nn.Module, x: Tensor) -> Operations:
    return qffs.to_spiking(qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x], "lsq")).operations


def named(operations: Operations, name: str) -> Operation:
    (found,) = (each for node, each in operations.of.items() if node.name.startswith(name))
    return found


class Residual(nn.Module):
    """A sum that only neurons read, a padded signal, and a join."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3), nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.branch(F.pad(x, (1, 1, 1, 1))) + x).relu()
        return self.head(torch.cat([x, x], 1).flatten(1)[:, :144])


def test_questions_about_a_residual_network() -> None:
    operations = converted(Residual(), torch.randn(3, 2, 6, 6))
    assert operations.inputs == ((2, 6, 6),)
    assert operations.images_first
    assert operations.by_layer
    assert operations.cuts_at is None
    total = next(each for each in operations.of.values() if each.kind is Kind.SUM and len(each.sources) == 2)
    assert total.for_neurons_alone
    assert len(total.reads) == 2
    assert named(operations, "pad").only_moves
    assert not named(operations, "pad").for_neurons_alone
    join = named(operations, "cat")
    assert (len(join.reads), len(join.sources), join.only_moves) == (2, 1, False)
    assert named(operations, "flatten").only_moves


class Turned(nn.Module):
    """The images in dimension 1 behind the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).transpose(0, 1).relu()).transpose(0, 1)


class Cut(nn.Module):
    """Two rows of the batch for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 5), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.reshape(-1, 2)).relu().reshape(-1, 10))


def test_images_elsewhere_than_in_dimension_0() -> None:
    operations = converted(Turned(), torch.randn(3, 6, 4))
    turned = [each for each in operations.of.values() if each.dimension == 1]
    assert turned
    assert all(each.rows == 1 for each in turned)
    assert (operations.images_first, operations.by_layer, operations.cuts_at) == (False, False, None)


def test_several_rows_per_image() -> None:
    x = torch.randn(3, 4)
    snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(Cut(), bits=2, example=x), [x], "lsq"))
    assert max(each.rows for each in snn.operations.of.values()) == 2
    assert not snn.operations.by_layer
    cut = snn.operations.cuts_at
    assert cut is not None
    with pytest.raises(InvalidArgument, match=rf"cuts each image into rows of the batch \(at {cut}\)"):
        snn(torch.randn(3, 6), steps=8)


@every_network
def test_a_value_is_let_go_of_once_by_its_last_reader(name: str) -> None:
    operations = spiking(name).operations
    assert list(operations.of) == list(operations.network.graph.nodes)
    places = {node: k for k, node in enumerate(operations.of)}
    let_go = Counter(read for each in operations.of.values() for read in each.last_of)
    assert set(let_go) == {node for node in operations.of if node.users}
    assert set(let_go.values()) <= {1}
    for node, each in operations.of.items():
        assert all(max(places[user] for user in read.users) == places[node] for read in each.last_of)


def test_a_copy_of_a_network_has_operations_of_its_own() -> None:
    x = torch.randn(3, 2, 6, 6)
    snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(Residual(), bits=2, example=x), [x], "lsq"))
    other = copy.deepcopy(snn)
    assert other.operations.network is other.graph
    assert set(other.operations.of).isdisjoint(snn.operations.of)
    assert torch.equal(other(x, steps=8), snn(x, steps=8))
