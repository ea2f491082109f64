"""Tracing keeps the function and makes every activation a module of its own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.problems import images, network
from qffs.errors import InvalidArgument, NotConvertible, NotTraceable
from qffs.graph.plan import plan
from qffs.graph.site import site
from qffs.graph.trace.trace import trace


class Forms(nn.Module):
    """Every way to write a ReLU, and in-place sums on values that are read again."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.inplace = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        z = F.relu(y) + torch.relu(y - 1) + (y - 2).relu() + y.clamp(min=0) + torch.clamp(y, 0)
        z += self.inplace(y - 3)
        z *= 2
        z -= F.relu(input=y)
        z.add_(y)
        return F.relu_(z - 1).relu_()


def test_every_form_of_relu_becomes_its_own_module() -> None:
    model = Forms().double()
    x = torch.randn(5, 3, dtype=torch.float64)
    traced = trace(model, x)
    called = [n.target for n in traced.graph.nodes if n.op == "call_module" and n.target != "linear"]
    assert len(called) == len(set(called)) == 9
    assert all(isinstance(traced.get_submodule(str(path)), nn.ReLU) for path in called)
    assert not any(module.inplace for module in traced.modules() if isinstance(module, nn.ReLU))
    torch.testing.assert_close(traced(x), model(x), rtol=0, atol=0)


