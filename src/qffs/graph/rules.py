"""The table of operators: what every operator becomes in a spiking network.

An edge of the network carries increments, and their sum over time is the value in the quantized network. An operator is

- **linear**: applied to each increment as it comes; its constant part is charged with the input;
- **spiking**: a neuron, at every activation quantizer;
- **differenced**: ``g(X_t) - g(X_{t-1})`` on the accumulated input;

or it is folded into the operator before it, or it is no signal (shapes, constants), or it is refused with a reason. A
row of `MODULES` is a class of `torch.nn`. A row of `OPERATORS` is a name in all its forms: a function of `torch`, of
`torch.nn.functional` and of `operator`, and a method of a tensor.
"""

from __future__ import annotations

import builtins
import dataclasses
import operator
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, MethodDescriptorType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument
from qffs.graph import operators
from qffs.graph.site import Kind
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import FullPrecision, Quantizer


@dataclass(frozen=True)
class Rule:
    """A row of the table: the ``kind`` of an operator, and in ``why`` what this means in words.

    values: the operator sends values, not spikes; claimed: a user has registered the operator, so tracing tests whether
    it is linear if that is its kind.
    """

    kind: Kind
    why: str
    values: bool = False
    claimed: bool = False


LINEAR = Rule(Kind.LINEAR, "applied to every increment")
PRODUCT = Rule(Kind.LINEAR, "applied to every increment; differenced where both operands are signals")
SUM = Rule(Kind.SUM, "increments are added, constants are charged with the input")
JOIN = Rule(Kind.JOIN, "increments are joined, constants are charged with the input")
SPIKING = Rule(Kind.SPIKING, "a ReLU becomes a quantizer, then a neuron")
CLIPPED = Rule(Kind.SPIKING, "a clipped ReLU becomes a quantizer, at first with no level above the clip, then a neuron")
QUANTIZED = Rule(Kind.SPIKING, "a quantizer becomes a neuron")
DIFFERENCED = Rule(Kind.DIFFERENCED, "g(X_t) - g(X_{t-1}) on the accumulated input")
NONLINEAR = Rule(
    Kind.DIFFERENCED, "g(X_t) - g(X_{t-1}) on the accumulated input: sends values, not single spikes", values=True
)
ANALOG = Rule(Kind.DIFFERENCED, "reads only the input of the network: computed once, and charged as the input is")
FOLDED = Rule(Kind.FOLDED, "folded into the operator before it, or the identity, outside training")
PLAIN = Rule(Kind.PLAIN, "a shape or a constant, the same at every step")
RECURRENT = Rule(Kind.REFUSED, "it is recurrent: only feed-forward networks are converted")
ROUNDING = Rule(Kind.REFUSED, "it jumps: the least rounding error of a signal would decide its result")
RANDOM = Rule(Kind.REFUSED, "it draws random numbers")

_DIMENSIONS = (1, 2, 3)


def _modules(names: str) -> list[type[nn.Module]]:
    """Return the classes of torch.nn with these names, {} being 1, 2 and 3. Older versions of torch lack some."""
    written = [name.format(d) for name in names.split() for d in (_DIMENSIONS if "{}" in name else (0,))]
    return [getattr(nn, name) for name in written if hasattr(nn, name)]


MODULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys(_modules("Conv{}d ConvTranspose{}d Linear AvgPool{}d AdaptiveAvgPool{}d"), LINEAR),
    **dict.fromkeys(_modules("Flatten Unflatten PixelShuffle PixelUnshuffle ChannelShuffle Fold Unfold"), LINEAR),
    **dict.fromkeys(_modules("Upsample UpsamplingNearest2d UpsamplingBilinear2d"), LINEAR),
    **dict.fromkeys(_modules("ZeroPad{}d ConstantPad{}d ReflectionPad{}d ReplicationPad{}d CircularPad{}d"), LINEAR),
    **dict.fromkeys(_modules("BatchNorm{}d SyncBatchNorm Dropout Dropout{}d Identity"), FOLDED),
    **dict.fromkeys(_modules("AlphaDropout FeatureAlphaDropout"), FOLDED),
    **dict.fromkeys(_modules("MaxPool{}d AdaptiveMaxPool{}d"), DIFFERENCED),
    **dict.fromkeys(_modules("LeakyReLU PReLU RReLU ELU CELU SELU SiLU GELU Mish GLU Hardtanh Threshold"), NONLINEAR),
    **dict.fromkeys(_modules("Sigmoid LogSigmoid Tanh Softplus Softsign Hardsigmoid Hardswish"), NONLINEAR),
    **dict.fromkeys(_modules("Softshrink Tanhshrink Softmax Softmax2d Softmin LogSoftmax"), NONLINEAR),
    **dict.fromkeys(_modules("LayerNorm GroupNorm RMSNorm InstanceNorm{}d LocalResponseNorm"), NONLINEAR),
    **dict.fromkeys(_modules("LPPool{}d CosineSimilarity Bilinear Embedding MultiheadAttention"), NONLINEAR),
    **dict.fromkeys(_modules("RNN LSTM GRU RNNCell LSTMCell GRUCell"), RECURRENT),
    **dict.fromkeys(_modules("Hardshrink"), ROUNDING),
    **dict.fromkeys(_modules("FractionalMaxPool2d FractionalMaxPool3d"), RANDOM),
    nn.ReLU: SPIKING,
    FullPrecision: NONLINEAR,
    Quantizer: QUANTIZED,
    Neuron: QUANTIZED,
}


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    written = [name.format(d) for name in names.split() for d in (_DIMENSIONS if "{}" in name else (0,))]
    return dict.fromkeys(written, rule)


OPERATORS: dict[str, Rule] = {
    **_named(SUM, "add sub subtract rsub"),
    **_named(JOIN, "cat concat concatenate stack hstack vstack dstack where masked_fill write"),
    **_named(PRODUCT, "mul multiply matmul mm bmm mv einsum tensordot inner outer"),
    **_named(LINEAR, "div divide true_divide truediv neg negative mean sum cumsum diff"),
    **_named(LINEAR, "linear conv{}d conv_transpose{}d avg_pool{}d adaptive_avg_pool{}d interpolate"),
    **_named(LINEAR, "pixel_shuffle pixel_unshuffle channel_shuffle grid_sample"),
    **_named(LINEAR, "native_channel_shuffle pad fold unfold flatten unflatten view view_as reshape reshape_as"),
    **_named(LINEAR, "permute transpose t swapaxes swapdims movedim moveaxis squeeze unsqueeze expand expand_as"),
    **_named(LINEAR, "broadcast_to repeat tile repeat_interleave roll flip fliplr flipud rot90 adjoint"),
    **_named(LINEAR, "getitem select narrow index_select gather take_along_dim unbind split chunk tensor_split"),
    **_named(LINEAR, "split_with_sizes diagonal tril triu contiguous clone detach to type_as at_least"),
    **_named(DIFFERENCED, "max_pool{}d adaptive_max_pool{}d amax amin"),
    **_named(NONLINEAR, "leaky_relu prelu rrelu elu celu selu silu gelu mish glu hardtanh clamp clip clamp_min"),
    **_named(NONLINEAR, "clamp_max threshold sigmoid logsigmoid tanh softplus softsign hardsigmoid hardswish"),
    **_named(NONLINEAR, "softshrink tanhshrink softmax softmin log_softmax logsumexp exp expm1 log log1p sqrt rsqrt"),
    **_named(NONLINEAR, "square pow abs absolute reciprocal sin cos tan atan atan2 erf max min maximum minimum prod"),
    **_named(
        NONLINEAR, "var std var_mean std_mean norm vector_norm normalize layer_norm group_norm rms_norm instance_norm"
    ),
    **_named(NONLINEAR, "local_response_norm lp_pool{}d cosine_similarity bilinear embedding cdist baddbmm addmm"),
    **_named(NONLINEAR, "addbmm addmv addcmul addcdiv lerp scaled_dot_product_attention"),
    **_named(FOLDED, "dropout dropout{}d alpha_dropout feature_alpha_dropout batch_norm"),
    **_named(PLAIN, "getattr size dim numel stride is_floating_point zeros_like ones_like full_like"),
    **_named(PLAIN, "new_zeros new_ones new_full arange zeros ones full empty linspace eye expect _assert"),
    **_named(RECURRENT, "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"),
    **_named(ROUNDING, "eq ne lt le gt ge floordiv mod floor_divide remainder round floor ceil trunc sign"),
    **_named(ROUNDING, "int long bool hardshrink"),
    **_named(ROUNDING, "argmax argmin topk sort argsort invert and_ or_ xor logical_not logical_and logical_or"),
}
"""The rules by name. An operator that is refused on a signal may be applied to a size: such a node is plain."""

