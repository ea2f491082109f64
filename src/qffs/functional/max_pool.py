"""Max pooling of levels: whole numbers in the order of the activations that they stand for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def max_pool(levels: Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Return the largest level of each window of ``[R, C, ...]``, in the type and the memory order of the levels.

    size, stride, padding: of the window, one number for each dimension behind the channels. Padding adds zeros: 0 is
    the lowest level. Source: Li, Ma, Furber 2022, algorithm 2, which pools counts. Raises `ValueError` where no window
    fits.

    >>> max_pool(torch.tensor([[[0, 3, 1, 2]]], dtype=torch.uint8), (2,), (2,), (0,))
    tensor([[[3, 2]]], dtype=torch.uint8)
    """
    order = sorted(range(levels.dim()), key=levels.stride, reverse=True)
    levels = levels.permute(order)
    for dimension, (window, step, around) in enumerate(zip(size, stride, padding, strict=True), 2):
        d = order.index(dimension)
        length = levels.shape[d]
        count = windows(length, window, step, around)
        pooled = levels.new_zeros([count if at == d else n for at, n in enumerate(levels.shape)]) if around else None
        for start in range(-around, window - around):
            # The windows from `first` to `last` have an element at this position; `part` holds these elements.
            first = max(0, -(start // step))
            last = min(count, (length - 1 - start) // step + 1)
            if last <= first:
                continue
            part = levels[(slice(None),) * d + (slice(first * step + start, (last - 1) * step + start + 1, step),)]
            if pooled is None:
                pooled = part.clone()
            else:
                reached = pooled.narrow(d, first, last - first)
                torch.maximum(reached, part, out=reached)
        assert pooled is not None
        levels = pooled
    return levels.permute([order.index(d) for d in range(len(order))])


def windows(length: int, size: int, stride: int, padding: int) -> int:
    """Return the number of windows in one dimension. Raises `ValueError` where none fits."""
    count = (length + 2 * padding - size) // stride + 1
    if count < 1:
        raise ValueError(f"a window of {size} does not fit {length} with a padding of {padding}")
    return count


def window(module: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Return size, stride and padding of a module that pools as `max_pool` does; None for any other module."""
    if not isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d) or module.ceil_mode or module.return_indices:
        return None
    dimensions = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}[type(module)]
    size, stride, padding, dilation = (
        (option,) * dimensions if isinstance(option, int) else tuple(option)
        for option in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    return (size, stride, padding) if set(dilation) == {1} else None
