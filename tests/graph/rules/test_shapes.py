"""One row of the table, one case: operators that move values, nonlinear ones, and those that are no signal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from helpers.operators import Form, check_every_form
from qffs.graph.operators import expect

MAPS: dict[str, tuple[Form, ...]] = {
    "interpolate": (
        lambda y, s, x: F.interpolate(y, scale_factor=1.5, mode="bilinear", align_corners=True),
        lambda y, s, x: F.interpolate(y, (y.shape[-1] * 2, 9), mode="bicubic", align_corners=False),
        lambda y, s, x: F.interpolate(y, size=x.shape[-2:], mode="nearest"),
        lambda y, s, x: F.interpolate(y, size=4, mode="bilinear", antialias=True),
        lambda y, s, x: F.interpolate(y.flatten(2), scale_factor=0.5, mode="area"),
        lambda y, s, x: F.upsample(y, scale_factor=2),
    ),
    "pixel_shuffle": (lambda y, s, x: F.pixel_shuffle(y, 2), lambda y, s, x: torch.pixel_shuffle(y, 2)),
    "pixel_unshuffle": (lambda y, s, x: F.pixel_unshuffle(y, 3),),
    "channel_shuffle": (lambda y, s, x: F.channel_shuffle(y, 2),),
    "native_channel_shuffle": (lambda y, s, x: torch.native_channel_shuffle(y, 2),),
    "grid_sample": (
        lambda y, s, x: F.grid_sample(
            y, s.w.tanh()[:, :2].view(1, 2, 3, 2).expand(y.shape[0], -1, -1, -1), "bilinear", "border", True
        ),
    ),
    "pad": (
        lambda y, s, x: F.pad(y, (1, 2)),
        lambda y, s, x: F.pad(y, [1, -1, 0, 2], value=0.5),
        lambda y, s, x: F.pad(y, (1, 1, 2, 2), mode="reflect"),
        lambda y, s, x: F.pad(y, (0, 0, 0, 0, 1, 2), "constant", -1.5),
        lambda y, s, x: F.pad(y.transpose(0, 1), (1, 1), value=2).transpose(0, 1),
        lambda y, s, x: F.pad(y, pad=(2, 1, 0, 1), mode="circular"),
        lambda y, s, x: F.pad(x, (1, 1), value=2.0) * F.pad(y[:, :2], (1, 1), value=1),
    ),
    "fold": (lambda y, s, x: F.fold(y.flatten(2), (5, 10), (2, 2), stride=(1, 2), padding=1, dilation=1)[..., :9],),
    "unfold": (lambda y, s, x: F.unfold(y, 3, dilation=2, padding=1, stride=2), lambda y, s, x: y.unfold(-1, 3, 2)),
}

TURNS: dict[str, tuple[Form, ...]] = {
    "flatten": (lambda y, s, x: torch.flatten(y, 1), lambda y, s, x: y.flatten(-2)),
    "unflatten": (lambda y, s, x: y.unflatten(1, (2, -1)), lambda y, s, x: torch.unflatten(y, -1, (3, 2))),
    "view": (lambda y, s, x: y.view(y.size(0), -1), lambda y, s, x: y.view(-1, 4, 36), lambda y, s, x: y.view(y.shape)),
    "view_as": (lambda y, s, x: y.view_as(y), lambda y, s, x: y[:, :2].contiguous().view_as(x)),
    "reshape": (
        lambda y, s, x: torch.reshape(y, (y.shape[0], 2, -1)),
        lambda y, s, x: y.reshape(-1, 6).reshape(y.shape[0], 24, 6),
    ),
    "reshape_as": (lambda y, s, x: y[:, ::2].reshape_as(x),),
    "permute": (lambda y, s, x: y.permute(0, 2, -1, 1), lambda y, s, x: torch.permute(y, (1, 0, 3, 2)).transpose(0, 1)),
    "transpose": (lambda y, s, x: y.transpose(1, -1), lambda y, s, x: torch.transpose(y, 0, 1).sum(0)),
    "t": (lambda y, s, x: (s.w @ y[:, 0, 0].t()).t(), lambda y, s, x: torch.t(torch.t(y[:, 1, 1]))),
    "swapaxes": (lambda y, s, x: y.swapaxes(1, 2), lambda y, s, x: torch.swapaxes(y, -1, 1)),
    "swapdims": (lambda y, s, x: y.swapdims(1, 2), lambda y, s, x: torch.swapdims(y, -1, -2)),
    "movedim": (lambda y, s, x: y.movedim(1, -1), lambda y, s, x: torch.movedim(y, (1, 2), (2, 1))),
    "moveaxis": (lambda y, s, x: y.moveaxis(0, 2).moveaxis(2, 0), lambda y, s, x: torch.moveaxis(y, 1, 3)),
    "squeeze": (
        lambda y, s, x: y.mean(1, keepdim=True).squeeze(1),
        lambda y, s, x: torch.squeeze(y[:, :1, :, :1], dim=(1, -1)),
        lambda y, s, x: y[:, :1].squeeze(),
    ),
    "unsqueeze": (lambda y, s, x: y.unsqueeze(-1), lambda y, s, x: torch.unsqueeze(y, 0).mean(0)),
    "expand": (lambda y, s, x: y[:, :1].expand(-1, 3, -1, -1), lambda y, s, x: y[:, 1:2].expand(x.shape)),
    "expand_as": (lambda y, s, x: y[:, :1].expand_as(x), lambda y, s, x: y.mean(1, True).expand_as(y)),
    "broadcast_to": (
        lambda y, s, x: torch.broadcast_to(y[:, :1], x.shape),
        lambda y, s, x: y[:, None].broadcast_to(y.shape[0], 2, 4, 6, 6),
    ),
    "repeat": (lambda y, s, x: y.repeat(1, 2, 1, 1), lambda y, s, x: y[:, 0, 0].repeat(2, 1, 1).mean(0)),
    "tile": (lambda y, s, x: torch.tile(y, (2,)), lambda y, s, x: y.tile(1, 1, 2, 1)),
    "repeat_interleave": (
        lambda y, s, x: y.repeat_interleave(2, dim=-1),
        lambda y, s, x: torch.repeat_interleave(y, 2, 0).unflatten(0, (-1, 2)),
    ),
    "roll": (lambda y, s, x: y.roll((1, -2), (2, 3)), lambda y, s, x: torch.roll(y, 2, dims=1)),
    "flip": (lambda y, s, x: y.flip(-1), lambda y, s, x: torch.flip(y, [1, 2])),
    "fliplr": (lambda y, s, x: torch.fliplr(y), lambda y, s, x: y.fliplr()),
    "flipud": (
        lambda y, s, x: torch.flipud(y.transpose(0, 1)).transpose(0, 1),
        lambda y, s, x: y.mT.movedim(0, 1).flipud().sum(0),
    ),
    "rot90": (lambda y, s, x: torch.rot90(y, 1, [2, 3]), lambda y, s, x: y.rot90(-1, (1, 2))),
    "adjoint": (lambda y, s, x: torch.adjoint(y), lambda y, s, x: y.adjoint()),
    "diagonal": (lambda y, s, x: torch.diagonal(y, 1, 2, 3), lambda y, s, x: y.diagonal(dim1=-2, dim2=-1)),
    "tril": (lambda y, s, x: torch.tril(y, -1), lambda y, s, x: y.tril(diagonal=1)),
    "triu": (lambda y, s, x: torch.triu(y, 1), lambda y, s, x: y.triu()),
    "contiguous": (lambda y, s, x: y.transpose(1, 2).contiguous(),),
    "clone": (lambda y, s, x: y.clone(), lambda y, s, x: torch.clone(y)),
    "detach": (lambda y, s, x: y.detach(),),
    "to": (
        lambda y, s, x: y.to(x.dtype),
        lambda y, s, x: y.to(s.p),
        lambda y, s, x: y.to(x.device),
    ),
    "type_as": (lambda y, s, x: y.type_as(x), lambda y, s, x: y.type_as(s.p)),
    "at_least": (
        lambda y, s, x: y.to(torch.float64),
        lambda y, s, x: y.to(dtype=torch.float32).to(x.dtype),
        lambda y, s, x: y.double(),
        lambda y, s, x: y.float().double(),
        lambda y, s, x: y.bfloat16().double(),
    ),
}

PIECES: dict[str, tuple[Form, ...]] = {
    "getitem": (
        lambda y, s, x: y[:, 1:, ..., -1],
        lambda y, s, x: y[..., None, :],
        lambda y, s, x: y[:, s.index],
        lambda y, s, x: y[:, :, s.mask],
        lambda y, s, x: y[:, [3, 1], ::2],
        lambda y, s, x: y[:, : y.shape[1] // 2],
    ),
    "select": (lambda y, s, x: y.select(1, -1), lambda y, s, x: torch.select(y, -1, 2)),
    "narrow": (lambda y, s, x: y.narrow(1, 1, 2), lambda y, s, x: torch.narrow(y, -1, 0, y.shape[-1] - 1)),
    "index_select": (
        lambda y, s, x: y.index_select(-1, s.index),
        lambda y, s, x: torch.index_select(y, dim=1, index=s.index),
    ),
    "gather": (
        lambda y, s, x: y.gather(1, s.index.view(1, 3, 1, 1).expand(y.shape[0], -1, 6, 6)),
        lambda y, s, x: torch.gather(y, -1, s.index.expand(y.size(0), 4, 6, 3)),
    ),
    "take_along_dim": (
        lambda y, s, x: torch.take_along_dim(y, s.index.view(1, 3, 1, 1), dim=1),
        lambda y, s, x: y.take_along_dim(s.index.view(1, 1, 1, 3), -1),
    ),
    "unbind": (lambda y, s, x: y.unbind(1)[2], lambda y, s, x: sum(torch.unbind(y, -1))),
    "split": (
        lambda y, s, x: y.split(3, 1)[1],
        lambda y, s, x: torch.split(y, [1, 3], dim=1)[1],
        lambda y, s, x: torch.split(tensor=y, split_size_or_sections=2, dim=-1)[0],
    ),
    "chunk": (lambda y, s, x: y.chunk(2, dim=-1)[1], lambda y, s, x: torch.chunk(y, 3, 1)[1]),
    "tensor_split": (lambda y, s, x: torch.tensor_split(y, 3, 1)[0], lambda y, s, x: y.tensor_split((1, 2), dim=-2)[2]),
    "split_with_sizes": (
        lambda y, s, x: torch.split_with_sizes(y, [1, 3], 1)[1],
        lambda y, s, x: y.split_with_sizes((2, 4), -1)[0],
    ),
}

PLAIN: dict[str, tuple[Form, ...]] = {
    "getattr": (lambda y, s, x: y / y.shape[1], lambda y, s, x: torch.zeros(y.shape, dtype=y.dtype) + y),
    "size": (lambda y, s, x: y * y.size(1), lambda y, s, x: y.view(*y.size()[:2], -1)),
    "dim": (lambda y, s, x: y * y.dim(),),
    "numel": (lambda y, s, x: y * s.w.numel(), lambda y, s, x: y / torch.numel(s.w)),
    "stride": (lambda y, s, x: y * y.stride(-2), lambda y, s, x: y / y.stride()[1]),
    "is_floating_point": (lambda y, s, x: y * y.is_floating_point(),),
    "zeros_like": (lambda y, s, x: torch.cat([y, torch.zeros_like(y)], 1),),
    "ones_like": (lambda y, s, x: y + torch.ones_like(y), lambda y, s, x: torch.cat([torch.ones_like(x), y], 1)),
    "full_like": (
        lambda y, s, x: y - torch.full_like(y, 0.25),
        lambda y, s, x: torch.maximum(x, torch.full_like(x, 0.3)),
    ),
    "new_zeros": (lambda y, s, x: torch.stack([y, y.new_zeros(y.shape)], 1),),
    "new_ones": (lambda y, s, x: y + y.new_ones(y.shape[0], 1, 1, 6),),
    "new_full": (lambda y, s, x: torch.cat([y.new_full((y.shape[0], 1, 6, 6), 0.5), y], 1),),
    "arange": (lambda y, s, x: y + torch.arange(y.shape[-1]), lambda y, s, x: y * torch.arange(1, x.shape[1] * 3 + 1)),
    "zeros": (lambda y, s, x: torch.cat([y, torch.zeros(y.shape[0], 1, 6, 6)], 1),),
    "ones": (lambda y, s, x: torch.ones(y.shape[-1], dtype=y.dtype) @ y,),
    "full": (lambda y, s, x: y + torch.full((y.shape[-1],), 0.5, dtype=y.dtype),),
    "empty": (lambda y, s, x: torch.cat([y, torch.empty(y.shape[0], 0, 6, 6)], 1),),
    "linspace": (lambda y, s, x: y * torch.linspace(0, 1, y.shape[-1], dtype=y.dtype),),
    "eye": (lambda y, s, x: y @ torch.eye(y.shape[-1], dtype=y.dtype),),
    "expect": (lambda y, s, x: (expect(y.shape[1], 4, "here"), y * 2)[1],),
    "_assert": (lambda y, s, x: (torch._assert(y.shape[1] == 4, "four channels"), y * 2)[1],),
}

FOLDED: dict[str, tuple[Form, ...]] = {
    "dropout": (
        lambda y, s, x: F.dropout(y, 0.5, s.training),
        lambda y, s, x: torch.dropout(y, 0.5, False),
        lambda y, s, x: torch.dropout(y, 0.5, train=s.training),
    ),
    "dropout1d": (lambda y, s, x: F.dropout1d(y[:, 0], training=s.training),),
    "dropout2d": (lambda y, s, x: F.dropout2d(y, 0.3, training=s.training),),
    "dropout3d": (lambda y, s, x: F.dropout3d(y.unsqueeze(1), 0.3, False),),
    "alpha_dropout": (lambda y, s, x: F.alpha_dropout(y), lambda y, s, x: torch.alpha_dropout(y, 0.5, train=False)),
    "feature_alpha_dropout": (lambda y, s, x: F.feature_alpha_dropout(y, training=False),),
    "batch_norm": (
        lambda y, s, x: F.batch_norm(y, s.c, s.c.abs() + 1, s.k[:, 0, 0, 0], s.k[:, 1, 0, 0]),
        lambda y, s, x: F.batch_norm(y[:, :, 0, 0], s.c, s.c.exp(), bias=s.c, eps=0.01),
    ),
}

CASES = MAPS | TURNS | PIECES | PLAIN | FOLDED


@pytest.mark.filterwarnings("ignore:.*(upsample|is deprecated):")
@pytest.mark.parametrize("name", CASES)
def test_every_form_of_an_operator(name: str, tmp_path: Path) -> None:
    check_every_form(name, CASES[name], tmp_path)
