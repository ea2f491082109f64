"""The compiled quantizer against the reference, its bodies uncompiled on many tensors and compiled on a few."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from qffs.functional import lsq as reference
from qffs.kernels import lsq
from qffs.nn.quantizer import Quantizer, fuse

CL, CL3 = torch.channels_last, torch.channels_last_3d
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=CL if x.dim() == 4 else CL3) if x.dim() > 3 else x,
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What a test made of `available` is forgotten after it."""
    yield
    lsq.available.cache_clear()


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bodies as plain PyTorch, and always available."""
    monkeypatch.setattr(lsq, "_compiled", lambda body: body)


@pytest.fixture
def compiled(recwarn: pytest.WarningsRecorder) -> None:
    """Skip where this machine has no compiler."""
    if not lsq.available("cpu"):
        pytest.skip(str(recwarn.pop().message))


def gradients(
    quantize: Callable[..., Tensor], x: Tensor, s: Tensor, upstream: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    """The result, the gradient of x and that of s."""
    x, s = x.detach().requires_grad_(), s.detach().requires_grad_()
    result = quantize(x, s, *arguments)
    return (result.detach(), *torch.autograd.grad(result, (x, s), upstream))


def check(x: Tensor, s: Tensor, upstream: Tensor, n: int, offset: float = 0.5) -> None:
    """Result and gradient of x as the reference has them; that of s within half a step of a code an activation."""
    result, of_x, of_s = gradients(lsq.quantize, x, s, upstream, n, offset)
    expected, expected_of_x, _ = gradients(reference.quantize, x, s, upstream, n, offset)
    # In float32, which has the same levels, because in bfloat16 the reference rounds its residuals too.
    exact = gradients(reference.quantize, x.float(), s, upstream.float(), n, offset)[2]
    assert torch.equal(result, expected)
    assert torch.equal(of_x, expected_of_x)
    assert (result.dtype, of_x.dtype, of_s.dtype) == (x.dtype, x.dtype, s.dtype)
    assert of_s.shape == s.shape
    magnitude = reference.total(upstream.double().abs(), s, torch.float64) * reference.gradient_scale(x.shape, s, n)
    # Half a step, and float32's rounding of residuals near n, of their products and of their sum.
    allowed = magnitude * (0.5 / lsq.STEPS[x.dtype] + 1e-6 * n)
    assert bool(((of_s - exact).abs() <= allowed).all())


def tensors(shape: tuple[int, ...], n: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    """Activations around the range of step size 0.3, ties and ends among them, and a gradient."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * (n + 2) * (torch.rand(shape, generator=generator) - 0.2)
    halves = 0.15 * torch.randint(0, 2 * n + 1, shape, generator=generator)
    x = torch.where(torch.rand(shape, generator=generator) < 0.3, halves, x)
    return x.to(dtype), torch.randn(shape, generator=generator).to(dtype)


shapes = st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple)
types = st.sampled_from(list(lsq.STEPS))
seeds = st.integers(0, 10**6)