class Clipped(nn.Module):
    """Every way to write a ReLU that is clipped from above, one of them shared; and clamps that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.six, self.two, self.tanh = nn.ReLU6(inplace=True), nn.Hardtanh(0, 2.0), nn.Hardtanh()

    def forward(self, x: Tensor) -> Tensor:
        y = self.six(x) + self.six(x - 1) + F.relu6(x) + self.two(x) + F.hardtanh(x, 0, 1.5) + x.clip(0, 3)
        y = y + torch.clamp(x, min=0, max=2) + F.hardtanh(x, min_val=0.0, max_val=4)
        return y + self.tanh(x) + F.hardtanh(x, -2, 2)


def test_clipped_forms() -> None:
    x = 4 * torch.randn(6, 20, dtype=torch.float64)
    traced = trace(Clipped(), x)
    torch.testing.assert_close(traced(x), Clipped()(x), rtol=0, atol=0)
    called = [traced.get_submodule(str(n.target)) for n in traced.graph.nodes if n.op == "call_module"]
    assert [(type(m).__name__, m.min_val, m.max_val) for m in called] == [
        *[("Hardtanh", 0.0, c) for c in (6.0, 6.0, 6.0, 2.0, 1.5, 3.0, 2.0, 4.0)],
        ("Hardtanh", -1.0, 1.0),
    ]
    assert len(set(called)) == 9


def test_what_reads_a_value_after_an_in_place_change_reads_the_change() -> None:
    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            before = x * 2
            y = x + 1
            z = self.relu(y - 1)
            self.relu(y)  # nobody reads its result, but y has changed
            return z + y + before

    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(trace(Aliased(), x)(x), Aliased()(x), rtol=0, atol=0)


@pytest.mark.parametrize("through", ["base", "view"])
def test_an_in_place_change_seen_through_a_view_is_refused(through: str) -> None:
    class Viewed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x - 1
            view = y.flatten(1)
            (view if through == "base" else y).relu_()
            return y.flatten(1) * 2 + view

    with pytest.raises(NotConvertible, match="it changes a tensor in place that is read later under another name"):
        plan(trace(Viewed(), torch.randn(2, 2, 4))).check()


def test_a_clamp_with_an_upper_end_is_no_relu() -> None:
    class Clamped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(min=0, max=6) + torch.clamp(x, -1)

    assert not any(isinstance(module, nn.ReLU) for module in trace(Clamped(), torch.zeros(1, 2)).modules())


def test_function_modes_and_keys_are_kept() -> None:
    model, x = network(), images()
    traced = trace(model, x)
    assert torch.equal(traced(x), model(x))
    assert traced.state_dict().keys() == model.state_dict().keys()
    assert not traced.training


def test_shapes_are_recorded() -> None:
    traced = trace(network(), images(count=3))
    shapes = {node.name: site(node).shape for node in traced.graph.nodes}
    assert shapes["stem"] == (3, 6, 8, 8)
    assert shapes["pool"] == (3, 6, 4, 4)
    assert shapes["head"] == (3, 4)
    assert shapes["size"] is None


def test_functional_dropout_follows_the_mode() -> None:
    class Dropping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, training=self.training)

    x = torch.ones(4, 100)
    traced = trace(Dropping(), x)
    traced.eval()
    assert torch.equal(traced(x), x)
    traced.train()
    assert (traced(x) == 0).any()


def test_control_flow_names_the_line() -> None:
    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            while x.max() > 1:
                x = x / 2
            return x

    with pytest.raises(NotTraceable, match=r"Loop cannot be read .* line \d+: while x.max\(\) > 1:"):
        trace(Loop(), torch.ones(2))


def test_an_example_of_the_wrong_shape_names_the_operator() -> None:
    with pytest.raises(InvalidArgument, match=r"shape \(2, 5\).*\(at linear, test_trace.py, line \d+\)"):
        trace(Forms(), torch.zeros(2, 5))


def test_inputs_with_defaults_take_them() -> None:
    class Optional(nn.Module):
        def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
            return torch.relu(x if mask is None else x * mask) * scale

    x = torch.randn(3, 4)
    traced = trace(Optional(), x)
    torch.testing.assert_close(traced(x), Optional()(x), rtol=0, atol=0)
    assert len(traced.graph.find_nodes(op="placeholder")) == 1
    assert len(trace(Optional(), (x, x)).graph.find_nodes(op="placeholder")) == 2


def test_the_example_says_how_many_inputs_there_are() -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor, *others: Tensor, **options: Any) -> Tensor:
            return torch.relu(x) + sum(others)

    x = torch.randn(2, 3)
    for inputs in ((x,), (x, x + 1), (x, x + 1, x + 2)):
        traced = trace(Many(), inputs)
        assert torch.equal(traced(*inputs), Many()(*inputs))
        assert len(traced.graph.find_nodes(op="placeholder")) == len(inputs)
    with pytest.raises(InvalidArgument, match="the example has 2 inputs, but Forms takes"):
        trace(Forms(), (torch.zeros(2, 3), torch.zeros(2, 3)))


def test_inputs_may_have_the_names_that_the_source_of_a_graph_reads() -> None:
    class Named(nn.Module):
        def forward(this, torch: Tensor, slice: Tensor, inf: Tensor, self: Tensor, torch_0: Tensor) -> Tensor:  # noqa: N805
            return nn.functional.relu(torch + 2 * self)[..., 1:].clamp(max=float("inf")) + slice + inf + torch_0

    inputs = tuple(torch.randn(3, size) for size in (3, 2, 2, 3, 2))
    traced = trace(Named(), inputs)
    assert torch.equal(traced(*inputs), Named()(*inputs))
    names = [str(node.target) for node in traced.graph.find_nodes(op="placeholder")]
    assert names == ["torch_1", "slice_0", "inf_0", "self_0", "torch_0"]


def test_arguments_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.relu, self.drop = nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            y = self.relu(input=self.drop(input=self.norm(input=x)))
            return torch.div(input=torch.add(input=y, other=x), other=2.0)

    x = torch.randn(3, 4)
    torch.testing.assert_close(trace(Named().eval(), x)(x), Named().eval()(x), rtol=0, atol=0)
    assert all(n.args for n in trace(Named(), x).graph.nodes if n.op.startswith("call"))


def test_unused_and_aliased_modules_keep_their_keys() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
            self.aux = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
            self.alias = self.used
            self.scale = nn.Parameter(torch.ones(2))
            self.register_buffer("table", torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Partly()
    assert trace(model, torch.zeros(1, 2)).state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("add", "said"),
    [
        (
            lambda m: m[1].register_forward_hook(lambda module, arguments, result: 2 * result),
            "1 has forward hooks, .*; remove the hooks",
        ),
        (lambda m: m.register_forward_pre_hook(lambda *_: None), "the model has forward hooks"),
        (lambda m: m[0].register_full_backward_hook(lambda *_: None), "0 has backward hooks"),
        (lambda m: m[0].register_full_backward_pre_hook(lambda *_: None), "0 has backward hooks"),
        (lambda m: m[0].weight.register_hook(lambda gradient: 0 * gradient), "0.weight has hooks on the gradient"),
        (lambda m: m[0].bias.register_post_accumulate_grad_hook(lambda weight: None), "0.bias has hooks on the grad"),
        (lambda m: setattr(m[0], "forward", lambda x: x), "0 has a forward of its own, put on the instance"),
        (lambda m: setattr(m[1], "forward", torch.relu), "1 has a forward of its own, put on the instance"),
        (
            lambda m: setattr(m, "forward", lambda x: x),
            "the model has a forward of its own, put on the instance, .*; delete that",
        ),
        (
            lambda m: (setattr(m[1], "_call_impl", torch.relu), setattr(m[1], "forward", torch.relu)),
            "1 has a _call_impl of its own.*; 1 has a forward of its own.*; delete that _call_impl and that fo",
        ),
    ],
)
def test_code_that_was_added_from_outside_is_refused(add: Any, said: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    trace(model, torch.zeros(1, 2))
    add(model)
    with pytest.raises(NotConvertible, match=said):
        trace(model, torch.zeros(1, 2))


def test_a_method_with_which_a_layer_does_not_compute_may_be_replaced() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.ReLU()).eval(), torch.randn(4, 3)
    model[1].train = lambda mode=True: model[1]  # so the statistics stay
    for name in ("reset_parameters", "extra_repr", "_load_from_state_dict", "__call__"):
        setattr(model[0], name, lambda *_: "")
    assert torch.equal(trace(model, x)(x), model[2](model[1](nn.functional.linear(x, model[0].weight, model[0].bias))))
    convolution = nn.Conv1d(1, 1, 1)
    convolution._conv_forward = lambda x, *_: x
    with pytest.raises(NotConvertible, match="0 has a _conv_forward of its own"):
        trace(nn.Sequential(convolution), torch.randn(2, 1, 3))


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_hooks_of_all_modules_are_refused(kind: str) -> None:
    hook = getattr(nn.modules.module, f"register_module_{kind}")(lambda *_: None)
    try:
        with pytest.raises(NotConvertible, match=r"hooks for all modules \(torch.nn.modules.module\)"):
            trace(nn.Sequential(nn.ReLU()), torch.zeros(1, 2))
    finally:
        hook.remove()


def test_hooks_that_the_code_itself_registers_are_refused() -> None:
    def hooking(self: Any, x: Tensor) -> Tensor:
        self.second.register_forward_hook(lambda *_: None)
        return x

    with pytest.raises(NotConvertible, match="second has forward hooks"):
        trace(Refused(hooking), torch.randn(2, 4))


def test_a_method_in_the_place_of_forward_is_read() -> None:
    class Fused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x)

        def fused(self, x: Tensor) -> Tensor:
            return 2 * torch.relu(x)

    model, x = nn.Sequential(Fused()), torch.randn(2, 3)
    for whole, part in ((model, model[0]), (model[0], model[0])):
        part.forward = part.fused
        assert torch.equal(trace(whole, x)(x), 2 * torch.relu(x))


def test_the_example_is_not_changed() -> None:
    class Careless(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.exp_() - 1)

    x = torch.randn(2, 3)
    before = x.clone()
    trace(Careless(), x)
    assert torch.equal(x, before)


def of(forward: object) -> nn.Module:
    module = nn.Module()
    module.__class__ = type("Custom", (nn.Module,), {"forward": forward})
    return module


def even(self: nn.Module, x: Tensor) -> Tensor:
    """Code that decides on sizes, ranks and types, as libraries do."""
    batch, channels, height, width = x.shape
    assert x.ndim == 4
    assert len(x.shape) == x.dim()
    if height % 2 or x.shape[-1] < width:
        x = F.pad(x, (0, 0, 0, math.ceil(height / 2) * 2 - height))
    if x.dtype in (torch.float16, torch.bfloat16) or x.device.type == "nowhere":
        x = x.float()
    for channel in range(channels):
        x = x + channel
    rest = torch.zeros(batch, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    x = torch.cat([x, rest], 1)
    return torch.relu(x).flatten(2)[:, :, : int(width) * round(height / 2)]


@pytest.mark.parametrize("height", [4, 5])
def test_code_that_decides_on_sizes_is_followed(height: int) -> None:
    model, x = of(even), torch.randn(3, 2, height, 6)
    traced = trace(model, x)
    assert torch.equal(traced(x), model(x))
    assert torch.equal(traced(x[:1]), model(x[:1]))  # the batch is free
    assert torch.equal(traced.double()(x.double()), model(x.double()))


def test_other_sizes_than_those_decided_on_are_refused() -> None:
    traced = trace(of(even), torch.randn(3, 2, 4, 6))
    with pytest.raises(InvalidArgument, match=r"decided on sizes when it was read \(test_trace.py, line \d+: 0\)"):
        traced(torch.randn(3, 2, 5, 6))


def test_sizes_that_nothing_was_decided_on_stay_free() -> None:
    model = of(lambda self, x: torch.relu(x).view(x.size(0), x.shape[1], -1).sum(-1))
    traced, x = trace(model, torch.randn(2, 3, 4, 4)), torch.randn(5, 2, 3, 7)
    assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: x if x.sum() > 0 else -x,
        lambda self, x: x * int(x.max()),
        lambda self, x: x * math.floor(x.max().item()),
        lambda self, x: torch.stack([x for _ in range(int(x[0, 0]))], 1),
        lambda self, x: x if x.tolist()[0][0] else -x,
        lambda self, x: x if self.weight.sum() > 0 else -x,
    ],
)
def test_code_that_decides_on_the_data_is_refused_with_its_line(forward: Any) -> None:
    module = of(forward)
    module.weight = nn.Parameter(torch.ones(2))
    line = forward.__code__.co_firstlineno
    with pytest.raises(NotTraceable, match=f"depends on the data: .*test_trace.py, line {line}"):
        trace(module, torch.ones(2, 3))


def test_who_reads_a_value_after_a_write_by_index_reads_what_was_written() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = x * 2
        before = y + 1
        last = x[:, 3]
        y[:, 0] = last
        y[:, 2] = last
        y[:, 1:] -= x[:, 1:]
        return torch.cat([y, before], 1)

    x = torch.randn(3, 4)
    assert torch.equal(trace(of(forward), x)(x), of(forward)(x))


def test_what_has_a_part_changed_in_place_has_changed() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        x = x + 1
        part = x[:, :2]
        part += 1
        part.mul_(2)
        x[:, x.shape[1] - 2 : 4].zero_()
        x[:, 2].fill_(7)
        seen = x * 2
        return torch.relu(torch.cat([seen, x, part], 1))

    x = torch.randn(3, 5)
    traced = trace(of(forward), x)
    plan(traced).check()
    assert torch.equal(traced(x), of(forward)(x))


def seen_through_a_view(x: Tensor) -> Tensor:
    view = x.unsqueeze(1)
    x[:, :2] += 1
    return view.sum(1)


def test_a_part_that_is_changed_and_seen_under_another_name_is_refused() -> None:
    with pytest.raises(NotConvertible, match="it changes a tensor in place that is read later under another name"):
        plan(trace(of(lambda self, x: torch.relu(seen_through_a_view(x + 1))), torch.zeros(2, 4))).check()


def test_a_write_into_some_images_is_refused_and_one_that_images_decide_is_not() -> None:
    def some(self: nn.Module, x: Tensor) -> Tensor:
        y = x + 1
        y[1:] = 0
        return torch.relu(y)

    def decided(self: nn.Module, x: Tensor) -> Tensor:
        y = x + 1
        y[y > 1] = 1
        return torch.relu(y)

    def by_a_signal(self: nn.Module, x: Tensor) -> Tensor:
        y = torch.relu(x) + 1
        y[y > 1] = 1
        return y

    x = torch.randn(3, 4)
    with pytest.raises(NotConvertible, match=r"write at .* it joins the images"):
        plan(trace(of(some), x)).check()
    assert torch.equal(trace(of(decided), x)(x), of(decided)(x))
    plan(trace(of(decided), x)).check()
    with pytest.raises(NotConvertible, match=r"write at .* it jumps: the least rounding error"):
        plan(trace(of(by_a_signal), x)).check()


def test_buffers_may_be_decided_on() -> None:
    module = of(lambda self, x: torch.relu(x) * self.scale if self.flag else x)
    module.register_buffer("flag", torch.tensor(True))
    module.register_buffer("scale", torch.tensor(2.0))
    assert trace(module, torch.ones(2, 3))(torch.ones(1, 3)).tolist() == [[2, 2, 2]]


class NormAndReLU(nn.BatchNorm2d):
    """A batch norm with an activation in it, as libraries of image models have it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias,
            self.training or not self.track_running_stats, self.momentum or 0.0, self.eps,
        )  # fmt: skip
        return self.act(x)


