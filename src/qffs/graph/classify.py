"""What becomes of every node: decided by the table of rules, and by what the node reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import fx, nn

from qffs.graph.call import arguments, label, option, selectors
from qffs.graph.rules import (
    ANALOG,
    CLIPPED,
    DIFFERENCED,
    FOLDED,
    JOIN,
    LINEAR,
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
    Rule,
    name_of,
)
from qffs.graph.site import KEY, Kind, Site, site

Sites = dict[fx.Node, Site]
"""The record of every node of a graph, in its order."""

ADD = "; qffs.register adds one"


def classify(network: fx.GraphModule) -> Sites:
    """Return the record of every node with its kind decided; nothing is changed.

    A node that reads no signal is plain, the others are what `qffs.graph.rules` says of their operator, unless their
    arguments, or what tracing found out, take them out of the rule.
    """
    sites: Sites = {}
    for node in network.graph.nodes:
        sites[node] = _site(node, network, sites)
    return sites


def write_sites(sites: Sites) -> None:
    """Write the record of every node into the node, where `qffs.graph.site.site` reads it."""
    for node, record in sites.items():
        node.meta[KEY] = record


def _site(node: fx.Node, network: nn.Module, sites: Sites) -> Site:
    read = [sites[each] for each in _signals(node, sites)]
    rule = _decide(node, network, sites)
    unit = _unit(node, rule, network, read)
    if rule is DIFFERENCED and not unit:
        rule = NONLINEAR
    analog = rule.kind is not Kind.SPIKING and all(each.analog for each in read)
    return replace(
        site(node),
        operator=name_of(node),
        kind=rule.kind,
        why=rule.why,
        values=rule.values,
        analog=analog,
        unit=unit,
    )


def _signals(node: fx.Node, sites: Sites) -> list[fx.Node]:
    """The arguments of a node that carry a signal, as `qffs.graph.call.signals`, while nothing is written yet."""
    return [read for read in arguments(node) if isinstance(read, fx.Node) and sites[read].signal]


def _decide(node: fx.Node, root: nn.Module, sites: Sites) -> Rule:
    """The rule of a node whose arguments have been classified."""
    if node.op == "placeholder":
        return Rule(Kind.INPUT, "analog, charged by the schedule")
    if node.op == "output":
        return _decide_output(node, sites)
    read, problem = _signals(node, sites), site(node).problem
    if not read:
        return Rule(Kind.REFUSED, problem) if problem else PLAIN
    if node.op == "call_module":
        rule, reason = _decide_module(root.get_submodule(str(node.target)))
    else:
        rule, reason = _decide_call(node, read, sites)
    if all(sites[each].analog for each in read) and (rule is ROUNDING or rule.kind is Kind.DIFFERENCED):
        rule, reason = ANALOG, None
    elif site(node).rounds:
        reason = reason or ROUNDING.why
    if rule.kind is Kind.REFUSED:
        reason = reason or rule.why
    problem = reason or problem
    return Rule(Kind.REFUSED, problem) if problem else rule


def _unit(node: fx.Node, rule: Rule, root: nn.Module, signals: list[Site]) -> Literal["one", "channel"] | None:
    """What a node sends, where it sends single spikes: pooling takes the largest of a window of them."""
    read = [each.unit for each in signals]
    if rule.kind is Kind.SPIKING:
        module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        by_channel = getattr(module, "channels", None) is not None or bool(getattr(module, "shape", ()))
        return "channel" if by_channel else "one"
    if not read or None in read:
        return None
    name = name_of(node) or label(node, root).lower()
    if rule is FOLDED:
        return None if "norm" in name else read[0]
    if rule is DIFFERENCED:
        return read[0] if "pool" in name or read == ["one"] else None
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


def _decide_call(node: fx.Node, read: list[fx.Node], sites: Sites) -> tuple[Rule, str | None]:
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
            rule = _decide_choice(node, read, sites)
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


def _decide_choice(node: fx.Node, read: list[fx.Node], sites: Sites) -> Rule:
    """What is chosen by something that never changes is joined; a mask of the input does not change over time."""
    chooses = [each for each in selectors(node, name_of(node)) if each in read]
    if name_of(node) == "write":
        return ROUNDING if chooses else OPERATORS["write"]
    return OPERATORS["where"] if all(sites[each].analog for each in chooses) else NONLINEAR


def _decide_attribute(attribute: str) -> tuple[Rule, str | None]:
    if attribute in SHAPES:
        return PLAIN, None
    return LINEAR, None if attribute in TURNED else f"the attribute {attribute} has no rule"


def _decide_batch_norm(node: fx.Node, read: list[fx.Node]) -> tuple[Rule, str | None]:
    if option(node, 5, "training", False) or option(node, 1, "running_mean") is None:
        return PLAIN, "batch norm without running statistics depends on the other images of the batch"
    return (OPERATORS["batch_norm"], None) if read == [node.args[0]] else (NONLINEAR, None)


def _decide_output(node: fx.Node, sites: Sites) -> Rule:
    leaves = [leaf for leaf in arguments(node) if leaf is not None]
    for leaf in leaves or [None]:
        if not isinstance(leaf, fx.Node) or not sites[leaf].signal or sites[leaf].shape is None:
            return Rule(Kind.REFUSED, f"the network returns {leaf}, which is no tensor computed from the input")
        if (sites[leaf].batch or (0, 1))[0] != 0:
            return Rule(Kind.REFUSED, f"the batch is not in dimension 0 of the output {leaf}")
    return Rule(Kind.OUTPUT, "read out at every step")
