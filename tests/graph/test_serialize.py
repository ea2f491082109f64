"""Graphs as plain data: everything of the table there and back, and nothing else in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qffs.errors import CheckpointError
from qffs.graph.rebuild import rebuild
from qffs.graph.rules import ADDRESSES, MODULES, OURS, SPACES
from qffs.graph.rules import FUNCTIONS as FUNCTION_NAMES
from qffs.graph.serialize import describe
from qffs.graph.site import Kind, site
from qffs.graph.trace.trace import trace
from qffs.method import FiringRule
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import FullPrecision, Quantizer


class Calls(nn.Module):
    """Calls of every sort: methods, functions, slices, lists, keywords, constants, shapes, nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.Identity(7, why="any"), nn.BatchNorm2d(4))
        self.inner = nn.Module()
        self.inner.gain = nn.Parameter(torch.tensor([1.5]))
        self.inner.register_buffer("shift", torch.tensor([[0.25]], dtype=torch.float64))

    def forward(self, x: Tensor, scale: float = 2.0) -> dict[str, Any]:
        x = F.relu(self.body(x)) * self.inner.gain / scale
        x = F.pad(x[:, 1:, ..., ::2], (0, 1), value=0.0)
        left, right = x.chunk(2, dim=-1)
        y = torch.cat([left, right], dim=1).view(x.shape[0], -1)
        left = left.contiguous(memory_format=torch.channels_last)
        return {"sum": (y - 1).sum(1, keepdim=True) + self.inner.shift, "parts": (x.mean((2, 3)), -left)}


def restored(network: fx.GraphModule) -> fx.GraphModule:
    tensors = network.state_dict()
    again = rebuild(json.loads(json.dumps(describe(network))), tensors)
    assert all(tensor.is_meta for tensor in again.state_dict().values())
    again.load_state_dict(tensors, strict=True, assign=True)
    return again.eval()


def test_a_graph_comes_back_whole() -> None:
    network, x = trace(Calls().eval(), torch.randn(2, 2, 4, 6)), torch.randn(3, 2, 4, 6)
    again = restored(network)
    before, after = network(x), again(x)
    assert before.keys() == after.keys()
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    assert before["parts"][1].stride() == after["parts"][1].stride()
    assert describe(again) == describe(network)
    for mine, theirs in zip(again.graph.nodes, network.graph.nodes, strict=True):
        assert (site(mine).shape, site(mine).batch) == (site(theirs).shape, site(theirs).batch)
    assert dict(again.named_parameters()).keys() == dict(network.named_parameters()).keys()
    assert "inner.gain" in dict(again.named_parameters())
    assert "inner.shift" in dict(again.named_buffers())


