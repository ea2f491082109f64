"""The compiled pass over all steps against the reference loop."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.kernels import fire
from qffs.functional.neuron import fire as reference
from qffs.functional.neuron import rest
from qffs.functional.sparse_steps import SparseSteps, changed
from qffs.kernels import neuron as kernel
from qffs.kernels.cpu import compiler as native
from qffs.kernels.cpu import queue
from qffs.kernels.layer import Neurons
from qffs.method import FiringRule

CHARGE = (0.5, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0)
RULES = [
    FiringRule(precharge=0.5),
    FiringRule(negative_spikes=False, precharge=0.25),
    FiringRule(cap=False, precharge=0.5),
    FiringRule(precharge=0.0),
    FiringRule(negative_spikes=False, precharge=0.25, reset="zero"),
    FiringRule(precharge=0.5, decay=0.5),
    FiringRule(negative_spikes=False, cap=False, precharge=0.5, reset="zero", decay=0.5),
]


@pytest.fixture(autouse=True)
def library() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not native.available(torch.float32, torch.device("cpu")):
            pytest.skip("nothing can be compiled here")


def whole(*shape: int, low: int = -6, high: int = 7) -> Tensor:
    """Multiples of 1/8, whose sums have no rounding."""
    return torch.randint(low, high, shape) / 8


def levels(*shape: int) -> SparseSteps:
    """What other neurons sent, with repetitions."""
    spikes = torch.randint(0, 2, (len(CHARGE), 5, *shape)) * (torch.rand(len(CHARGE), 5) < 0.5).view(
        -1, 5, *[1] * len(shape)
    )
    return changed(spikes.cumsum(0).to(torch.uint8), spikes.flatten(2).any(-1), torch.tensor(0.375))


def numbers(*shape: int, channels_last: bool = False) -> SparseSteps:
    rows = SparseSteps(whole(9, *shape), torch.randint(0, 9, (len(CHARGE), 5)))
    return SparseSteps(rows.values.contiguous(memory_format=torch.channels_last), rows.index) if channels_last else rows


def expected(
    inputs: list[SparseSteps], constant: Tensor | None, threshold: Tensor, highest: int, rule: FiringRule
) -> Tensor:
    """Levels [T, B, ...] by the reference loop on increments, in float64."""
    total = sum((rows.dense().double().unflatten(0, (len(CHARGE), 5)) for rows in inputs), torch.zeros(()).double())
    increments = torch.cat([total[:1], total[1:] - total[:-1]]) if inputs else None
    like = total[0] if inputs else constant
    assert like is not None
    assert rule.precharge is not None
    state = rest(like.double(), threshold.double(), rule.precharge)
    fixed = None if constant is None else constant.double()
    return reference(state, fixed, increments, CHARGE, threshold.double(), highest, rule)[0].cumsum(0)


@pytest.mark.parametrize("rule", RULES, ids=["signed", "unsigned", "free", "empty", "reset", "leaky", "leaky reset"])
@pytest.mark.parametrize("shape", [(700,), (3, 16, 20), (2, 7)], ids=str)
@pytest.mark.parametrize("given", ["constant", "numbers", "levels", "levels and numbers", "numbers, one constant"])
def test_levels_are_those_of_the_reference(given: str, shape: tuple[int, ...], rule: FiringRule) -> None:
    torch.manual_seed(0)
    inputs = []
    if "numbers" in given:
        inputs.append(numbers(*shape, channels_last=len(shape) == 3))
    if "levels" in given:
        inputs.append(levels(*shape))
    constant = whole(1 if "one" in given else 5, *shape, low=-20, high=40) if "constant" in given else None
    by_channel = torch.tensor([0.25, 0.375, 0.5][: shape[0]]).view(-1, *[1] * (len(shape) - 1))
    for threshold in (torch.tensor(0.25), *([by_channel] if len(shape) > 1 else [])):
        found = fire(inputs, constant, CHARGE, threshold, 3, rule)
        wanted = expected(inputs, constant, threshold, 3, rule)
        assert found.values.dtype == torch.uint8
        assert torch.equal(found.values[found.index].double(), wanted)
        assert found.scale is threshold
        changes = (torch.cat([wanted[:1], wanted[1:] - wanted[:-1]]) != 0).flatten(2).any(-1)
        assert len(found.used().values) == int(changes.sum() + (~changes[0]).sum())
        plain, plain_changes = kernel.fire(Neurons(inputs, constant, CHARGE, threshold, 3, rule))
        assert torch.equal(plain_changes, changes)
        assert torch.equal(changed(plain, changes).dense(), found.values[found.index].flatten(0, 1))


@pytest.mark.parametrize("smaller", [(3, 1, 1), (1, 4, 5)], ids=str)
def test_what_is_smaller_is_broadcast(smaller: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for inputs, constant in (
        ([numbers(3, 4, 5), levels(*smaller)], None),
        ([numbers(3, 4, 5)], whole(5, *smaller, low=-20, high=40)),
        ([numbers(3, 4, 5)], whole(1, *smaller, low=-20, high=40)),
    ):
        found = fire(inputs, constant, CHARGE, torch.tensor(0.25), 3, RULES[0])
        parts = [SparseSteps.of(rows.dense().expand(-1, 3, 4, 5), len(CHARGE)) for rows in inputs]
        wide = None if constant is None else constant.expand(-1, 3, 4, 5)
        wanted = expected(parts, wide, torch.tensor(0.25), 3, RULES[0])
        assert torch.equal(found.values[found.index].double(), wanted)


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "SMALL", 0)
    inputs, before = [numbers(3000), levels(3000)], torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(fire(inputs, None, CHARGE, torch.tensor(0.3), 3, RULES[0]).dense())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_without_a_compiler_the_reference_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [numbers(3, 4, 5)]
    compiled = fire(inputs, None, CHARGE, torch.tensor(0.25), 3, RULES[0])
    monkeypatch.setattr(native.shutil, "which", lambda _: None)
    native.forget()
    try:
        with pytest.warns(
            UserWarning, match="neurons are not compiled, and simulation is slower: there is no C compiler"
        ):
            plain = fire(inputs, None, CHARGE, torch.tensor(0.25), 3, RULES[0])
    finally:
        native.forget()
    assert torch.equal(compiled.dense(), plain.dense())


def test_other_types_are_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda *_: pytest.fail("compiled"))
    dtype = torch.bfloat16
    rows = SparseSteps(whole(9, 6).to(dtype), torch.randint(0, 9, (len(CHARGE), 5)))
    found = fire([rows], None, CHARGE, torch.tensor(0.25, dtype=dtype), 3, RULES[0])
    assert torch.equal(found.values[found.index].double(), expected([rows], None, torch.tensor(0.25), 3, RULES[0]))


@pytest.mark.parametrize("named", ["false", "/nonexistent", "", "cc -O2"])
def test_another_compiler_is_tried(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", named)
    native.forget()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert native.library(torch.float32) is not None
    finally:
        native.forget()


def test_what_a_compiler_says_is_told_whatever_its_letters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\nprintf 'no \\374ber compiler\\n' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setattr(native.shutil, "which", lambda name: name if name == str(compiler) else None)
    native.forget()
    try:
        with pytest.warns(UserWarning, match="neurons are not compiled, .*broken: no .ber compiler"):
            assert native.library(torch.float32) is None
    finally:
        native.forget()
