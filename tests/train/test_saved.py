"""A state that is damaged, or of another training, is one sentence before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import mutations
from qffs.convert import quantize
from qffs.errors import CheckpointError, QffsError
from qffs.recipes.recipe import Training
from qffs.train.optimize import Average, optimizer_of
from qffs.train.saved import load
from qffs.train.state import RunState


class Parts:
    """A network, its optimizer and its average."""

    def __init__(self, optimizer: str = "adamw") -> None:
        torch.manual_seed(0)
        x = torch.rand(4, 3)
        layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        self.network: Any = quantize(layers, 2, example=x)
        self.network(x)
        self.training = Training(epochs=2, learning_rate=0.1, optimizer=optimizer, batch_size=2)
        self.optimizer = optimizer_of(self.network, self.training)
        self.average = Average(self.network, 0.9)

    def trained(self) -> dict[str, Any]:
        """Return the state after one step."""
        self.network.train()(torch.rand(4, 3)).sum().backward()
        self.optimizer.step()
        self.average.update(0)
        return {
            "stage": "quantized",
            "history": [{"number": 1, "loss": 0.5, "accuracy": 0.5, "held_out": None}],
            "step": 3,
            "sums": [1.0, 2.0],
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.tensors,
        }

    def load(self, state: dict[str, Any]) -> None:
        load(state, self.network, self.optimizer, self.average, self.training, images=7)  # 4 steps


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_whole_state_is_loaded(optimizer: str) -> None:
    state, parts = Parts(optimizer).trained(), Parts(optimizer)
    parts.load(state)
    assert all(torch.equal(tensor, state["network"][name]) for name, tensor in parts.network.state_dict().items())
    assert str(parts.optimizer.state_dict()) == str(state["optimizer"])
    assert all(torch.equal(one, other) for one, other in zip(parts.average.tensors, state["average"], strict=True))


def change(state: dict[str, Any], *keys: Any, value: Any) -> None:
    for key in keys[:-1]:
        state = state[key]
    state[keys[-1]] = value


@pytest.mark.parametrize(
    ("keys", "value", "sentence"),
    [
        (("history",), None, "history Input should be a valid list"),
        (("history", 0, "loss"), float("nan"), r"history\.0\.loss"),
        (("history", 0, "more"), 1, r"history\.0\.more"),
        (("history", 0, "accuracy"), 1.5, r"history\.0\.accuracy"),
        (("history", 0, "held_out"), -0.5, r"history\.0\.held_out"),
        (("history", 0, "number"), 297, "history .* must have the epochs 1, 2, 3 and so on"),
        (("history",), [{"number": k, "loss": 1.0, "accuracy": 0.5} for k in (1, 2, 3)], "history has 3 of 2 epochs"),
        (("step",), 5, "step is 5, more than an epoch has"),
        (("step",), 0, "sums has 2 correct images after step 0"),
        (("sums",), [1.0, 6.5], r"sums has 6\.5 correct images after step 3"),
        (("sums",), [1.0, -1.0], "sums has -1 correct images"),
        (("sums",), [float("inf"), 1.0], "sums"),
        (("step",), -1, "step Input"),
        (("step",), 10**30, "step Input"),
        (("sums",), [1.0], "sums List"),
        (("network",), [], "TypeError"),
        (("network", "0.weight"), torch.zeros(2, 2), "size mismatch"),
        (("network", "0.weight"), torch.full((4, 3), torch.nan), r"NaN or infinity in 0\.weight"),
        (("optimizer",), {}, "KeyError"),
        (("optimizer", "param_groups", 0, "betas"), "x", "betas of the optimizer is 'x'"),
        (("optimizer", "param_groups", 0, "peak"), None, "peak of the optimizer is None"),
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(7), "exp_avg of the optimizer does not have the shape"),
        (("optimizer", "state", 0, "step"), "x", "ValueError"),
        (("optimizer", "state", 0, "more"), 1, "the optimizer keeps step, exp_avg, exp_avg_sq, more of a parameter"),
        (("average",), [torch.zeros(1)], "ValueError"),
        (("average",), 3, "TypeError"),
    ],
)
def test_a_damaged_state_is_refused_with_the_place(keys: tuple[Any, ...], value: Any, sentence: str) -> None:
    state = Parts().trained()
    change(state, *keys, value=value)
    with pytest.raises(CheckpointError, match=f"damaged, or of another training: .*{sentence}") as caught:
        Parts().load(state)
    assert "\n" not in str(caught.value)


def test_a_state_of_another_optimizer_is_refused() -> None:
    with pytest.raises(CheckpointError, match="the optimizer keeps step, exp_avg, exp_avg_sq of"):
        Parts("sgd").load(Parts("adamw").trained())


def plain(value: Any) -> Any:
    """Return a state in which each tensor is a text, so that values of JSON can be damaged."""
    if isinstance(value, Tensor):
        return {"tensor": value.tolist()}
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def said(parts: Parts, state: dict[str, Any]) -> str:
    """Load a state; return the sentence of the refusal, or nothing."""
    try:
        parts.load(state)
    except QffsError as error:
        return str(error)
    return ""


def test_damaged_values_are_one_sentence() -> None:
    state, parts = Parts().trained(), Parts()
    for key, value in state.items():
        sentences = [said(parts, {**state, key: damaged}) for damaged in mutations.of_json(plain(value), 20)]
        assert not any("\n" in sentence for sentence in sentences)
        assert all(sentences) == (key in {"step", "network", "optimizer", "average"})


def test_damaged_bytes_are_one_sentence(tmp_path: Path) -> None:
    file, parts, read = RunState(tmp_path), Parts(), 0
    file.write(Parts().trained())
    for content in mutations.of_bytes(file.path.read_bytes(), 200):
        file.path.write_bytes(content)
        try:
            state = file.read()
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            read += not said(parts, state or {})
    assert read < 200
