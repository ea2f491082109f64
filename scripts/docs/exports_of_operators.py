"""Measure which targets support which operator: every form of every operator of the tests, alone between neurons.

python scripts/docs/exports_of_operators.py              # results/exports/operators.json, in half an hour on one core
python scripts/docs/exports_of_operators.py add Conv2d   # these operators only; the results of the others stay
python scripts/docs/exports_of_operators.py --fast       # all targets but pt2 and onnx, which take long
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "results" / "exports" / "operators.json"
STEPS, UNROLLED = 9, 4  # fewer steps where a target unrolls them, which takes long
SHAPES = {1: (2, 12), 2: (2, 6, 6), 3: (2, 4, 4, 4)}
USUAL: dict[str, Callable[[int], nn.Module]] = {
    "Conv": lambda d: getattr(nn, f"Conv{d}d")(4, 6, 3, padding=1),
    "ConvTranspose": lambda d: getattr(nn, f"ConvTranspose{d}d")(4, 6, 2, stride=2),
    "AvgPool": lambda d: getattr(nn, f"AvgPool{d}d")(2),
    "AdaptiveAvgPool": lambda d: getattr(nn, f"AdaptiveAvgPool{d}d")(1),
    "MaxPool": lambda d: getattr(nn, f"MaxPool{d}d")(2),
    "AdaptiveMaxPool": lambda d: getattr(nn, f"AdaptiveMaxPool{d}d")(1),
    "BatchNorm": lambda d: getattr(nn, f"BatchNorm{d}d")(4),
    "Flatten": lambda _: nn.Flatten(),
    "Linear": lambda _: nn.Sequential(nn.Flatten(), nn.Linear(144, 5)),
}
"""Modules with usual options, in addition to the rarer options of the tests."""
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "graph" / "rules")]


def forms() -> dict[str, list[Callable[[], nn.Module]]]:
    """Return, by operator, functions that each make a network of one of its forms: the cases of the tests."""
    import test_modules
    import test_nonlinear
    import test_operators
    import test_shapes

    makers: dict[str, list[Callable[[], nn.Module]]] = {}
    for name in test_modules.converted_classes():
        family, d = (name[:-2], int(name[-2])) if name.endswith("d") and name[-2].isdigit() else (name, 2)
        usual = [lambda family=family, d=d: Usual(USUAL[family](d), d)] if family in USUAL else []
        makers[name] = [*usual, lambda name=name: Between(test_modules.case(name), 0)]
    for cases in (test_operators.CASES, test_shapes.CASES, test_nonlinear.CASES):
        for name, each in cases.items():
            whole = [lambda each=each, k=k: Between(test_modules.Around(each), k) for k in range(len(each))]
            makers[name] = makers.get(name, []) + whole
    return makers


class Usual(nn.Module):
    """A network of a convolution, a ReLU, a module and a ReLU, in one, two or three dimensions."""

    def __init__(self, module: nn.Module, d: int) -> None:
        super().__init__()
        self.conv, self.module, self.shape = getattr(nn, f"Conv{d}d")(2, 4, 3, padding=1), module, SHAPES[d]

    def forward(self, x: Tensor) -> Any:
        z = self.module(torch.relu(self.conv(x)))
        return z, torch.relu(z * 0.7371 + 0.21)


class Between(nn.Module):
    """A network of a convolution, a ReLU, one form of an operator and a ReLU; it returns the last two outputs."""

    shape = SHAPES[2]

    def __init__(self, around: Any, number: int) -> None:
        super().__init__()
        self.around, self.number = around, number

    def forward(self, x: Tensor) -> Any:
        y = torch.relu(self.around.conv(x))
        z = self.around.forms[self.number](y, self.around, x)
        return z, torch.relu(z * 0.7371 + 0.21)


def row(makers: list[Callable[[], nn.Module]], slow: bool) -> dict[str, str]:
    """Return the result of an operator for each target: equal, lossy, some (of its forms), refused, or an error."""
    import qffs
    from helpers.operators import converted
    from qffs.errors import Diverged

    results: dict[str, list[str]] = {}
    for number, make in enumerate(makers):
        torch.manual_seed(1)
        model: Any = make().double().eval()
        x = torch.randn(3, *model.shape, dtype=torch.float64)
        try:
            qann = converted(model, x)
        except Diverged:  # the form returns an infinity, which the ReLU behind it refuses
            continue
        for target, result in outcomes(qann, qffs.to_spiking(qann), x, slow and number == 0):
            results.setdefault(target, []).append(result)
    return {target: cells[0] if len(set(cells)) == 1 else "some" if set(cells) <= KNOWN else str(set(cells) - KNOWN)
            for target, cells in results.items()}  # fmt: skip


KNOWN = {"equal", "lossy", "refused", "some", "differs"}


def outcomes(qann: Any, snn: Any, x: Tensor, slow: bool) -> Iterator[tuple[str, str]]:
    """Yield each target and its result for one network."""
    import qffs
    from qffs import export
    from qffs.errors import QffsError
    from qffs.export.circuit.circuit import simulate
    from qffs.export.circuit.extract import circuit

    seen: dict[str, Tensor] = {}
    snn.run(x, steps=STEPS, observer=lambda path, sent, _: seen.update({path: sent}))

    def tried(form: Callable[[], bool]) -> str:
        try:
            return "equal" if form() else "differs"
        except QffsError:
            return "refused"

    for name in ("spikingjelly", "snntorch"):
        yield name, tried(lambda name=name: same_spikes(getattr(export, name)(snn), snn, seen, x))

    def as_circuit() -> bool:
        sent = simulate(circuit(snn), [x], STEPS)
        return all(torch.equal(sent[path].sum(), each.sum()) and
                   torch.equal(sent[path].flatten().sort().values, each.double().flatten().sort().values)
                   for path, each in seen.items())  # fmt: skip

    yield "brian2, pynn", tried(as_circuit)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network"

        def in_nir() -> bool:
            export.nir_exact(snn, path.with_suffix(".nir"), STEPS, x)  # it compares all spikes
            return True

        yield "nir-exact", tried(in_nir)

        def approximated() -> bool:
            export.nir(snn, path.with_suffix(".nir"), 8, "nir", x)
            return True

        yield "nir", tried(approximated).replace("equal", "lossy")
        if slow:
            single = qffs.to_spiking(qann.float())

            def archived(write: Any, suffix: str, most: float) -> bool:
                return bool(write(single, path.with_suffix(suffix), UNROLLED, x.float()).deviation <= most)

            yield "pt2", tried(lambda: archived(export.pt2, ".pt2", 0.0))
            yield "onnx", tried(lambda: archived(export.onnx, ".onnx", 1e-5))


def same_spikes(network: Any, snn: Any, seen: dict[str, Tensor], x: Tensor) -> bool:
    """Return whether all layers of neurons of a simulator's network send the spikes in ``seen``."""
    sent: dict[str, list[Tensor]] = {path: [] for path in seen}
    for path, spikes in sent.items():
        network.get_submodule(f"network.{path}").register_forward_hook(lambda *a, to=spikes: to.append(a[-1]))
    for _ in range(STEPS):
        network(x)
    return all(torch.equal(torch.stack(sent[path]), seen[path] * neuron.threshold) for path, neuron in snn.neurons())


if __name__ == "__main__":
    from rich.progress import track

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = [each for each in sys.argv[1:] if not each.startswith("--")]
    makers = forms()
    fast = "--fast" in sys.argv
    results = json.loads(FILE.read_text(encoding="utf-8")) if names or fast else {}
    for name in track(names or list(makers), "operators"):
        results[name] = (results.get(name, {}) if fast else {}) | row(makers[name], slow=not fast)
        FILE.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
