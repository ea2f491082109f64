"""The spellings of a ReLU that do not call it: clamps, comparisons and sums that compute ``max(x, 0)``."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from qffs.graph.call import option
from qffs.graph.rules import QUOTIENTS, name_of

CLAMPS = ("clamp", "clip", "clamp_min", "hardtanh", "threshold")
CASTS = ("float", "double", "half", "bfloat16", "to", "type_as", "at_least")
ABOVE, BELOW = ("gt", "ge"), ("lt", "le")
NOT = ("invert", "logical_not", "bitwise_not")
ZEROS = ("zeros", "zeros_like", "new_zeros")
FULL = {"full": 1, "full_like": 1, "new_full": 2}
"""The functions that make a tensor of one number, with the position of the number."""


SPELLED = frozenset(
    ("leaky_relu", "where", "write", "mul", "multiply", "maximum", "max", "sub", "subtract", *CLAMPS, *QUOTIENTS)
)
"""The names of the operators that may compute a ReLU."""


@dataclass(frozen=True)
class Spellings:
    """The question which calls of a traced network compute a ReLU.

    network: the network; weights: the names of its tensors that training or loading may change.
    """

    network: nn.Module
    weights: Collection[str]

    def relu(self, node: fx.Node) -> tuple[nn.Module, Any] | None:
        """Return a module for a call that computes a ReLU, and the input of the call; None for any other call."""
        name, x = name_of(node), option(node, 0, "input")
        if name == "leaky_relu" and option(node, 1, "negative_slope") == 0:
            return nn.ReLU(), x
        if name in CLAMPS:
            clamp = self._clamp(node, name, x)
            return None if clamp is None else (clamp, x)
        x = self._input(node, name)
        return None if x is None else (nn.ReLU(), x)

    def _clamp(self, node: fx.Node, name: str | None, x: Any) -> nn.Module | None:
        low = option(node, 1, "min", option(node, 1, "min_val", option(node, 1, "threshold")))
        high = option(node, 2, "max", option(node, 2, "max_val", option(node, 2, "value")))
        if not self._is_zero(low, x):
            return None
        number = self._number(high, x)
        if high is None or (name == "threshold" and number == 0):
            return nn.ReLU()
        return nn.Hardtanh(0.0, number) if number is not None and number > 0 and name != "threshold" else None

    def _input(self, node: fx.Node, name: str | None) -> Any:
        """Return x where a node computes the ReLU of x from two or three operands, one of them often 0."""
        operands = node.args
        if node.kwargs or len(operands) not in {2, 3}:
            return None
        first, second, last = operands[0], operands[1], operands[-1]
        pairs = ((first, last), (last, first))
        match name:
            case "maximum" | "max" if len(operands) == 2 and isinstance(second, fx.Node):
                return next((x for x, other in pairs if self._is_zero(other, x)), None)
            case "where":  # where(x > 0, x, 0), where(x < 0, 0, x)
                ways = ((second, last, ABOVE), (last, second, BELOW))
                return next(
                    (x for x, y, signs in ways if self._compares(first, x, signs) and self._is_zero(y, x)), None
                )
            case "write":  # x[x < 0] = 0
                return first if self._compares(last, first, BELOW) and self._is_zero(second, first) else None
            case "mul" | "multiply" if any(self._compares(_mask(factor), x, ABOVE) for x, factor in pairs):
                return next(x for x, factor in pairs if self._compares(_mask(factor), x, ABOVE))
            case "sub" | "subtract":  # x - min(x, 0)
                return first if self._is_lower_part(second, first) else None
            case _:  # (x + abs(x)) / 2
                halved = (name in QUOTIENTS and last == 2) or (name in {"mul", "multiply"} and 0.5 in operands)
                return _added(next(iter(node.all_input_nodes), None)) if halved else None

    def _compares(self, condition: Any, x: Any, signs: tuple[str, ...]) -> bool:
        """Return whether a condition is ``x > 0``, for the signs `ABOVE`, or ``x < 0``, in any spelling."""
        turned = ABOVE if signs is BELOW else BELOW
        if isinstance(condition, fx.Node) and name_of(condition) in NOT:
            return self._compares(option(condition, 0, "input"), x, turned)
        if not isinstance(condition, fx.Node) or not isinstance(x, fx.Node) or len(condition.args) != 2:
            return False
        name, (left, right) = name_of(condition), condition.args
        forward = name in signs and left is x and self._is_zero(right, x)
        return forward or (name in turned and right is x and self._is_zero(left, x))

    def _is_lower_part(self, value: Any, x: Any) -> bool:
        """Return whether a value is ``min(x, 0)``."""
        if not isinstance(value, fx.Node) or x not in value.args:
            return False
        if name_of(value) in {"minimum", "min"}:
            return len(value.args) == 2 and any(self._is_zero(other, x) for other in value.args if other is not x)
        high = option(value, 1 if name_of(value) == "clamp_max" else 2, "max")
        return (
            name_of(value) in {"clamp", "clip", "clamp_max"}
            and value.args[0] is x
            and (option(value, 1, "min") is None or name_of(value) == "clamp_max")
            and self._is_zero(high, x)
        )

    def _is_zero(self, value: Any, x: Any) -> bool:
        return self._number(value, x) == 0

    def _number(self, value: Any, x: Any) -> float | None:
        """Return the number that a value is: a number, or a constant tensor of it, of one element or the shape of x."""
        value = _plain(value)
        if not isinstance(value, fx.Node):
            return float(value) if isinstance(value, (int, float)) else None
        name = str(name_of(value))
        if value.op == "get_attr":
            tensor = operator.attrgetter(str(value.target))(self.network)
            is_constant = isinstance(tensor, Tensor) and value.target not in self.weights
            return float(tensor) if is_constant and tensor.numel() == 1 and not tensor.is_complex() else None
        if name not in FULL and name not in ZEROS:
            return None
        sizes = value.args[1:] if name.startswith("new_") else value.args
        sizes = sizes[:1] if name in FULL else sizes
        alone = all(size in (1, (), (1,), [1], []) for size in sizes)
        fits = option(value, 0, "input") is x if name.endswith("_like") else alone or _is_shape(sizes, x)
        number = option(value, FULL[name], "fill_value") if name in FULL else 0.0
        return float(number) if fits and isinstance(number, (int, float)) else None


def _is_shape(sizes: Sequence[Any], x: Any) -> bool:
    """Return whether sizes are ``x.shape`` or ``x.size()``."""
    if len(sizes) != 1 or not isinstance(sizes[0], fx.Node) or sizes[0].args[:1] != (x,):
        return False
    (whole,) = sizes
    return whole.args[1:] == ("shape",) if whole.target is getattr else whole.target == "size" and len(whole.args) == 1


def _plain(value: Any, casts: Collection[str] = CASTS) -> Any:
    """Return the value under casts to other types."""
    while isinstance(value, fx.Node) and (value.target if value.op == "call_method" else name_of(value)) in casts:
        value = value.args[0]
    return value


def _mask(value: Any) -> Any:
    """Return the value under casts that keep 0 and 1."""
    return _plain(value, (*CASTS, "int", "long"))


def _added(total: fx.Node | None) -> Any:
    """Return x of ``x + abs(x)``."""
    if total is None or name_of(total) != "add" or total.kwargs or len(total.args) != 2:
        return None
    for x, other in (total.args, total.args[::-1]):
        if isinstance(other, fx.Node) and name_of(other) in {"abs", "absolute"} and option(other, 0, "input") is x:
            return x
    return None