def test_a_class_derived_from_batch_norm_goes_on_learning() -> None:
    model, x = nn.Sequential(nn.Conv2d(2, 3, 1), NormAndReLU(3)), torch.randn(4, 2, 5, 5)
    traced = trace(model, x)
    assert traced.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(traced.train()(x), model.train()(x), rtol=0, atol=0)
    torch.testing.assert_close(traced.get_submodule("1").running_mean, model[1].running_mean, rtol=0, atol=0)
    assert not torch.equal(model[1].running_mean, torch.zeros(3))


@pytest.mark.parametrize(
    ("forward", "batch"),
    [
        (lambda self, x: torch.relu(x), (0, 1)),
        (lambda self, x: torch.relu(x.transpose(0, 1)), (1, 1)),
        (lambda self, x: torch.relu(x.flatten(0, 1)), (0, 3)),
        (lambda self, x: torch.relu(x.view(x.shape[0], 3, 2, 2).permute(2, 0, 1, 3).flatten(1, 2)), (1, 3)),
        (lambda self, x: torch.relu(x.flatten()), (0, 12)),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_where_the_images_are_is_recorded(forward: Any, batch: tuple[int, int], count: int) -> None:
    traced = trace(of(forward), torch.randn(count, 3, 4))
    (relu,) = (node for node in traced.graph.nodes if node.op == "call_module")
    assert site(relu).batch == batch
    assert site(relu).shape[batch[0]] == count * batch[1]


def test_parametrised_weights_are_read_through() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU())
    x = torch.randn(2, 3)
    torch.testing.assert_close(trace(model, x)(x), model(x))


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.smooth(x - 1) + x,
        lambda self, x: F.leaky_relu(x - 1, 0.1, True) + x,
        lambda self, x: F.elu(x - 1, inplace=True) + x,
        lambda self, x: torch.sigmoid_(x - 1) + x,
        lambda self, x: (x - 1).tanh_() + x,
        lambda self, x: F.dropout(x - 1, 0.5, False, True) + x,
    ],
)
def test_every_in_place_form_becomes_plain(forward: Any) -> None:
    """Nothing changes a value that was returned before, and modules no longer work in place."""
    module = of(forward)
    module.smooth = nn.Hardswish(inplace=True)
    module.eval()
    x = torch.randn(3, 4)
    traced = trace(module, x)
    torch.testing.assert_close(traced(x), module(x), rtol=0, atol=0)
    assert not any(getattr(each, "inplace", False) for each in traced.modules())
    before = torch.fx.Interpreter(traced, garbage_collect_values=False)
    before.run(x)
    (minus,) = (value for node, value in before.env.items() if node.name == "sub")
    assert torch.equal(minus, x - 1)


