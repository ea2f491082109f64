"""The node of a value of a class of the network's own: the call that puts it together."""

from __future__ import annotations

from typing import Any

from torch import fx

from qffs.graph.nested import Form, form, same
from qffs.graph.site import note


def assembled(tracer: Any, value: Any, built: Form) -> Any:
    """Return the node that puts a value together from its fields (`qffs.graph.nested.form`)."""
    kind, args, kwargs = built
    problem = None
    try:
        again = form(kind(*args, **kwargs))  # as the code has just done
        if kwargs and again and not same(_on_example(tracer, again[2]), _on_example(tracer, kwargs)):
            raise ValueError("it changes them when it is made")
    except Exception as error:
        if not kwargs:
            return tracer.create_arg(dict(value))  # a kind of dictionary that is built in another way
        why = f"a {kind.__name__} cannot be put together from its fields ({error}): return a tuple or a dict"
        kind, problem = dict, why
    node = tracer.create_node("call_function", kind, tracer.create_arg(args), tracer.create_arg(kwargs))
    note(node, problem=problem)
    return node


def _on_example(tracer: Any, value: Any) -> Any:
    return fx.node.map_aggregate(value, lambda each: tracer.values[each.node] if isinstance(each, fx.Proxy) else each)
