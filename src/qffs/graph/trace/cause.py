"""The cause of a difference between a graph and its model, found by running copies of the model and watching them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sized
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, FunctionCtx
from torch.overrides import TorchFunctionMode

from qffs.graph.nested import mapped, same, tensors
from qffs.graph.rules import module_at, registered_functions
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

SCALES = (1.0, 10.0, 100.0)
"""The factors of what a function with a backward of its own reads, with which its gradients are compared."""

Alike = Callable[[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...]], bool]
"""Whether two functions have the same gradients on inputs."""

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
        names = _listed(_changed(before, model))
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


def kept_images(new: Callable[[], nn.Module], inputs: tuple[Tensor, ...], few: int) -> str:
    """Return in words that a model keeps values of its last images, and so runs on no other number; "" if it does not.

    new: returns a copy of the model, which has failed on the first ``few`` images of the inputs.
    """
    model, shorter = new(), new()
    before = _state(model)
    try:
        model(*map(torch.clone, inputs))
        changed = [name for name in _changed(before, model) if name in before]
        for name in changed:
            home, attribute = shorter.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
            kept = getattr(home, attribute)
            setattr(home, attribute, mapped(kept, lambda x: x[:few] if x.shape[:1] == inputs[0].shape[:1] else x))
        shorter(*(x[:few].clone() for x in inputs))
    except Exception:  # whatever its code raises: this is not the cause
        return ""
    return (
        f"its code keeps values of the images in an attribute{_listed(changed)} and reads them in the next call before "
        "it writes them, so it takes the number of images of its last call only; a network without a memory is needed"
    )


def _changed(before: dict[str, Any], model: nn.Module) -> list[str]:
    """Return the attributes that a network has changed."""
    return [name for name, value in _state(model).items() if before.get(name) != value]


def _listed(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def cause_in_functions(model: nn.Module, inputs: tuple[Tensor, ...], alike: Alike) -> str:
    """Return in words which functions with a backward of their own have other gradients than their forward; "" if none.

    Each is compared alone, on what it reads: what comes after it may have no gradients on the example, as a layer of
    zeros has none, or units that are all 0. alike: returns whether two functions have the same gradients on inputs.
    """
    changed = [call for call in _calls(model, inputs) if not _keeps_gradients(call, alike)]
    return _lost_in(changed) if changed else ""


def _keeps_gradients(call: _Call, alike: Alike) -> bool:
    """Return whether a function with a backward of its own has the gradients of its forward, at several sizes."""
    for scale in SCALES:
        read = tuple(scale * _without_zeros(x) if x.is_floating_point() else x for x in call.inputs)
        try:
            kept = alike(call.plain, call.apply, read)
        except Exception:  # whatever its code raises on other values than those of the example
            continue
        if not kept:
            return False
    return True


def _without_zeros(x: Tensor) -> Tensor:
    """Return x with random numbers in the place of zeros, where gradients may jump; they are positive unless x is 0."""
    random = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x)
    return torch.where(x == 0, random.abs() if bool(x.any()) else random, x)


def cause_of_gradients(model: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """Return in words why a graph and its model may have different gradients."""
    weights = dict(model.named_parameters())
    calls = _calls(model, inputs)
    made = [name for name, _ in model.named_parameters() if name not in weights]
    if made:
        return f"{_LOST}its code makes weights when it runs ({', '.join(made)}); run it once first"
    if not calls:
        return (
            f"{_LOST}those of the graph differ from those of the model, where its code changes them, or computes with "
            "weights that it does not read by name (self.layer.weight)"
        )
    return _lost_in(calls)


_LOST = "cannot be read as a static graph, because it would lose gradients: "


class _Call(NamedTuple):
    """A call of a `torch.autograd.Function`: its name and place, itself, its forward alone, and what these read.

    ``apply`` and ``plain`` are functions of ``inputs``, the arguments that have gradients.
    """

    name: str
    place: str
    apply: Callable[..., Any]
    plain: Callable[..., Any]
    inputs: tuple[Tensor, ...]


def _lost_in(calls: list[_Call]) -> str:
    """Return in words that calls have a backward of their own."""
    places = {call.name: call.place for call in reversed(calls)}  # the first one of each name
    listed = ", ".join(f"{name} ({place})" for name, place in reversed(places.items()))
    return (
        f"{_LOST}{listed} ha{'s' if len(places) == 1 else 've'} a backward of its own; call it in a function with a "
        "global name, which qffs.register keeps as one step"
    )


def _calls(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[_Call]:
    """Return the calls of a `torch.autograd.Function` that the code of a model makes with gradients."""
    paths = {module: path or "the model" for path, module in model.named_modules()}
    steps = {getattr(function, "__code__", None) for function in registered_functions()}
    calls: list[_Call] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or frame.f_code is not Function.apply.__func__.__code__:  # type: ignore[attr-defined]
            return
        module, within = module_at(frame)
        if within or frame.f_back is None or not torch.is_grad_enabled() or _runs_in(steps, frame):
            return
        kind, args = frame.f_locals["cls"], frame.f_locals["args"]
        place = f"{paths.get(module, 'the model')}, {line_at(frame.f_back)}"
        calls.append(_Call(kind.__name__, place, *_forms(kind, args)))

    before = sys.getprofile()
    with torch.enable_grad():
        leaves = [x.clone().requires_grad_(x.is_floating_point() or x.is_complex()) for x in inputs]
        sys.setprofile(watch)
        try:
            model(*map(torch.clone, leaves))
        finally:
            sys.setprofile(before)
    return calls


def _runs_in(functions: set[Any], frame: FrameType | None) -> bool:
    """Return whether a frame runs in one of the functions, given by their code."""
    while frame is not None and frame.f_code not in functions:
        frame = frame.f_back
    return frame is not None


def _forms(kind: Any, args: tuple[Any, ...]) -> tuple[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...]]:
    """Return the call of a `torch.autograd.Function`, that of its forward alone, and the tensors that both read."""
    smooth = [isinstance(each, Tensor) and each.requires_grad for each in args]
    kept = [each.detach().clone() if isinstance(each, Tensor) else each for each in args]

    def full(inputs: tuple[Tensor, ...]) -> list[Any]:
        following = iter(inputs)
        return [next(following) if is_smooth else each for each, is_smooth in zip(kept, smooth, strict=True)]

    def plain(*inputs: Tensor) -> Any:
        context: Any = FunctionCtx()
        context.needs_input_grad = tuple(smooth)
        before = () if kind.setup_context is not Function.setup_context else (context,)
        with _Differentiated():
            return kind.forward(*before, *full(inputs))

    read = tuple(each for each, is_smooth in zip(kept, smooth, strict=True) if is_smooth)
    return lambda *inputs: kind.apply(*full(inputs)), plain, read


class _Differentiated(TorchFunctionMode):
    """Gradients for all calls: as in a graph, where no_grad within a `torch.autograd.Function` means nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch.enable_grad():
            return func(*args, **(kwargs or {}))


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
            len(value) if isinstance(value, Sized) and not isinstance(value, Tensor) else 0,  # one of no dimension
        )
        for path, module in model.named_modules()
        for name, value in {**vars(module), **module._buffers}.items()
        if name not in OF_MODULES
    }
