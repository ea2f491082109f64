"""docs/operators.md from the table of rules: `python scripts/docs/operators.py` writes it."""

from __future__ import annotations

from pathlib import Path

from qffs.graph.rules import FUNCTIONS, MODULES, OPERATORS, Rule
from qffs.graph.site import Kind

FILE = Path(__file__).resolve().parents[2] / "docs" / "operators.md"

INTRODUCTION = """\
# Operators

What becomes of every operator, generated from the one table in `src/qffs/graph/rules.py` by
`python scripts/docs/operators.py`. Every row but the refused ones is converted and compared with its quantized network
in float64 by the cases in `tests/graph/rules`. For your own network: `qffs plan MODEL`, or
`print(qffs.plan(model, x))`.

An edge of the spiking network carries increments whose sum over time is the quantized network's value. So an operator
is linear (applied to every increment), spiking (a neuron), or differenced (g(X_t) - g(X_{t-1}) on the accumulated
input). All are exact; of the differenced ones only max pooling sends single spikes, where it reads single spikes; all
else sends values, which `strict=True` refuses.

## By its arguments

- A **product** (`*`, `@`, `einsum`, ...) is linear in its one signal and differenced where there are two. A
  **convolution or linear layer** whose weight is a signal, and any other linear operator with a signal in another place
  than the first, is differenced too.
- A **quotient** is linear in what stands above the line; with a signal below it is differenced, and keeps its last
  finite value while the divisor has not arrived (a value that is infinite in the end is not reproduced; `verify` says
  so).
- **Of the input alone**, before any neuron, whatever is in the table is computed once and charged with the input: it
  may round, compare and index.
- **ReLU** in all its forms (`nn.ReLU`, `F.relu`, `torch.relu`, `x.relu()`, `clamp(min=0)`, `nn.Threshold(0, 0)`, in
  place or not, one module called many times) is one quantizer a call. A ReLU clipped from above (`nn.ReLU6`,
  `nn.Hardtanh(0, c)`, `clamp(0, c)`) is a quantizer whose levels at first end at the clip.
- **Batch norm** is folded into the layer before it, or else becomes a product and a sum; without running statistics it
  depends on the other images, and is refused. Derived classes count, and `F.batch_norm`, which in training keeps the
  statistics it has.
- **A choice** (`where`, `masked_fill`) by a mask that is a constant or of the input alone is a join, and so is a write
  to constant places; a comparison of spikes is refused.
- **Max pooling** of what is no single spike (a convolution, a sum of layers) sends values.
- **Padding** with another value than zero is padding with zeros and a charged constant.
- **Classes derived** from those of torch, and functions of your own, are read through. Parametrised weights are too.
- **The batch** may lie in any dimension in between, or with several rows an image (windows of attention); what joins
  the images or mixes their order is refused.
- **In place**: a call that changes its argument becomes its plain form, and a write by index (`x[i] = y`, `x[i] += y`)
  becomes a function that joins what was there and what is written. What changes a view that is read elsewhere, an input
  of the network, or some images of the batch alone, is refused.
- **Python code** may decide on shapes, types and buffers, and is followed as the example goes; a network that has
  decided so and is run on another size says so. Code that decides on the data is refused with its line.
- **Attributes** `shape`, `ndim`, `dtype` and `device` are plain, `T`, `mT`, `H` and `mH` linear.

What is not in the table is refused by name; [a few lines](extending.md) add an operator.

## The table

| becomes | modules of `torch.nn` | functions and methods |
|---|---|---|
"""


def forms(name: str) -> str:
    """An operator by name, with a dot where only tensors have it as a method."""
    return f"`{name}`" if name in FUNCTIONS.values() else f"`.{name}`"


def document() -> str:
    """The text of docs/operators.md."""
    rules = dict.fromkeys([*MODULES.values(), *OPERATORS.values()])
    order = sorted(rules, key=lambda rule: rule.kind is Kind.REFUSED)
    return INTRODUCTION + "".join(f"{_row(rule)}\n" for rule in order)


def _row(rule: Rule) -> str:
    modules = [kind.__name__ for kind, of in MODULES.items() if of == rule and kind.__module__.startswith("torch.")]
    names = [name for name, of in OPERATORS.items() if of == rule]
    cells = (f"**{rule.kind}**: {rule.why}", ", ".join(f"`{each}`" for each in modules), ", ".join(map(forms, names)))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
