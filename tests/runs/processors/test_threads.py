"""How many threads a run computes with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from qffs.models import build
from qffs.recipes.recipe import Recipe
from qffs.runs import processors
from qffs.runs.processors import LIMITED, SMALL, THREADS, multiply_adds, threads_for
from qffs.runs.quantize import quantize
from qffs.runs.train import train

NETWORK, IMAGES = nn.Linear(4, 2), torch.zeros(3, 4)
LARGE = SMALL // 8
"""The images of which a batch is just too many for one thread."""


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process with two threads on two processors, whose user has said nothing of threads."""
    for name in (*THREADS, LIMITED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processors, "processors", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_multiply_adds_are_those_of_a_layer_and_of_an_image() -> None:
    first, then = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 4, 3, stride=2, groups=4)
    network = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), then, nn.Flatten(), nn.Linear(36, 10)).eval()
    assert multiply_adds(network, torch.zeros(5, 3, 8, 8)) == (64 * 8 * 27 + 9 * 4 * 18 + 360) / 3
    assert not any(module._forward_hooks for module in network.modules())
    network.train()
    multiply_adds(network, torch.ones(5, 3, 8, 8))
    assert network.training
    assert not network.get_buffer("1.running_mean").any(), "counting is no training"
    assert multiply_adds(nn.ReLU(), IMAGES) == float("inf")


@pytest.mark.parametrize(("images", "count"), [(LARGE - 1, 1), (LARGE, 2)])
def test_a_small_network_has_one_thread_until_the_block_ends(images: int, count: int) -> None:
    with threads_for(NETWORK, IMAGES, images):
        assert torch.get_num_threads() == count
    assert torch.get_num_threads() == 2


def test_threads_come_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="why"), threads_for(NETWORK, IMAGES, 1):
        raise ValueError("why")
    assert torch.get_num_threads() == 2


def test_there_are_no_more_threads_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "processors", lambda: 1)
    with threads_for(NETWORK, IMAGES, LARGE):
        assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", THREADS)
def test_the_users_number_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "2")
    with threads_for(NETWORK, IMAGES, 1):
        assert torch.get_num_threads() == 2


def test_a_quota_is_not_the_users_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv(LIMITED, "1")
    with threads_for(NETWORK, IMAGES, 1):
        assert torch.get_num_threads() == 1


def test_which_networks_are_small() -> None:
    digits, resnet = build("digits_net").eval(), build("cifar_resnet20").eval()
    with threads_for(digits, torch.zeros(2, 1, 8, 8), 64):
        assert torch.get_num_threads() == 1
    with threads_for(resnet, torch.zeros(2, 3, 32, 32), 16):
        assert torch.get_num_threads() == 2


@pytest.mark.slow
def test_a_run_of_a_small_network_gives_the_same_whatever_the_threads(tmp_path: Path) -> None:
    short = {"epochs": 1, "learning_rate": 0.03, "batch_size": 64}
    recipe = Recipe.of({"full_precision": short, "quantized": short, "steps": 4, "device": "cpu", "test_images": 50})
    for count in (1, 2):
        torch.set_num_threads(count)
        train(recipe, tmp_path / f"{count}", progress=False)
        assert torch.get_num_threads() == count
    one, two = ((tmp_path / name / "results.json").read_text() for name in ("1", "2"))
    assert one == two
    assert {json.loads(path.read_text())["threads"] for path in tmp_path.glob("*/run.json")} == {1}


def test_quantizing_a_small_network_gives_the_same_whatever_the_threads(tmp_path: Path) -> None:
    short = {"epochs": 1, "learning_rate": 0.03, "batch_size": 64}
    recipe = Recipe.of({"quantized": short, "device": "cpu"})
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(quantize(recipe, tmp_path / f"{count}", progress=False))
        assert torch.get_num_threads() == count
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("1", "2"))
    assert results[0] == results[1]
    assert one == two