def test_an_in_place_change_without_a_plain_form_is_refused() -> None:
    module = of(lambda self, x: torch.relu((x - 1).copy_(x)))
    with pytest.raises(NotConvertible, match=r"cannot be converted: .copy_ at copy_ \(test_trace.py, line \d+\): "):
        plan(trace(module, torch.randn(3, 4))).check()


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: torch.softmax(x.float(), -1).to(x.dtype),
        lambda self, x: torch.softmax(x.to(torch.float32), -1).type_as(x),
        lambda self, x: torch.softmax(x.to(dtype=torch.float32), -1).to(x),
    ],
)
def test_casts_raise_the_precision_and_never_lower_it(forward: Any) -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    traced = trace(of(forward), x)
    torch.testing.assert_close(traced(x), torch.softmax(x, -1), rtol=0, atol=0)
    assert not torch.equal(of(forward)(x), torch.softmax(x, -1))
    for other in (x.float(), x.bfloat16()):
        assert torch.equal(trace(of(forward), other)(other), of(forward)(other))


def writes(forward: Any) -> str:
    """What is said of a network whose code writes into a tensor in place."""

    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv1d(2, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return forward(self.stem, x)

    # On zeros nothing tells by its value that something was changed.
    with pytest.raises(NotConvertible) as caught:
        plan(trace(Writes(), torch.zeros(2, 2, 6))).check()
    return str(caught.value)


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.clamp_(-5, 5),
        lambda x: x.view(-1).clamp_(-5, 5),
        lambda x: x[:, :1].mul_(2),
        lambda x: x.detach().mul_(2),
        lambda x: F.relu(x.flatten(1), inplace=True),
    ],
)
def test_writes_under_another_name_are_refused_with_their_line(write: Any) -> None:
    line = f"(test_trace.py, line {write.__code__.co_firstlineno})"

    def of_the_input(stem: nn.Module, x: Tensor) -> Tensor:
        write(x)
        return torch.relu(stem(x))

    said = writes(of_the_input)
    assert f"{line}: it writes into an input of the network, in place" in said
    if "clamp_(-5, 5)" in said:
        return

    def inside(stem: nn.Module, x: Tensor) -> Tensor:
        y = stem(x)
        view = y.unsqueeze(1)
        write(y)
        return torch.relu(y) + view.sum(1)

    assert f"{line}: it changes a tensor in place that is read later under another name" in writes(inside)


