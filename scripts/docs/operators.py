"""Write docs/operators.md from the table of rules."""

from __future__ import annotations

from pathlib import Path

from qffs.graph.rules import FUNCTIONS, MODULES, OPERATORS, Rule
from qffs.graph.site import Kind

FILE = Path(__file__).resolve().parents[2] / "docs" / "operators.md"

INTRODUCTION = """\
# Operators

This page lists the kind of every operator. `python scripts/docs/operators.py` generates it from the table in
`src/qffs/graph/rules.py`. The cases in `tests/graph/rules` convert every operator that is not refused, and compare it
with its quantized network in float64. For your own network, use `qffs plan MODEL` or `print(qffs.plan(model, x))`.

An edge of the spiking network carries increments, whose sum over time is the value in the quantized network. So an
operator is linear (applied to every increment), spiking (a neuron), or differenced (g(X_t) - g(X_{t-1}) on the
accumulated input). All of them are exact. Among the differenced operators only max pooling sends single spikes, if it
reads single spikes. The others send values, which `strict=True` refuses.

## Kinds that depend on the arguments

- A **product** (`*`, `@`, `einsum`, ...) is linear with one signal and differenced with two. A **convolution or linear
  layer** whose weight is a signal is differenced too, and so is any other linear operator with a signal that is not its
  first argument.
- A **quotient** is linear in its dividend. If the divisor is a signal, the quotient is differenced, and keeps its last
  finite value until the divisor arrives. (If the final value is infinite, it is not reproduced, and `verify` says so.)
- An operator that depends **on the input only**, before any neuron, is computed once and charged with the input. It can
  be anything in the table, and may round, compare and index.
- **ReLU** in all its forms (`nn.ReLU`, `F.relu`, `torch.relu`, `x.relu()`, `clamp(min=0)`, `nn.Threshold(0, 0)`, in
  place or not, one module called many times) is one quantizer per call. So are `maximum(x, 0)` with a constant 0,
  `where(x > 0, x, 0)`, `x[x < 0] = 0`, `x * (x > 0)` and `(x + abs(x)) / 2`. A ReLU clipped from above (`nn.ReLU6`,
  `nn.Hardtanh(0, c)`, `clamp(0, c)`) is a quantizer whose highest level is at the clip before training.
- **Batch norm** is folded into the layer before it, or else becomes a product and a sum. Without running statistics it
  depends on the other images, and is refused. This includes derived classes and `F.batch_norm`, which does not update
  its statistics in training.
- **A choice** (`where`, `masked_fill`) by a mask that is a constant or depends on the input only is a join, and so is a
  write to constant positions. A comparison of spikes is refused.
- **Max pooling** sends values if its input is not single spikes (after a convolution, or after a sum of layers).
- **Padding** with a value other than zero is padding with zeros and a charged constant.
- **Derived classes** of torch's modules, your own functions and parametrized weights are traced through. Weights that
  you parametrize or prune in the quantized network are read by `to_spiking` as they are then.
- **Outputs** can be nested in tuples, lists, dictionaries, named tuples and dataclasses. Both networks return the same
  class; a file holds plain tuples and dictionaries.
- **Types**: all weights have one type, float32, float64 or bfloat16. Sparse, quantized and 8-bit weights are refused.
- **The batch** can be in any dimension inside the network, also with several rows per image (windows of attention). An
  operator that mixes the images or changes their order is refused.
- **In place**: a call that changes its argument becomes the form that returns a new tensor. A write by index
  (`x[i] = y`, `x[i] += y`) becomes a function that joins the old and the new values. A change of a view that is read
  elsewhere, of an input of the network, or of only some images of the batch is refused.
- **Python code** can decide on shapes, types and buffers; tracing follows the decision for the example. If such a
  network is run on another size, an error says so. A decision on the number of images is followed where it changes
  nothing. Code that decides on the data is refused with its line.
- **What the code keeps** in an attribute, a list or a cache is what it would keep when it ran on the example. A table
  that is made on the first call and kept is part of the graph. A network whose output changes from call to call, with
  what it kept or with random numbers, is refused.
- **Gradients** of the graph are those of the model: tracing compares both on the example. `detach` and `torch.no_grad`
  stay. A `torch.autograd.Function` with a gradient of its own, hooks, and a `forward` that was put on an instance are
  refused by name; so are `torch.autocast` and `torch.inference_mode` in `forward`. Autocast around `quantize`, `verify`
  or a simulation has no effect there.
- **Attributes** `shape`, `ndim`, `dtype` and `device` are plain, `T`, `mT`, `H` and `mH` linear.

An operator that is not in the table is refused by name; you can [add it](extending.md) in a few lines.

## The table

| kind | modules of `torch.nn` | functions and methods |
|---|---|---|
"""


def forms(name: str) -> str:
    """Return the name of an operator, with a dot if it is only a method of tensors."""
    return f"`{name}`" if name in FUNCTIONS.values() else f"`.{name}`"


def document() -> str:
    """Return the text of docs/operators.md."""
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
