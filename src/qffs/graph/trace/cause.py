"""The cause of a difference between a graph and its model, found by running copies of the model and watching them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qffs.graph.nested import same, tensors
from qffs.graph.rules import module_at
from qffs.graph.site import line_at
from qffs.nn.inspect import OF_MODULES

RANDOM = (
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli"),
    *(
        "multinomial",
        "poisson",
        "uniform_",
        "normal_",
        "bernoulli_",
        "random_",
        "exponential_",
        "cauchy_",
        "geometric_",
    ),
    *("log_normal_", "rrelu", "gumbel_softmax"),
)
"""The functions and methods of torch that draw random numbers."""

WRITES = ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "copy_")


def cause_of_outputs(new: Callable[[], nn.Module], inputs: tuple[Tensor, ...]) -> str:
    """Return in words why a graph and its model may compute different outputs.

    new: returns a copy of the model that has not run; inputs: the example.
    """
    watch, model = _Watch(), new()
    with watch:
        first = model(*map(torch.clone, inputs))
    if watch.random:
        return f"its code draws random numbers: {', '.join(dict.fromkeys(watch.random))}; draw them in training only"
    if not same(first, new()(*map(torch.clone, inputs))):
        return (
            "its output changes from run to run of the same network: its code draws random numbers, or keeps a value "
            "outside of the network"
        )
    with torch.enable_grad():
        trained = new()(*map(torch.clone, inputs))
    if not same(first, trained):
        return "its code computes something else where gradients are off (torch.is_grad_enabled)"
    before = _state(model)
    second = model(*map(torch.clone, inputs))
    if not same(first, second):
        changed = [name for name, value in _state(model).items() if before.get(name) != value]
        names = f" ({', '.join(changed)})" if changed else ""
        return (
            f"its output changes from call to call, because its code keeps a value in an attribute{names} and reads it "
            "in the next call before it writes it; a network without a memory is needed"
        )
    if watch.writes:
        written = ", ".join(dict.fromkeys(watch.writes))
        return f"its code changes a value in place that is also read elsewhere ({written}); write the plain form"
    return (
        "its code asks for the type of a value (isinstance), or computes with values that PyTorch does not see, as "
        "NumPy does; write the plain form"
    )


def cause_of_gradients(model: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """Return in words why a graph and its model may have different gradients."""
    paths = {module: path or "the model" for path, module in model.named_modules()}
    called, weights = dict[str, str](), dict(model.named_parameters())

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is torch.autograd.Function.apply.__func__.__code__:  # type: ignore[attr-defined]
            module, within = module_at(frame)
            if not within and frame.f_back is not None:
                name, path = frame.f_locals["cls"].__name__, paths.get(module, "the model")
                called.setdefault(name, f"{path}, {line_at(frame.f_back)}")

    with _profiled(watch):
        model(*map(torch.clone, inputs))
    lost = "cannot be read as a static graph, because it would lose gradients: "
    made = [name for name, _ in model.named_parameters() if name not in weights]
    if made:
        return f"{lost}its code makes weights when it runs ({', '.join(made)}); run it once first"
    if not called:
        return f"{lost}those of the graph differ from those of the model, where its code changes them"
    listed = ", ".join(f"{name} ({place})" for name, place in called.items())
    return (
        f"{lost}{listed} ha{'s' if len(called) == 1 else 've'} a backward of its own; call it in a function with a "
        "global name, which qffs.register keeps as one step"
    )


@contextmanager
def _profiled(watch: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    """Call ``watch`` at every call in this thread."""
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)


class _Watch(TorchFunctionMode):
    """Watches, in this thread, which functions draw random numbers or change tensors, and in which lines."""

    def __init__(self) -> None:
        super().__init__()
        self.random: list[str] = []
        self.writes: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        place = f"{name}, {line_at(sys._getframe(1))}"
        drops = "dropout" in name and (kwargs or {}).get("training", True)
        if name in RANDOM or drops:
            self.random.append(place)
        elif name in WRITES or (name.endswith("_") and not name.startswith("_")) or (kwargs or {}).get("inplace"):
            self.writes.append(place)
        return func(*args, **(kwargs or {}))


def _state(model: nn.Module) -> dict[str, Any]:
    """Return what tells by attribute whether a network has changed it."""
    return {
        f"{path}.{name}" if path else name: (
            [(id(x), x._version) for x in tensors(value)],
            id(value),
            len(value) if isinstance(value, Sized) else 0,
        )
        for path, module in model.named_modules()
        for name, value in {**vars(module), **module._buffers}.items()
        if name not in OF_MODULES
    }