def test_parts_beside_what_is_changed_may_be_read() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        left, right = (x + 1).chunk(2, 1)
        return torch.cat([F.relu_(left), right], 1)

    x = torch.randn(2, 4, 3)
    traced = trace(of(forward), x)
    plan(traced).check()
    assert torch.equal(traced(x), of(forward)(x))


def test_mixing_shows_on_an_example_of_zeros_too() -> None:
    with pytest.raises(NotConvertible, match="it joins the images"):
        plan(trace(of(lambda self, x: torch.relu(x).flip(0) + 1), torch.zeros(2, 3))).check()


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: torch.dropout(x, 0.5, self.training),
        lambda self, x: F.dropout1d(x, 0.5, training=self.training),
        lambda self, x: F.alpha_dropout(x, 0.5, self.training),
        lambda self, x: F.feature_alpha_dropout(x, 0.5, self.training),
    ],
)
def test_every_functional_dropout_follows_the_mode(forward: Any) -> None:
    x = torch.ones(4, 100, 3)
    traced = trace(of(forward), x)
    assert torch.equal(traced.eval()(x), x)
    assert not torch.equal(traced.train()(x), x)


def test_inputs_by_name_only_are_refused() -> None:
    class ByName(nn.Module):
        def forward(self, *, pixels: Tensor) -> Tensor:
            return torch.relu(pixels)

    with pytest.raises(InvalidArgument, match=r"ByName takes \['pixels'\] by name only"):
        trace(ByName(), torch.ones(2, 3))


