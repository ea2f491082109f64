"""Every node of a graph decided by the table of rules, and by what it reads."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from qffs.graph.rules import (
    ANALOG,
    CLIPPED,
    DIFFERENCED,
    FOLDED,
    FUNCTIONS,
    JOIN,
    LINEAR,
    METHODS,
    MODULES,
    MOVING,
    NONLINEAR,
    OPERATORS,
    PLAIN,
    PRODUCTS,
    QUOTIENTS,
    ROUNDING,
    SHAPED,
    SHAPES,
    TURNED,
    Kind,
    Rule,
)

ADD = "; qffs.register adds one"


def annotate(traced: fx.GraphModule) -> list[tuple[fx.Node, Rule]]:
    """Decide every node, set its ``meta["kind"]`` and ``meta["signal"]``, and return each with its rule, in order.

    A node that reads no signal is plain. ``meta["signal"]`` says whether a node's value changes over time, and
    ``meta["analog"]`` whether it is computed from the network's input without passing a neuron. ``meta["unit"]`` says
    whether each spike on its way is one of a neuron: ``"one"`` threshold for all, or one a ``"channel"``; else None.
    """
    decided = []
    for node in traced.graph.nodes:
        rule = _decide(node, traced)
        node.meta["kind"] = rule.kind
        node.meta["signal"] = rule.kind is not Kind.PLAIN
        node.meta["unit"] = _unit(node, rule, traced)
        if rule is DIFFERENCED and not node.meta["unit"]:
            rule = NONLINEAR
        node.meta["analog"] = rule.kind is not Kind.SPIKING and all(read.meta["analog"] for read in signals(node))
        decided.append((node, rule))
    return decided


def label(node: fx.Node, root: nn.Module) -> str:
    """How the operator of a node is called in messages and plans: ``Conv2d``, ``max_pool2d``, ``.view``."""
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))).__name__
    if node.op == "call_method":
        return f".{node.target}"
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", node.target))
    return str(node.target)


def name_of(node: fx.Node) -> str | None:
    """The operator of a call in the table `OPERATORS`, whatever its form; None where there is none."""
    if node.op == "call_method":
        return str(node.target) if node.target in METHODS else None
    return FUNCTIONS.get(node.target) if node.op == "call_function" else None


def rule_of(node: fx.Node, root: nn.Module) -> Rule | None:
    """The row of the table that a call falls under, before its arguments are looked at; None where there is none."""
    if node.op == "call_module":
        return MODULES.get(type(root.get_submodule(str(node.target))))
    name = name_of(node)
    return None if name is None else OPERATORS[name]


def signals(node: fx.Node) -> list[fx.Node]:
    """The arguments of a node that carry a signal, in order, each as often as it is read."""
    return [read for read in arguments(node) if isinstance(read, fx.Node) and read.meta["signal"]]


def arguments(node: fx.Node) -> list[Any]:
    """All arguments of a node, whatever their nesting, in order."""
    return _flat((*node.args, *node.kwargs.values()))


def _flat(nested: Any) -> list[Any]:
    found: list[Any] = []

    def visit(argument: Any) -> None:
        if isinstance(argument, (list, tuple)):
            for each in argument:
                visit(each)
        elif isinstance(argument, dict):
            visit(list(argument.values()))
        elif isinstance(argument, slice):
            visit((argument.start, argument.stop, argument.step))
        else:
            found.append(argument)

    visit(nested)
    return found


def choosing(node: fx.Node) -> list[Any]:
    """The arguments of a join that say where its operands go, and are none of them: a mask, an index."""
    match name_of(node):
        case "where":
            return _flat(node.args[:1])
        case "write":
            return _flat(node.args[2:])
    return []


def option(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, given by position or by name."""
    return node.kwargs.get(name, node.args[position] if len(node.args) > position else default)


def _decide(node: fx.Node, root: nn.Module) -> Rule:
    """The rule of a node whose arguments have been classified."""
    if node.op == "placeholder":
        return Rule(Kind.INPUT, "analog, charged by the schedule")
    if node.op == "output":
        return _decide_output(node)
    read = signals(node)
    if not read:
        return Rule(Kind.REFUSED, node.meta["problem"]) if "problem" in node.meta else PLAIN
    if node.op == "call_module":
        rule, reason = _decide_module(root.get_submodule(str(node.target)))
    else:
        rule, reason = _decide_call(node, read)
    if all(each.meta["analog"] for each in read) and (rule is ROUNDING or rule.kind is Kind.DIFFERENCED):
        rule, reason = ANALOG, None
    elif node.meta.get("rounds"):
        reason = reason or ROUNDING.why
    if rule.kind is Kind.REFUSED:
        reason = reason or rule.why
    problem = reason or node.meta.get("problem")
    return Rule(Kind.REFUSED, problem) if problem else rule