PRODUCTS = frozenset(name for name, rule in OPERATORS.items() if rule is PRODUCT)
"""The operators that are linear in each operand."""

MOVING = frozenset(
    _named(
        LINEAR, "flatten unflatten view reshape permute transpose squeeze unsqueeze getitem chunk split narrow select"
    )
    | _named(LINEAR, "contiguous clone detach pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle")
    | _named(LINEAR, "pixelshuffle pixelunshuffle channelshuffle zeropad{}d")  # as modules
)
"""The operators that only move the spikes of neurons."""

QUOTIENTS = frozenset(("div", "divide", "true_divide", "truediv"))
"""The forms of division."""

SHAPED = frozenset(("expand_as", "view_as", "reshape_as", "type_as", "to"))
"""The operators that read only the shape or type of their second operand, which never changes."""

SHAPES = ("shape", "ndim", "dtype", "device")
"""The attributes of a signal that are the same at every step."""

TURNED = ("T", "mT", "H", "mH")
"""The attributes of a signal that are the signal with its dimensions in another order."""

SPACES = {
    "torch.nn.functional": F,
    "torch": torch,
    "operator": operator,
    "builtins": builtins,
    "torch.linalg": torch.linalg,
}
"""The modules in which the functions of the table are searched by name."""

OURS = {
    "qffs.functional.cast.at_least": operators.at_least,
    "qffs.functional.guard.expect": operators.expect,
    "qffs.functional.write.write": operators.write,
    "qffs.functional.write.write_": operators.write_,
}
"""Functions of this library that stand in graphs, by the names that all checkpoints have for them."""

METHODS = frozenset(name for name in OPERATORS if callable(getattr(Tensor, name, None)))
"""The operators that are methods of a tensor."""

ADDRESSES: dict[str, Any] = {
    f"{space}.{name}": getattr(home, name)
    for space, home in SPACES.items()
    for name in OPERATORS
    if callable(getattr(home, name, None)) and (home is not builtins or name == "getattr")
    if getattr(home, name) is not torch.batch_norm  # other arguments than those of F.batch_norm
} | OURS
"""Every function of the table by its address, module and name, as checkpoints write it."""

FUNCTIONS: dict[Any, str] = {function: address.rpartition(".")[2] for address, function in ADDRESSES.items()}
"""The name in the table of every function."""


def name_of(node: fx.Node) -> str | None:
    """Return the name in `OPERATORS` of the function or method that a node calls; None where it has none."""
    if node.op == "call_method":
        return str(node.target) if node.target in METHODS else None
    return FUNCTIONS.get(node.target) if node.op == "call_function" else None


def rule_of(node: fx.Node, root: nn.Module) -> Rule | None:
    """Return the row of the table for a call, without regard to its arguments; None where there is none."""
    if node.op == "call_module":
        return MODULES.get(type(root.get_submodule(str(node.target))))
    name = name_of(node)
    return None if name is None else OPERATORS[name]


