"""Flags of before, each answered with the KEY=VALUE that is written now: a recipe has a key for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import typer.core

from qffs.errors import InvalidArgument

Flags = dict[str, str | Callable[[str], str]]
"""By flag, what is written instead, with {} for its value, or a function of its value."""


def bits(value: str) -> str:
    """Return the bits of hidden activations, one number or one a pattern, as a recipe has them.

    >>> print(bits("stem.2=full,*=1"))
    bits='{stem.2: full, "*": 1}'
    """
    if "=" not in value:
        return f"bits={value}"
    pairs = [part.strip().rpartition("=") for part in value.split(",")]
    return "bits='{" + ", ".join(f"{_quoted(pattern)}: {number}" for pattern, _, number in pairs) + "}'"


def _quoted(pattern: str) -> str:
    return f'"{pattern}"' if pattern.startswith("*") else pattern  # YAML takes a star at the beginning for an alias


def charge_steps(value: str) -> str:
    """Return charge steps, a number or weights by step, as a recipe has them.

    >>> charge_steps("0.5,0.25,0.25")
    'charge_steps=[0.5,0.25,0.25]'
    """
    return f"charge_steps=[{value}]" if "," in value else f"charge_steps={value}"


class QuantizeCommand(typer.core.TyperCommand):
    """A command that answers a flag of before with `InvalidArgument`, which says what is written now."""

    former: ClassVar[Flags] = {
        "--size": "size={}",
        "--bits": bits,
        "--output-bits": "output={}",
        "--per-channel": "per_channel=true",
        "--epochs": "quantized.epochs={}",
        "--learning-rate": "quantized.learning_rate={}",
        "--batch-size": "quantized.batch_size={}",
        "--bfloat16": "precision=bfloat16",
        "--seed": "seed={}",
        "--device": "device={}",
    }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Look for such flags before anything is parsed."""
        for position, argument in enumerate(args):
            flag, equals, value = argument.partition("=")
            if flag in self.former:
                raise InvalidArgument(self._sentence(flag, value if equals else "".join(args[position + 1 :][:1])))
        return super().parse_args(ctx, args)

    def _sentence(self, flag: str, value: str) -> str:
        """Return how a flag and its value are written now."""
        now = self.former[flag]
        if isinstance(now, str) and "{}" not in now:
            return f"{flag} is written {now} now"
        value = value or "VALUE"
        return f"{flag} {value} is written {now.replace('{}', value) if isinstance(now, str) else now(value)} now"


class DemoCommand(QuantizeCommand):
    """The same, with the flags of the demo."""

    former: ClassVar[Flags] = QuantizeCommand.former | {
        "--data": "data={}",
        "--model": "model={}",
        "--weights": "weights={}",
        "--float-epochs": "full_precision.epochs={}",
        "--learning-rate": "full_precision.learning_rate={} quantized.learning_rate={}",
        "--batch-size": "full_precision.batch_size={} quantized.batch_size={}",
        "--steps": "steps={}",
        "--charge-steps": charge_steps,
    }