@torch.fx.wrap
def halved(x: Tensor, training: bool) -> Tensor:
    if not training or x.shape[0] == 0:
        return x
    return x / 2


def test_functions_that_torch_fx_would_not_look_into_are_read_through() -> None:
    model = of(lambda self, x: torch.relu(halved(x, self.training))).eval()
    assert [node.op for node in trace(model, torch.ones(2, 3)).graph.nodes] == ["placeholder", "call_module", "output"]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(
    "mix",
    [
        lambda y, x: y.cumsum(0),
        lambda y, x: y * torch.arange(1, 1 + x.shape[0])[:, None],
        lambda y, x: y + y.flip(0),
        lambda y, x: y + y.roll(1, 0),
    ],
)
def test_who_knows_images_by_their_place_is_refused(mix: Any, count: int) -> None:
    model = of(lambda self, x: mix(torch.relu(x) + 1, x))
    with pytest.raises(NotConvertible, match="it joins the images of the batch, or mixes their order"):
        plan(trace(model, torch.ones(count, 4))).check()


def test_modules_without_weights_may_be_made_on_the_way() -> None:
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            x = self.layers[2:](self.layers[:2](x)) - 0.1
            return nn.Sequential(nn.ReLU(), self.layers[0])(nn.Softplus()(x) - 0.5)

    model, x = Made(), torch.randn(3, 4)
    traced = trace(model, x)
    assert torch.equal(traced(x), model(x))
    assert sum(isinstance(traced.get_submodule(str(n.target)), nn.ReLU) for n in traced.graph.nodes
               if n.op == "call_module") == 3  # fmt: skip
    assert list(traced.state_dict()) == list(model.state_dict())