def address(target: Any) -> str:
    """Return the address, module and name, of a registered class or function, as checkpoints write it."""
    return f"{target.__module__}:{target.__qualname__}"


def register(target: type[nn.Module] | Callable[..., Any], kind: str, why: str = "") -> None:
    """Add an operator of your own to the table of operators, for all networks from now on.

    target: a class of modules, which then is one operator of the graph, or a function that modules call by a global
    name; subclasses of the class are not included; kind: "linear" for an operator with ``f(a + b) = f(a) + f(b)``,
    which is applied to every increment, or "differenced" for any other function of its tensor arguments that keeps no
    state and computes each image alone; why: a remark that the plan shows.

    Returns None. Tracing tests on the example whether an operator that is registered as linear is linear. A checkpoint
    only names the operator: register it also before `qffs.load`.

    Raises `InvalidArgument` on any other kind or target, and where the library's own table has the target.

    >>> class Wavelet(torch.nn.Module):
    ...     def forward(self, x: torch.Tensor) -> torch.Tensor:
    ...         return torch.stack([x[..., ::2] + x[..., 1::2], x[..., ::2] - x[..., 1::2]], -1).flatten(-2)
    >>> qffs.register(Wavelet, "linear", "the Haar transform")
    >>> model = torch.nn.Sequential(Wavelet(), torch.nn.ReLU())
    >>> print(qffs.plan(model, torch.randn(1, 4)).rows[1])
    Wavelet at 0: the Haar transform
    """
    rules = {"linear": LINEAR, "differenced": NONLINEAR}
    if kind not in rules:
        raise InvalidArgument(f'an operator can be registered as "linear" or "differenced", not {kind!r}')
    rule = dataclasses.replace(rules[kind], why=why or rules[kind].why, claimed=True)
    row = MODULES.get(target) if isinstance(target, type) else OPERATORS.get(FUNCTIONS.get(target, ""))
    if row is not None and not row.claimed:
        raise InvalidArgument(f"{target.__name__} is in the library's own table, which cannot be changed")
    if isinstance(target, type) and issubclass(target, nn.Module):
        MODULES[target] = rule
    elif callable(target) and not isinstance(target, type) and _is_global(target):
        ADDRESSES[address(target)] = target
        FUNCTIONS[target] = address(target)
        OPERATORS[address(target)] = rule
    else:
        raise InvalidArgument(
            f"an operator is a class of torch.nn.Module or a function of a global name, not {target!r}"
        )


def _is_global(function: Any) -> bool:
    """Return whether a function can be called by a global name: methods and lambdas cannot."""
    has_name = getattr(function, "__module__", None) and hasattr(function, "__qualname__")
    return bool(has_name) and not isinstance(function, MethodDescriptorType) and "<lambda>" not in function.__qualname__


def registered_functions() -> tuple[Callable[..., Any], ...]:
    """Return the functions that users have registered."""
    return tuple(function for name, function in ADDRESSES.items() if ":" in name)


_COMPOSED = tuple(f"torch.nn.modules.{name}" for name in ("container", "transformer"))


def is_leaf(module: nn.Module) -> bool:
    """Return whether a call of the module is one node of a graph. The code of all other modules is traced.

    Leaves are the modules of the table, and all modules of torch.nn but those composed of other modules, so that a
    message can refuse them by name.
    """
    kind = type(module)
    is_torch = getattr(nn, kind.__name__, None) is kind
    return kind in MODULES or (is_torch and kind.__module__ not in _COMPOSED)


def module_at(frame: FrameType | None) -> tuple[nn.Module | None, bool]:
    """Return the module whose code runs in a frame, and whether it is part of one operator of a graph."""
    innermost = None
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__:
            module = frame.f_locals["self"]
            innermost = innermost or module
            if is_leaf(module):
                return innermost, True
        frame = frame.f_back
    return innermost, False