OPTIONS: dict[type[nn.Module], list[dict[str, Any]]] = {
    nn.LayerNorm: [{"normalized_shape": (3, 4), "eps": 1e-3}, {"normalized_shape": 5, "elementwise_affine": False}],
    nn.GroupNorm: [{"num_groups": 2, "num_channels": 4}, {"num_groups": 1, "num_channels": 4, "affine": False}],
    **{
        kind: [{"in_channels": 2, "out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 2, "bias": False}]
        for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    },
    nn.Linear: [{"in_features": 3, "out_features": 2, "bias": False}],
    **{
        kind: [{"kernel_size": 2, "stride": 1, "ceil_mode": True}]
        for kind in (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
    },
    nn.AdaptiveAvgPool2d: [{"output_size": (1, None)}],
    nn.Flatten: [{"start_dim": 2}],
    nn.Unflatten: [{"dim": 1, "unflattened_size": (2, 3)}],
    nn.ZeroPad2d: [{"padding": (1, 2, 3, 4)}],
    **{kind: [{"padding": 1, "value": -0.5}] for kind in (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)},
    **{kind: [{"norm_type": 3, "kernel_size": 2}] for kind in (nn.LPPool1d, nn.LPPool2d, nn.LPPool3d)},
    nn.ChannelShuffle: [{"groups": 2}],
    nn.Fold: [{"output_size": (4, 5), "kernel_size": 2, "stride": 2}],
    nn.Unfold: [{"kernel_size": 2, "padding": 1}],
    nn.Upsample: [{"scale_factor": 2, "mode": "bilinear", "align_corners": True}, {"size": (3, 4)}],
    nn.Threshold: [{"threshold": 0.5, "value": 1.0}],
    nn.RMSNorm: [{"normalized_shape": (3,)}],
    nn.InstanceNorm2d: [{"num_features": 3, "affine": True, "track_running_stats": True}],
    nn.LocalResponseNorm: [{"size": 3, "alpha": 0.5}],
    nn.Bilinear: [{"in1_features": 2, "in2_features": 3, "out_features": 4, "bias": False}],
    nn.Embedding: [{"num_embeddings": 3, "embedding_dim": 4, "padding_idx": 1}],
    nn.MultiheadAttention: [
        {"embed_dim": 4, "num_heads": 2, "batch_first": True},
        {"embed_dim": 4, "num_heads": 2, "bias": False, "add_bias_kv": True, "kdim": 3, "dropout": 0.5},
    ],
    nn.PixelShuffle: [{"upscale_factor": 2}],
    nn.PixelUnshuffle: [{"downscale_factor": 2}],
    nn.BatchNorm2d: [
        {"num_features": 3, "eps": 1e-3, "momentum": None},
        {"num_features": 3, "affine": False},
        {"num_features": 3, "track_running_stats": False},
    ],
    nn.Dropout: [{"p": 0.25}],
    Quantizer: [{"highest": 7, "offset": 0.25}, {"highest": 2, "clip": 6.0, "channels": 3}],
    FullPrecision: [{}, {"clip": 0.5}],
    Neuron: [
        {"highest": 7, "rule": FiringRule(precharge=0.25, negative_spikes=False, cap=False, reset="zero")},
        {"highest": 3, "rule": FiringRule(multi_spike=True, decay=0.5)},
        {"highest": 2, "shape": (3, 1, 1)},
    ],
}
SMALLEST = {1: {"output_size": 1}, 2: {"num_features": 3}, 3: {"padding": 1}}


def built(kind: type[nn.Module]) -> list[nn.Module]:
    if kind in OPTIONS:
        return [kind(**options) for options in OPTIONS[kind]]
    for options in ({}, *SMALLEST.values()):
        try:
            return [kind(**options)]
        except TypeError:
            continue
    raise AssertionError(f"no options to build a {kind.__name__} with")


KEPT = [kind for kind, rule in MODULES.items() if rule.kind is not Kind.REFUSED]


@pytest.mark.parametrize("kind", KEPT, ids=lambda kind: kind.__name__)
def test_every_module_of_the_table_comes_back_with_its_options(kind: type[nn.Module]) -> None:
    for original in built(kind):
        graph = fx.Graph()
        graph.output(graph.call_module("layer", (graph.placeholder("x"),)))
        again = restored(fx.GraphModule({"layer": original}, graph)).layer
        assert type(again) is kind
        assert repr(again) == repr(original)
        assert again.state_dict().keys() == original.state_dict().keys()


def test_rebuilding_draws_no_random_numbers() -> None:
    network = trace(Calls().eval(), torch.randn(2, 2, 4, 6))
    description, before = describe(network), torch.get_rng_state()
    rebuild(description, network.state_dict())
    assert torch.equal(torch.get_rng_state(), before)


# What cannot be saved


class Of(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (torch.special.i0, "i0"),
        (Tensor.cummax, "cummax"),
        (lambda x: x.cosh(), "the operator cosh at cosh cannot be saved: there is no rule for it"),
        (lambda x: x.data, "reads another attribute than shape, ndim, dtype, device"),
        (lambda x: x.flatten(torch.tensor(1)), "an operator's argument tensor"),
    ],
)
def test_what_has_no_rule_is_named(function: Callable[[Tensor], Any], message: str) -> None:
    graph = fx.Graph()
    x = fx.Proxy(graph.placeholder("x"))
    returned = (
        function(x)
        if function not in (torch.special.i0, Tensor.cummax)
        else fx.Proxy(graph.call_function(function, (x.node,)))
    )
    if isinstance(returned, fx.Proxy):
        graph.output(returned.node)
    with pytest.raises(CheckpointError, match=message):
        describe(fx.GraphModule({}, graph))


def test_a_module_without_a_rule_and_keys_that_json_would_change_are_refused() -> None:
    graph = fx.Graph()
    graph.output(graph.call_module("layer", (graph.placeholder("x"),)))
    with pytest.raises(CheckpointError, match="a LSTM cannot be saved: there is no rule for it"):
        describe(fx.GraphModule({"layer": nn.LSTM(2, 2)}, graph))
    graph = fx.Graph()
    graph.output({1: graph.placeholder("x")})
    with pytest.raises(CheckpointError, match="cannot be saved"):
        describe(fx.GraphModule({}, graph))


# What others may write into a description


def good() -> tuple[dict[str, Any], dict[str, Tensor]]:
    network = trace(
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)), torch.ones(1, 1, 2, 2)
    )
    return describe(network), network.state_dict()


