"""The node of a value of a class of the network's own: the call that puts it together."""

from __future__ import annotations

from typing import Any

from qffs.graph.nested import Form
from qffs.graph.site import note


def assembled(tracer: Any, value: Any, built: Form) -> Any:
    """Return the node that puts a value together from its fields (`qffs.graph.nested.form`)."""
    kind, args, kwargs = built
    problem = None
    try:
        kind(*args, **kwargs)  # as the code has just done
    except Exception as error:
        if not kwargs:
            return tracer.create_arg(dict(value))  # a kind of dictionary that is built in another way
        why = f"a {kind.__name__} cannot be put together from its fields ({error}): return a tuple or a dict"
        kind, problem = dict, why
    node = tracer.create_node("call_function", kind, tracer.create_arg(args), tracer.create_arg(kwargs))
    note(node, problem=problem)
    return node
