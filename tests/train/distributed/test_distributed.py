"""Two processes compute what one computes: batch norm, gradients, the scale of step sizes, measurements."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from processes import two_processes
from qffs.errors import InvalidArgument
from qffs.train import distributed


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("pair")
    ended = two_processes.launched(two_processes.__file__, folder)
    assert ended.returncode == 0, ended.stderr
    zero, one = (pickle.loads((folder / str(rank)).read_bytes()) for rank in (0, 1))
    return zero, one


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What this process finds by itself."""
    return two_processes.everything()


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# float64 sums of at most 10 ** 3 values of size 10 ** 2, added up in another order: 1e-12 of values around 1.
TOLERANCE = 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", two_processes.NORMS)
def test_batch_norm_is_that_of_the_whole_batch(name: str, pair: Any, alone: Any) -> None:
    expected = alone[name]
    for whole, *parts in zip(expected["parts"], *(each[name]["parts"] for each in pair), strict=True):
        close(torch.cat(parts), whole, TOLERANCE)
    assert len(pair[0][name]["same"]) == len(expected["same"])
    for rank in (0, 1):
        for found, whole in zip(pair[rank][name]["same"], expected["same"], strict=True):
            close(found, whole, TOLERANCE)
    assert all(torch.equal(*found) for found in zip(*(each[name]["same"] for each in pair), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", two_processes.NORMS)
def test_a_batch_norm_is_afterwards_what_it_was(name: str, pair: Any) -> None:
    module, _ = two_processes.NORMS[name]
    for found in pair:
        assert found[name]["keys"] == list(module.state_dict())
        assert not found[name]["changed"]


@pytest.mark.slow
def test_a_step_of_training_has_the_gradients_of_one_process(pair: Any, alone: Any) -> None:
    assert len(alone["stepped"]) == 12 + 6  # of parameters, two step sizes among them, and buffers
    for found in pair:
        for each, expected in zip(found["stepped"], alone["stepped"], strict=True):
            close(each, expected, TOLERANCE)


@pytest.mark.slow
def test_a_step_of_training_in_bfloat16_has_nearly_those_of_one_process(pair: Any, alone: Any) -> None:
    # bfloat16 has 8 bits; a sum in another order may round a unit to the other level, of one in some hundred.
    for found in pair:
        for each, expected in zip(found["autocast"], alone["autocast"], strict=True):
            close(each, expected, 0.02)


@pytest.mark.slow
def test_the_gradient_of_a_step_size_is_scaled_by_the_activations_of_one_image(pair: Any, alone: Any) -> None:
    x, s, n = two_processes.drawn(6, 2, 5), 2.0, 3
    v = x / s
    of_s = torch.where(v <= 0, 0.0, torch.where(v >= n, float(n), (v + 0.5).floor() - v))
    expected = of_s.sum() / len(x) / math.sqrt(2 * 5 * n), of_s.sum((0, 2)) / len(x) / math.sqrt(5 * n)
    for found in (*pair, alone):
        for each, by_hand in zip(found["step size"], expected, strict=True):
            close(each, by_hand, TOLERANCE)


@pytest.mark.slow
def test_a_measurement_is_that_of_one_process(pair: Any, alone: Any) -> None:
    for found in pair:
        assert found["measured"] == alone["measured"]
    (many, of_many, noises, costs), (one, *_) = alone["measured"]
    assert (many.images, one.images) == (11, 1)
    assert many.qann_accuracy == of_many
    assert sum(map(sum, (layer.positive for layer in many.activity))) > 0
    assert noises.qann_accuracy == of_many
    assert costs.activity == many.activity


@pytest.mark.slow
def test_training_ends_with_the_weights_of_one_process(pair: Any, alone: Any) -> None:
    for found in pair:
        assert list(found["trained"]) == list(alone["trained"])
        for name, expected in alone["trained"].items():
            # float64 sums in another order, through all steps of both stages.
            close(found["trained"][name], expected, 1e-10)
    assert all(torch.equal(value, pair[1]["trained"][name]) for name, value in pair[0]["trained"].items())


@pytest.mark.slow
def test_messages(pair: Any) -> None:
    zero, one = (found["messages"] for found in pair)
    assert (zero.pop("share"), one.pop("share")) == ([0, 2, 4], [1, 3])
    assert (zero.pop("total"), one.pop("total")) == (([11, 11], [1, 1]), ([11, 11], [10, 10]))
    assert zero == one
    assert zero == {
        "totals": [[[1], [2]], 2**61 + 1],
        "gather": [[0, 7], [1, 7]],
        "broadcast": {"from": 0},
        "world": 2,
    }


# Alone


def test_alone_nothing_is_sent_and_nothing_changes() -> None:
    x = torch.ones(3)
    assert (distributed.world(), distributed.rank()) == (1, 0)
    assert distributed.total(x) is x
    assert distributed.totals(x, x) == (x, x)
    assert torch.equal(distributed.gather(x), x[None])
    assert distributed.broadcast(x) is x
    distributed.barrier()
    assert distributed.share(4).tolist() == [0, 1, 2, 3]
    with distributed.processes(torch.device("cpu")) as device:
        assert device == torch.device("cpu")
        assert distributed.world() == 1
    network = nn.Sequential(nn.BatchNorm1d(2))
    with distributed.synchronized(network):
        assert "forward" not in vars(network[0])


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if two processes had been started, none of which has been met."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    return monkeypatch


def test_processes_without_a_launcher_are_refused(two: pytest.MonkeyPatch) -> None:
    two.delenv("RANK")
    two.delenv("MASTER_PORT")
    message = "WORLD_SIZE is 2 but RANK and MASTER_PORT not set: start the processes with torchrun, or unset"
    with pytest.raises(InvalidArgument, match=message), distributed.processes(torch.device("cpu")):
        pass


def test_each_process_has_a_gpu_of_its_own(two: pytest.MonkeyPatch) -> None:
    joined, chosen = [], []
    two.setattr(torch.distributed, "init_process_group", lambda *kind, **more: joined.append((*kind, more)))
    two.setattr(torch.distributed, "destroy_process_group", lambda: joined.append("parted"))
    two.setattr(torch.cuda, "set_device", chosen.append)
    two.setattr(torch.cuda, "device_count", lambda: 2)
    with distributed.processes(torch.device("cuda")) as device:
        assert device == torch.device("cuda", 1)
    (backend, more), parted = joined
    assert (backend, more["device_id"], chosen, parted) == ("cpu:gloo,cuda:nccl", device, [1], "parted")
    with pytest.raises(ZeroDivisionError), distributed.processes(torch.device("cuda")):
        raise ZeroDivisionError
    assert len(joined) == 3  # joined again, not parted
    two.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        InvalidArgument, match="process 1 of this machine, counted from 0, has no GPU, because there are only"
    ):
        distributed.processes(torch.device("cuda")).__enter__()
    two.delenv("LOCAL_RANK")  # one process a machine, as some launchers have it
    with distributed.processes(torch.device("cuda")) as device:
        assert device == torch.device("cuda", 0)


class Own(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


def test_a_batch_norm_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.batch_norm, "world", lambda: 2)
    network = nn.Sequential(nn.BatchNorm1d(2), nn.SyncBatchNorm(2), Own(2))
    with pytest.raises(InvalidArgument, match=r"^2, a Own, cannot be synchronized"), distributed.synchronized(network):
        pass
    with distributed.synchronized(network[:2]):
        assert ["forward" in vars(norm) for norm in network] == [True, False, False]
    assert "forward" not in vars(network[0])
    with pytest.raises(ZeroDivisionError), distributed.synchronized(network[:2]):
        raise ZeroDivisionError
    assert "forward" not in vars(network[0])


def test_a_batch_of_one_value_a_channel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.batch_norm, "world", lambda: 2)
    norm = nn.BatchNorm1d(2)
    with distributed.synchronized(norm), pytest.raises(InvalidArgument, match="more than one value per channel"):
        norm(torch.ones(1, 2))
    assert torch.equal(norm.running_mean, torch.zeros(2))


def test_a_copy_made_meanwhile_is_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.batch_norm, "world", lambda: 2)
    norm = nn.BatchNorm1d(2)
    with distributed.synchronized(norm):
        average = copy.deepcopy(norm)
        average(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert torch.equal(norm.running_mean, torch.zeros(2))
    assert not torch.equal(average.running_mean, torch.zeros(2))