def _unit(node: fx.Node, rule: Rule, root: nn.Module) -> str | None:
    """What a node sends, where it sends single spikes: pooling takes the largest of a window of them."""
    read = [each.meta["unit"] for each in signals(node)]
    if rule.kind is Kind.SPIKING:
        module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        by_channel = getattr(module, "channels", None) is not None or bool(getattr(module, "shape", ()))
        return "channel" if by_channel else "one"
    if not read or None in read:
        return None
    name = name_of(node) or label(node, root).lower()
    if rule is FOLDED:
        return None if "norm" in name else str(read[0])
    if rule is DIFFERENCED:
        return str(read[0]) if "pool" in name or read == ["one"] else None
    zeros = name == "pad" and option(node, 2, "mode", "constant") == "constant" and not option(node, 3, "value")
    if (name in MOVING or zeros) and read[0] == "one":
        return "one"
    joined = rule is JOIN and name in {"cat", "concat", "concatenate"} and option(node, 1, "dim", 0) in {1, -3}
    return "channel" if joined else None


def _decide_module(module: nn.Module) -> tuple[Rule, str | None]:
    """The rule of a module and what takes it out of the rule, if anything does."""
    rule = MODULES.get(type(module))
    if rule is None:
        return PLAIN, f"there is no rule for {type(module).__name__}{ADD}"
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        return rule, "batch norm without running statistics depends on the other images of the batch"
    if isinstance(module, nn.Threshold) and module.threshold != module.value:
        return rule, ROUNDING.why
    if getattr(module, "return_indices", False):
        return rule, "the indices of a max pooling are not a signal"
    return CLIPPED if getattr(module, "min_val", None) == 0 else rule, None


def refusal(module: nn.Module) -> str | None:
    """Why calls of a module of torch are refused whatever they read; None where they are not."""
    rule, reason = _decide_module(module)
    known = type(module) in MODULES
    return (reason or (rule.why if rule.kind is Kind.REFUSED else None)) if known else None


def _decide_call(node: fx.Node, read: list[fx.Node]) -> tuple[Rule, str | None]:
    """The rule of a function or method and what takes it out of the rule, if anything does."""
    name = name_of(node)
    if name is None:
        return PLAIN, f"there is no rule for {getattr(node.target, '__name__', node.target)}{ADD}"
    rule, reason = OPERATORS[name], None
    if rule.kind is Kind.LINEAR and name not in PRODUCTS | SHAPED:
        rule = rule if read == [node.args[0]] else NONLINEAR
    match name:
        case _ if name in PRODUCTS:
            rule = NONLINEAR if len(read) > 1 else rule
        case _ if name in SHAPED:
            rule = rule if node.args[0] in read else PLAIN
        case _ if name in QUOTIENTS and node.kwargs.get("rounding_mode") is not None:
            reason = "a rounded quotient is not linear"
        case "where" | "write":
            rule = _decide_choice(node, read)
        case "diff" if len(node.all_input_nodes) > 1:  # what stands before or behind would come with every increment
            rule = NONLINEAR
        case "max" | "min" if len(node.all_input_nodes) == 1:
            rule = DIFFERENCED
        case "threshold":
            reason = None if option(node, 1, "threshold") == option(node, 2, "value") else ROUNDING.why
        case "getattr":
            rule, reason = _decide_attribute(str(node.args[1]))
        case "batch_norm":
            rule, reason = _decide_batch_norm(node, read)
        case _ if rule.kind is Kind.FOLDED:
            reason = "it draws random numbers outside training too"  # those that do not are modules by now
    return rule, reason


def _decide_choice(node: fx.Node, read: list[fx.Node]) -> Rule:
    """What is chosen by something that never changes is joined; a mask of the input does not change over time."""
    chooses = [each for each in choosing(node) if each in read]
    if name_of(node) == "write":
        return ROUNDING if chooses else OPERATORS["write"]
    return OPERATORS["where"] if all(each.meta["analog"] for each in chooses) else NONLINEAR


def _decide_attribute(attribute: str) -> tuple[Rule, str | None]:
    if attribute in SHAPES:
        return PLAIN, None
    return LINEAR, None if attribute in TURNED else f"the attribute {attribute} has no rule"


def _decide_batch_norm(node: fx.Node, read: list[fx.Node]) -> tuple[Rule, str | None]:
    if option(node, 5, "training", False) or option(node, 1, "running_mean") is None:
        return PLAIN, "batch norm without running statistics depends on the other images of the batch"
    return (OPERATORS["batch_norm"], None) if read == [node.args[0]] else (NONLINEAR, None)


def _decide_output(node: fx.Node) -> Rule:
    leaves = [leaf for leaf in arguments(node) if leaf is not None]
    for leaf in leaves or [None]:
        if not isinstance(leaf, fx.Node) or not leaf.meta["signal"] or leaf.meta.get("shape", ()) is None:
            return Rule(Kind.REFUSED, f"the network returns {leaf}, which is no tensor computed from the input")
        if (leaf.meta.get("batch") or (0, 1))[0] != 0:
            return Rule(Kind.REFUSED, f"the batch is not in dimension 0 of the output {leaf}")
    return Rule(Kind.OUTPUT, "read out at every step")