def added_twice(x: Tensor) -> Tensor:
    y = x * 2
    y.add_(x).relu_()
    return y + 1


def halves(x: Tensor) -> Tensor:
    left, right = (x * 2).split(2, 1)
    left += right
    return torch.relu(left) + right


@pytest.mark.parametrize("forward", [added_twice, halves])
def test_what_people_write(forward: Any) -> None:
    x = torch.randn(3, 4)
    traced = trace(of(lambda self, x: forward(x)), x)
    plan(traced).check()
    for each in (x, torch.randn(5, 4)):
        assert torch.equal(traced(each), forward(each))


def test_what_stands_beside_code_that_cannot_be_read_is_told_too() -> None:
    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x if x.sum() > 0 else -x)

    model = nn.Sequential(Decides(), nn.BatchNorm1d(4, track_running_stats=False), nn.Flatten(), nn.LSTM(4, 4))
    with pytest.raises(NotTraceable, match=r"(?s)depends on the data.*BatchNorm1d at 1: .*LSTM at 3: it is recurrent"):
        trace(model, torch.ones(2, 4))
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.GRU(4, 4))
    for layer in (model[0], model[2]):
        layer.register_forward_hook(lambda *_: None)
    with pytest.raises(NotConvertible, match=r"(?s)0, 2 have forward hooks.*GRU at 3: it is recurrent"):
        trace(model, torch.ones(2, 4))


def test_operators_of_python_stand_at_the_line_of_the_network() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = torch.relu(x)
        y += 1
        y[:, 0] = 2
        return y

    nodes = trace(of(forward), torch.ones(2, 3)).graph.nodes
    lines = [site(node).source[1] - forward.__code__.co_firstlineno for node in nodes if "call" in node.op]
    assert lines == [1, 2, 3]


class Refused(nn.Module):
    """Two layers, with code between them."""

    def __init__(self, code: Any) -> None:
        super().__init__()
        self.first, self.second, self.code = nn.Linear(4, 4), nn.Linear(4, 4), code
        self.listed = [nn.Linear(4, 4)]
        self._private = (nn.Linear(4, 4),)
        self.weights = {"w": nn.Parameter(torch.ones(4))}

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.code(self, torch.relu(self.first(x))))


def made_on_the_first_call(self: Any, x: Tensor) -> Tensor:
    if not hasattr(self, "late"):
        self.late = nn.Linear(4, 4)
    return self.late(x)


WITH_WEIGHTS = r"its code calls a module with other weights \(torch.func.functional_call\): .*functional \(in <lambda>"
with_weights = torch.func.functional_call


