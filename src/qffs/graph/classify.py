"""Classifying: decide what every node becomes, by the table of rules and by the arguments of the node."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import fx, nn

from qffs.graph.call import arguments, assembles, label, option, selectors
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
"""The record of every node of a graph, in the order of computation."""

ADD = "; qffs.register adds one"


def classify(network: fx.GraphModule) -> Sites:
    """Return the record of every node, with its kind decided. The graph is not changed.

    A node that reads no signal is plain. The kind of every other node is that of its operator in `qffs.graph.rules`,
    except where its arguments, or the checks of tracing, rule this out.
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
    """Return the signals that a node reads, by ``sites``: `qffs.graph.call.signals` needs records that are written."""
    return [read for read in arguments(node) if isinstance(read, fx.Node) and sites[read].signal]


def _decide(node: fx.Node, root: nn.Module, sites: Sites) -> Rule:
    """Return the rule of a node whose arguments have been classified."""
    if node.op == "placeholder":
        return Rule(Kind.INPUT, "analog, charged by the schedule")
    read, problem = _signals(node, sites), site(node).problem
    if node.op == "output" or (assembles(node) and all(user.op == "output" or assembles(user) for user in node.users)):
        return Rule(Kind.REFUSED, problem) if problem else _decide_output(node, sites)
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
    """Return the unit of the single spikes that a node sends (`Site.unit`); None where it sends anything else."""
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
    """Return the rule of a module, and the reason where the rule does not apply to it, else None."""
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
    """Return why every call of a module of torch is refused, with any arguments; None where it is not."""
    rule, reason = _decide_module(module)
    in_table = type(module) in MODULES
    return (reason or (rule.why if rule.kind is Kind.REFUSED else None)) if in_table else None


def _decide_call(node: fx.Node, read: list[fx.Node], sites: Sites) -> tuple[Rule, str | None]:
    """Return the rule of a function or method, and the reason where the rule does not apply to it, else None."""
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
        case "diff" if len(node.all_input_nodes) > 1:  # the values before or behind would be added at every increment
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
            reason = "it draws random numbers outside training too"  # tracing has made modules of the others
    return rule, reason


def _decide_choice(node: fx.Node, read: list[fx.Node], sites: Sites) -> Rule:
    """Return the rule of a choice between operands: a join where its mask or index does not change over time."""
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
    leaves = [leaf for leaf in arguments(node) if leaf is not None] or [None]
    for leaf in leaves:
        if isinstance(leaf, fx.Node) and assembles(leaf):
            continue  # which is refused itself, if at all
        if not isinstance(leaf, fx.Node) or not sites[leaf].signal or sites[leaf].shape is None:
            return Rule(Kind.REFUSED, f"the network returns {leaf}, which is no tensor computed from the input")
        if (sites[leaf].batch or (0, 1))[0] != 0:
            return Rule(Kind.REFUSED, f"the batch is not in dimension 0 of the output {leaf}")
    return Rule(Kind.OUTPUT, "read out at every step")