@pytest.mark.usefixtures("uncompiled")
class TestBodies:
    @given(shapes, st.integers(1, 255), types, seeds, st.booleans(), st.sampled_from(sorted(LAYOUTS)), st.data())
    def test_the_reference(
        self, shape: tuple[int, ...], n: int, dtype: torch.dtype, seed: int, by_channel: bool, layout: str, data: Any
    ) -> None:
        """Any shape, levels and layout, a gradient of another layout, a step size for all or one a channel."""
        x, upstream = tensors(shape, n, dtype, seed)
        upstream = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))](upstream)
        s = torch.linspace(0.2, 0.4, shape[1]) if by_channel else torch.tensor(0.3)
        check(LAYOUTS[layout](x), s, upstream, n, data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.5001, 0.99])))

    @pytest.mark.parametrize("layout", ["contiguous", "channels last", "transposed"])
    def test_the_layout_of_the_input_stays(self, layout: str) -> None:
        x, upstream = tensors((2, 3, 4, 5), 3, torch.float32, seed=0)
        x = LAYOUTS[layout](x)
        result, of_x, _ = gradients(lsq.quantize, x, torch.tensor(0.3), upstream, 3)
        assert result.stride() == of_x.stride() == x.stride()

    @pytest.mark.parametrize(("dtype", "kept"), [(torch.float32, 1000), (torch.bfloat16, 500)])
    def test_a_byte_an_activation_is_kept_or_half_of_one(self, dtype: torch.dtype, kept: int) -> None:
        x, _ = tensors((10, 100), 3, dtype, seed=0)
        s, saved = torch.tensor(0.3, requires_grad=True), []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.nbytes), lambda _: None):
            lsq.quantize(x.requires_grad_(), s, 3)
        assert sum(saved) == kept + s.nbytes

    def test_the_result_may_be_changed_in_place(self) -> None:
        x, upstream = tensors((4, 5), 3, torch.float32, seed=0)
        doubled = gradients(lambda *arguments: lsq.quantize(*arguments).mul_(2), x, torch.tensor(0.3), upstream, 3)
        plain = gradients(lsq.quantize, x, torch.tensor(0.3), 2 * upstream, 3)
        assert torch.equal(doubled[1], plain[1])
        assert torch.equal(doubled[2], plain[2])

    @pytest.mark.parametrize("s", [0.0, -1.0])
    def test_a_step_size_at_or_below_zero(self, s: float) -> None:
        x, upstream = tensors((4, 5), 3, torch.float32, seed=0)
        check(x, torch.tensor(s), upstream, 3)

    def test_nan_is_not_hidden(self) -> None:
        x, upstream = torch.tensor([[float("nan"), 0.5]]), torch.tensor([[1.0, float("nan")]])
        result, of_x, of_s = gradients(lsq.quantize, x, torch.tensor(0.3), upstream, 3)
        assert result.isnan().tolist() == [[True, False]]
        assert of_x[0, 1].isnan()
        assert of_s.isnan()

    @pytest.mark.parametrize("size", [7, 8])
    def test_packed_codes(self, size: int) -> None:
        codes = torch.arange(size * 3, dtype=torch.uint8).view(3, size) % 15
        packed = lsq._packed(codes)
        assert packed.nbytes == -(-codes.numel() // 2)
        assert torch.equal(lsq._unpacked(packed, codes.shape), codes)


def test_what_is_not_covered_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(lsq, "_compiled", never)
    x = torch.randn(3, 4)
    for other, offset in ((x.double(), 0.5), (x.half(), 0.5), (x, -0.1), (x, 1.0), (x[:0], 0.5), (x[:, :0], 0.5)):
        own, expected = (
            gradients(body, other, torch.tensor(0.3), torch.ones_like(other), 3, offset)
            for body in (lsq.quantize, reference.quantize)
        )
        assert all(torch.equal(a, b) for a, b in zip(own, expected, strict=True))
        assert torch.isfinite(own[2])


# Compiled


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled(dtype: torch.dtype) -> None:
    """The reference, whatever the sizes and levels, and the same bits every time."""
    for batch, n in ((64, 3), (65, 15)):
        x, upstream = tensors((batch, 3, 8, 9), n, dtype, seed=0)
        x, s = LAYOUTS["channels last"](x), torch.tensor(0.3)
        check(x, s, upstream, n, 0.5001)
        first = gradients(lsq.quantize, x, s, upstream, n)
        for _ in range(3):
            again = gradients(lsq.quantize, x, s, upstream, n)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_compiled_by_channel() -> None:
    x, upstream = tensors((65, 6, 8, 9), 3, torch.float32, seed=0)
    check(LAYOUTS["channels last"](x), torch.linspace(0.2, 0.4, 6), upstream, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_one_kernel_serves_all() -> None:
    """Sizes, levels, layouts, parameters and autocast: none of them compiles anything after the trial."""
    quantizer = Quantizer(3)
    fuse(quantizer)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size, layout in product((64, 65, 66), LAYOUTS):
            x, upstream = (LAYOUTS[layout](tensor) for tensor in tensors((size, 3, 8, 9), 3, torch.float32, seed=size))
            check(x, torch.tensor(0.3), upstream, size, 0.5001)
            with torch.autocast("cpu", torch.bfloat16):
                F.max_pool2d(quantizer(x.requires_grad_()), 2).sum().backward()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda x, *_: (x + 1, x), "its levels are wrong"),
    ],
)
def test_without_a_compiler_the_reference_trains_on(broken: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsq, "_compiled", lambda _: broken)
    lsq.available.cache_clear()
    x, upstream = tensors((4, 5), 3, torch.float32, seed=0)
    with pytest.warns(UserWarning, match=f"LSQ is not fused on cpu, .*{reason}"):
        own = gradients(lsq.quantize, x, torch.tensor(0.3), upstream, 3)
    again = gradients(lsq.quantize, x, torch.tensor(0.3), upstream, 3)  # and says so once
    expected = gradients(reference.quantize, x, torch.tensor(0.3), upstream, 3)
    for one, other, right in zip(own, again, expected, strict=True):
        assert torch.equal(one, right)
        assert torch.equal(other, right)


# In the quantizer


def test_fused_quantizers_train_through_the_kernel_and_judge_by_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(lsq, "quantize", lambda x, *_: calls.append(x) or x)
    network = nn.Sequential(nn.Linear(3, 3), Quantizer(3), nn.Sequential(Quantizer(7, channels=3)))
    x = torch.randn(4, 3)
    for fused, kernels in ((False, 0), (True, 2), (False, 0)):
        fuse(network, fused)
        network.train()(x)
        assert len(calls) == kernels
        calls.clear()
        copy.deepcopy(network)(x)
        assert len(calls) == kernels
        calls.clear()
        network.eval()(x)
        assert not calls


def test_fusing_is_no_part_of_the_weights() -> None:
    quantizer = Quantizer(3)
    before, shown = list(quantizer.state_dict()), str(quantizer)
    fuse(quantizer)
    assert list(quantizer.state_dict()) == before
    assert str(quantizer) == shown
