"""The plan of a conversion: what every call of a network will become, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import fx

from qffs.errors import NotConvertible, NothingToQuantize
from qffs.graph.call import assembles, label
from qffs.graph.paths import owner
from qffs.graph.site import Kind, described, site


@dataclass(frozen=True)
class Row:
    """One call of a network. `print` shows it as one line.

    site: its path in the model; operator: its name; shape: of its result on the example, None where that is no tensor;
    kind: what it becomes (`qffs.graph.site.Kind`); why: the same in words, or the reason for a refusal; source: file
    and line of the network's own code, or ""; values: whether it sends values, while neurons and max pooling send
    single spikes.
    """

    site: str
    operator: str
    shape: tuple[int, ...] | None
    kind: Kind
    why: str
    source: str = ""
    values: bool = False

    def __str__(self) -> str:
        where = f"{self.site} ({self.source})" if self.source else self.site
        return f"{self.operator} at {where}: {self.why}"


@dataclass(frozen=True)
class Plan:
    """The plan of a network, which `qffs.plan` returns: what every call becomes. ``print(plan)`` shows a table.

    rows: one `Row` for each call, in the order of computation.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Hardshrink())
    >>> plan = qffs.plan(model, torch.ones(1, 4))
    >>> [(row.operator, row.kind.value) for row in plan.rows]
    [('input', 'input'), ('Linear', 'linear'), ('ReLU', 'spiking'), ('Hardshrink', 'refused'), ('output', 'output')]
    >>> print(plan.refused[0])
    Hardshrink at 2: it jumps: the least rounding error of a signal would decide its result
    """

    rows: tuple[Row, ...]

    @property
    def refused(self) -> tuple[Row, ...]:
        """The rows of the calls that cannot be converted."""
        return tuple(row for row in self.rows if row.kind is Kind.REFUSED)

    def check(self, strict: bool = False) -> None:
        """Raise an error unless the network can be converted.

        strict: refuse also every call that would send values instead of spikes. Raises `NotConvertible`, which lists
        every refused call, and `NothingToQuantize` where there is no ReLU on the way from the input.
        """
        refused = [row for row in self.rows if row.kind is Kind.REFUSED or (strict and row.values)]
        if refused:
            listed = f" {refused[0]}" if len(refused) == 1 else "".join(f"\n- {row}" for row in refused)
            raise NotConvertible(f"this network cannot be converted:{listed}")
        if not any(row.kind is Kind.SPIKING for row in self.rows):
            raise NothingToQuantize(
                "nothing would be quantized: there is no ReLU on the way from its input, and a neuron can only "
                "stand where a ReLU is"
            )

    def __str__(self) -> str:
        lines = [
            ("site", "operator", "shape", "kind", "why", "source"),
            *(
                (row.site, row.operator, "x".join(map(str, row.shape or ())), row.kind.value, row.why, row.source)
                for row in self.rows
            ),
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = (zip(line, widths, strict=True) for line in lines)
        table = ["  ".join(cell.ljust(width) for cell, width in line).rstrip() for line in padded]
        return "\n".join([*table, self.summary()])

    def summary(self) -> str:
        """Return the number of calls of each kind, in one line that ends with the number of refused calls."""
        kinds = Counter(row.kind for row in self.rows)
        neurons, refused = kinds.pop(Kind.SPIKING, 0), kinds.pop(Kind.REFUSED, 0)
        values = sum(row.values for row in self.rows)
        rest = [f"{kinds[kind]} {kind.value}" for kind in Kind if kind in kinds]
        layers = f"{neurons} layer{'' if neurons == 1 else 's'} of neurons"
        sent = [f"{values} of them sending values"] if values else []
        return ", ".join([layers, *rest, *sent, f"{refused or 'nothing'} refused"])


def plan(network: fx.GraphModule) -> Plan:
    """Return the plan of a traced network, from the records of its nodes."""
    silent = [node for node in network.graph.nodes if assembles(node) and site(node).kind is not Kind.REFUSED]
    return Plan(tuple(_row(node, network) for node in network.graph.nodes if node not in silent))


def _row(node: fx.Node, network: fx.GraphModule) -> Row:
    record = site(node)
    assert record.kind is not None
    source = described(node).removeprefix(", ")
    return Row(_path(node), label(node, network), record.shape, record.kind, record.why, source, record.values)


def _path(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    return f"{owner(node)}.{node.name}" if owner(node) else node.name