def in_autocast(self: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (x @ x.T).float()


@torch.inference_mode()
def in_inference_mode(self: nn.Module, x: Tensor) -> Tensor:
    return x + 1


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (in_autocast, r"its code turns torch.autocast on, which a graph cannot hold \(in in_autocast"),
        (in_inference_mode, r"its code runs in torch.inference_mode, in which nothing can be trained \(in in_inf"),
        (lambda self, x: self.listed[0](x), r"listed is a plain list of Python: use torch.nn.ModuleList \(in <lambda>"),
        (lambda self, x: self._private[0](x), "_private is a plain tuple of Python: use torch.nn.ModuleList"),
        (lambda self, x: x + self.weights["w"], r"weights is a plain dict of Python: use torch.nn.ParameterList"),
        (
            lambda self, x: nn.Linear(4, 4)(x),
            "its code makes a Linear with weights of its own: make it in __init__ .in <",
        ),
        (made_on_the_first_call, "its code makes a Linear with weights of its own: run it once first .in made_on"),
        (lambda self, x: with_weights(self.first, {"weight": 2 * self.second.weight}, x), WITH_WEIGHTS),
        (lambda self, x: with_weights(self.first, dict(self.second.named_parameters()), x), WITH_WEIGHTS),
        (lambda self, x: x.retain_grad() or x, "its code calls retain_grad on a tensor"),
    ],
)
def test_code_that_a_graph_cannot_hold_is_named(code: Any, said: str) -> None:
    with pytest.raises(NotTraceable, match=f"Refused cannot be read as a static graph: {said}") as caught:
        trace(Refused(code), torch.randn(2, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "code",
    [
        lambda self, x: x if x.is_floating_point() else x.float(),
        lambda self, x: x if torch.is_floating_point(x) and not x.is_complex() else x.float(),
        lambda self, x: x if x.is_contiguous() else x.contiguous(),
        lambda self, x: x if x.layout == torch.strided and not x.is_sparse else x.to_dense(),
    ],
)
def test_questions_of_type_and_layout_are_no_questions_of_the_data(code: Any) -> None:
    traced = trace(Refused(code), torch.randn(2, 4))
    plan(traced).check()
    assert not [node for node in traced.graph.nodes if node.op in {"call_function", "call_method"}]


def test_autocast_and_inference_mode_around_tracing_change_nothing() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(2, 4)
    for context in (torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode()):
        with context:
            traced = trace(model, x)
        assert torch.equal(traced(x), model(x))
        traced(x).sum().backward()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            nn.Sequential(nn.LazyLinear(4), nn.ReLU()),
            r"lazy modules, whose weights have no shape yet \(0.weight\): run it",
        ),
        (torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.ReLU())), "pass model.module"),
        (
            nn.Sequential(torch.compile(nn.ReLU(), backend="eager")),
            "the model has 0, which is compiled: pass the network",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()),
            r"shape \(3, 4, 4\).* dimension 0 must be a batch .*example\[None",
        ),
    ],
)
def test_what_to_pass_instead_is_said(model: nn.Module, said: str) -> None:
    with pytest.raises((InvalidArgument, NotTraceable), match=said):
        trace(model, torch.randn(3, 4, 4))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_scripted_parts_are_named() -> None:
    def halved(x: Tensor) -> Tensor:
        return x / 2

    script = torch.jit.script(halved)
    with pytest.raises(
        NotTraceable, match=r"its code calls halved, a scripted function or an operator.*line \d+"
    ) as one:
        trace(Refused(lambda self, x: script(x)), torch.randn(2, 4))
    assert "\n" not in str(one.value)
    with pytest.raises(NotTraceable, match="a TorchScript module, 0, cannot be read: pass the network"):
        trace(nn.Sequential(torch.jit.script(nn.ReLU())), torch.randn(2, 4))


def test_an_exported_module_says_what_to_pass() -> None:
    exported = torch.export.export(nn.Sequential(nn.ReLU()), (torch.randn(2, 4),)).module()
    with pytest.raises(NotTraceable, match=r"pass the network that was given to torch.export"):
        trace(exported, torch.randn(2, 4))


def test_a_failure_of_stand_ins_alone_is_no_failure_of_the_network() -> None:
    def asks(self: nn.Module, x: Tensor) -> Tensor:
        pair = x.split(2, 1)
        return torch.cat(list(pair), 1) if isinstance(pair, tuple) else torch.relu(pair)  # type: ignore[arg-type]

    with pytest.raises(NotTraceable, match=r"relu.*where the model itself runs; its code may ask for the type"):
        trace(Refused(asks), torch.randn(2, 4))


def test_buffers_that_the_code_changes_are_those_of_the_model_after_tracing() -> None:
    def counts(self: nn.Module, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.relu(x)

    model = of(counts)
    model.register_buffer("calls", torch.zeros(()))
    assert float(trace(model, torch.randn(2, 4)).get_buffer("calls")) == 0


class Noisy(nn.Module):
    """Code that draws random numbers in training, and some that it does not use in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dropout, self.second = nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1)
        return self.second(torch.relu(self.dropout(self.first(x)).detach()))


def test_the_random_numbers_of_the_process_are_left_alone() -> None:
    model, x = Noisy(), torch.randn(4, 6)
    before = torch.get_rng_state()
    trace(model, x)
    assert torch.equal(torch.get_rng_state(), before)