def node(description: dict[str, Any], op: str) -> dict[str, Any]:
    return next(entry for entry in description["nodes"] if entry["op"] == op)


def call(target: str, op: str = "call_function", args: Any = ({"node": "input_1"},), **more: Any) -> dict[str, Any]:
    return {"name": "evil", "op": op, "target": target, "args": list(args), "kwargs": {}, "shape": None, **more}


def with_node(entry: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda description: description["nodes"].insert(1, entry)


def with_option(name: str, value: Any, path: str = "0") -> Callable[[dict[str, Any]], None]:
    return lambda description: description["modules"][path].__setitem__(name, value)


def renamed(path: str) -> Callable[[dict[str, Any]], None]:
    """A ReLU called under another path, and a call of it."""

    def change(description: dict[str, Any]) -> None:
        description["modules"][path] = {"type": "ReLU", "inplace": False}
        description["nodes"].insert(1, call(path, "call_module"))

    return change


CODE = "x\nimport os; os.mkdir('ran')"
NAMES = (CODE, "x, y=print('ran')", "x)", "", "lambda", "1x", "x;y", 5, None, ["x"], {"node": "x"})
FUNCTIONS = (
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "os.system",
    "operator.methodcaller",
    "operator.attrgetter",
    "torch.load",
    "torch.hub.load",
    "getattr",
    5,
    None,
    ["builtins.getattr"],
)
PATHS = (
    *("graph", "code", "forward", "__class__", "_modules", "_tracer_cls", "meta", "training", "class", "T_destination"),
    *("recompile", "state_dict", "__dict__", "__getattr__", "add_module", "graph.x", "forward.x", "__class__.x"),
    *("0.weight", "0.forward", "1.2.__class__", "a..b", ".a", "a.", "", 'a"b', "a\\b", CODE),
)

DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"node named {name!r}": lambda d, n=name: node(d, "call_module").update(name=n) for name in NAMES},
    **{f"placeholder {name!r}": lambda d, n=name: node(d, "placeholder").update(target=n) for name in NAMES},
    **{f"keyword {name!r}": with_node(call("torch.flatten", kwargs={str(name): 1})) for name in NAMES[:5]},
    **{f"function {name!r}": with_node(call(name)) for name in FUNCTIONS},
    **{
        f"method {name!r}": with_node(call(name, "call_method"))
        for name in (
            "__class__",
            "__reduce__",
            "__reduce_ex__",
            "apply_",
            "tofile",
            "backward",
            "share_memory_",
            "view\n",
            5,
            None,
        )
    },
    **{
        f"attribute {name!r}": with_node(call("builtins.getattr", args=({"node": "input_1"}, name)))
        for name in ("__class__", "__globals__", "data", "grad_fn", "shape\n", "grad", 5, None, {"node": "input_1"})
    },
    "attribute by keyword": with_node(
        call("builtins.getattr", args=({"node": "input_1"},), kwargs={"name": "__class__"})
    ),
    "attribute with a default": with_node(call("builtins.getattr", args=({"node": "input_1"}, "shape", 0))),
    **{
        f"module type {name!r}": with_option("type", name)
        for name in ("GELU", "Module", "GraphModule", "nn.Conv2d", "Sequential", "", 5, None, ["Conv2d"])
    },
    **{f"path {path!r}": renamed(path) for path in PATHS},
    **{f"call of {path!r}": with_node(call(path, "call_module")) for path in (*PATHS, "9", 5, None)},
    **{
        f"constant {path!r}": with_node(call(path, "get_attr")) for path in (*PATHS, "9", 5, None) if path != "0.weight"
    },
    **{f"operation {op!r}": with_node(call("x", op)) for op in ("call", "root", "exec", "", None, 5, ["output"])},
    "unknown option": with_option("device", "cpu"),
    "option dtype": with_option("dtype", "float32"),
    "option self": with_option("self", 1),
    "wrong type of option": with_option("in_channels", "1"),
    "option of a node": with_option("in_channels", {"node": "input_1"}),
    "negative option": with_option("out_channels", -1),
    "overflowing option": with_option("out_channels", 10**30),
    "no such kind of value": with_option("stride", {"what": 1}),
    "module nowhere": lambda d: d["modules"].update({"graph.x": {"type": "ReLU"}}),
    "no modules": lambda d: d.pop("modules"),
    "modules are a list": lambda d: d.update(modules=["0"]),
    "no nodes": lambda d: d.pop("nodes"),
    "nodes are empty": lambda d: d.update(nodes=[]),
    "nodes are text": lambda d: d.update(nodes="x"),
    "no output": lambda d: d["nodes"].pop(),
    "two outputs": lambda d: d["nodes"].append({**d["nodes"][-1], "name": "again"}),
    "a name twice": lambda d: d["nodes"].insert(1, {**d["nodes"][1]}),
    "read before it is there": lambda d: d["nodes"].insert(1, d["nodes"].pop(2)),
    "unknown node": lambda d: node(d, "output").update(args=[{"node": "nobody"}]),
    "impossible shape": lambda d: node(d, "call_module").update(shape={"tuple": [1, -2]}),
    "shape of text": lambda d: node(d, "call_module").update(shape="1x2"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_description_that_names_anything_else_is_refused_and_runs_nothing(
    damage: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    description, tensors = good()
    rebuild(json.loads(json.dumps(description)), tensors)
    DAMAGE[damage](description)
    # A tensor of the same name must not open the door.
    tensors |= dict.fromkeys([path for path in PATHS if path != "0.weight"], torch.ones(1))
    with pytest.raises(CheckpointError) as caught:
        rebuild(json.loads(json.dumps(description)), tensors)
    assert len(str(caught.value)) < 500
    assert not list(tmp_path.iterdir())
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "description", [None, 5, "x", [], {}, {"modules": {}, "nodes": {}}, {"modules": {}, "nodes": [5]}]
)
def test_what_is_no_description_is_refused(description: Any) -> None:
    with pytest.raises(CheckpointError, match="description of the network is damaged"):
        rebuild(description, {})


def test_a_huge_option_takes_no_memory() -> None:
    description, tensors = good()
    description["modules"]["0"]["out_channels"] = 10**15
    again = rebuild(description, tensors)
    assert again.get_submodule("0").weight.is_meta


def test_every_function_of_the_table_is_found_where_its_address_says() -> None:
    assert ADDRESSES
    for address, function in ADDRESSES.items():
        space, _, name = address.rpartition(".")
        assert (OURS[address] if space.startswith("qffs.") else getattr(SPACES[space], name)) is function
        assert FUNCTION_NAMES[function] == name


@pytest.mark.parametrize("batch", [5, "x", {"tuple": [0, -1]}, {"tuple": [0, "x"]}, [[1.5]]])
def test_an_impossible_batch_dimension_is_refused(batch: Any) -> None:
    description, tensors = good()
    node(description, "call_module").update(batch=batch)
    with pytest.raises(CheckpointError, match="impossible batch dimension"):
        rebuild(description, tensors)
