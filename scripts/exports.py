"""Writes docs/exports.md: every ordinary network of the tests in every form that there is, run beside itself.

python scripts/exports.py measure          # results/exports/networks.json, in some minutes on one core, and the page
python scripts/exports.py measure vit mlp   # of these networks only, beside what is known of the others
python scripts/exports.py                  # the page alone
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
KEPT, PAGE = ROOT / "results" / "exports" / "networks.json", ROOT / "docs" / "exports.md"
STEPS = 9
COLUMNS = ("spikingjelly", "snntorch", "pt2, SNN", "pt2, QANN", "onnx, SNN", "onnx, QANN", "hub")

HEAD = """# Networks for other tools

```sh
qffs export runs/demo/snn --to onnx -o demo.onnx --steps 8
```

or `qffs.export.onnx(snn, "demo.onnx", steps=8)`, and likewise for each target:

| target | of | what it writes | what is lost |
|---|---|---|---|
| `spikingjelly` | SNN | a module of SpikingJelly 2, single- and multi-step, with the network's spikes | nothing |
| `snntorch` | SNN | a module with snnTorch's `SpikingNeuron`, with the network's spikes | nothing |
| `pt2` | QANN, SNN | an archive of `torch.export`, which PyTorch loads without qffs | T is fixed |
| `onnx` | QANN | ONNX, opset 20: QuantizeLinear, Clip, DequantizeLinear for quantisers | sums are rounded otherwise |
| `onnx` | SNN | the same, T steps unrolled | T is fixed, sums are rounded otherwise |
| `hub` | all | the folder of the Hugging Face Hub, with a model card; `qffs push`, `qffs pull` | nothing |

`pip install 'qffs[onnx]'` installs what a target needs; so with `spikingjelly`, `snntorch` and `hub`. Any batch can be
given to what was written. A file is whole or not there; what a target cannot take is refused first, by name. `pt2`
and `onnx` read again what they wrote and run it beside the network (ONNX with onnxruntime), on another batch than it
was written with.

## In a simulator

```python
import qffs.export
from spikingjelly.activation_based import functional

network = qffs.export.spikingjelly(snn)
readout = sum(network(x) for _ in range(8))  # what snn(x, steps=8)[-1] is
functional.reset_net(network)

functional.set_step_mode(network, "m")
increments = network(x.expand(8, *x.shape))  # [T, B, ...]: what is read out new at each step
```

The network takes its input at every step and charges it by its own schedule; what it returns adds up to the read-out.
Layers of neurons keep their names (`network.layer1.0.relu`), so that monitors and hooks find them; they hold potential
and count as `v` and `sent` in SpikingJelly, `mem` and `sent` in snnTorch. In snnTorch `network.reset()` begins anew,
because `snntorch.utils.reset` knows snnTorch's own neurons alone. In float64 their spikes are the network's own, all of
them; in float32 sums are rounded in another order, as they are by any other way of running the network. `qffs export`
saves the module with `torch.save`; `torch.load(FILE, weights_only=False)` needs qffs and the simulator.

## Every network

Ordinary networks, small, with random weights, as the tests have them (`tests/networks`); of each kind the first was
written as `pt2` and `onnx`, which takes long. Equal: in the simulators all spikes of all layers and steps, in float64;
else all outputs, bit for bit (`pt2` and `onnx` in float32). Numbers: the largest difference of an output.
"""


def measure(names: list[str]) -> dict[str, dict[str, str]]:
    """What becomes of every network in every form; of those named only, beside what is known of the others."""
    sys.path.insert(0, str(ROOT / "tests"))
    from rich.progress import track

    from networks import NETWORKS

    torch.set_num_threads(1)
    known = json.loads(KEPT.read_text(encoding="utf-8")) if names else {}
    found = known | {name: one(name) for name in track(names or list(NETWORKS), "networks")}
    return {name: found[name] for name in NETWORKS}


def one(name: str) -> dict[str, str]:
    """What becomes of one network."""
    import qffs
    from networks import NETWORKS
    from qffs import export
    from qffs.checkpoint import load
    from qffs.export.target import apart
    from test_networks import quantised, spiking

    inputs, qann, snn = NETWORKS[name].inputs(), quantised(name), spiking(name)
    found = {each: tried(lambda each=each: simulated(name, getattr(export, each)(snn))) for each in COLUMNS[:2]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt2"
        single = copy.deepcopy(qann).float()
        given = [x.float() if x.is_floating_point() else x for x in inputs]
        # These take long: of each kind of network one is written.
        for write in (export.pt2, export.onnx) if name in first_of_kinds() else ():
            for kind, network, steps in (("SNN", qffs.to_spiking(single), STEPS), ("QANN", single, None)):
                written = tried(lambda w=write, n=network, t=steps: shown(w(n, path, t, given).deviation))
                found[f"{write.__name__}, {kind}"] = written

        def through_a_folder() -> str:
            export.hub(snn, path.with_name("folder"))
            again = load(path.with_name("folder")).network
            return shown(apart(again(*inputs, steps=STEPS), snn(*inputs, steps=STEPS)))

        found["hub"] = tried(through_a_folder)
    return found


def first_of_kinds() -> set[str]:
    """The first network of each file of `tests/networks`."""
    import networks

    kinds = [each for name, each in vars(networks).items() if name.isupper() and each is not networks.NETWORKS]
    return {next(iter(each)) for each in kinds}


def tried(form: Any) -> str:
    """What a form gives, or why it is refused."""
    from qffs.errors import QffsError

    try:
        return str(form())
    except QffsError as error:
        first, *others = str(error).splitlines()
        return f"refused: {'; '.join(others) or first}"


def simulated(name: str, network: Any) -> str:
    """Whether all spikes of a simulator's network are ours."""
    from networks import NETWORKS
    from test_networks import run, spiking

    _, expected = run(name, STEPS, None)
    sent: dict[str, list[torch.Tensor]] = {path: [] for path in expected}
    for path, spikes in sent.items():
        network.get_submodule(f"network.{path}").register_forward_hook(lambda *a, to=spikes: to.append(a[-1]))
    for _ in range(STEPS):
        network(*NETWORKS[name].inputs())
    same = [torch.equal(torch.stack(sent[path]), expected[path] * n.threshold) for path, n in spiking(name).neurons()]
    return "equal" if all(same) else "differs"


def shown(deviation: float | None) -> str:
    """A largest difference."""
    return "not run" if deviation is None else "equal" if deviation == 0 else f"{deviation:.0e}"


def page(found: dict[str, dict[str, str]]) -> str:
    """The whole page."""
    notes = {why: number for number, why in enumerate(dict.fromkeys(
        cell for row in found.values() for cell in row.values() if cell.startswith("refused")), 1)}  # fmt: skip
    lines = [f"| network | {' | '.join(COLUMNS)} |", f"|---{'|---' * len(COLUMNS)}|"]
    for name, row in found.items():
        shown = [row.get(each, "") for each in COLUMNS]
        cells = [f"refused ({notes[cell]})" if cell in notes else cell for cell in shown]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    told = [f"{number}. {why.removeprefix('refused: ')}" for why, number in notes.items()]
    source = "Written by `python scripts/exports.py measure`, on a CPU."
    return "\n".join([HEAD, *lines, "", *told, "", source, ""])


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        KEPT.write_text(json.dumps(measure(sys.argv[2:]), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(json.loads(KEPT.read_text(encoding="utf-8"))), encoding="utf-8")
