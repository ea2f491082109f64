"""Flags of earlier versions: each is answered with the KEY=VALUE that replaces it, a key of recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from qffs.cli.options import Command
from qffs.errors import InvalidArgument

Flags = dict[str, str | Callable[[str], str]]
"""The KEY=VALUE for each flag, with {} in the place of the value, or a function from the value to it."""


def bits(value: str) -> str:
    """Return the KEY=VALUE of the bits of hidden activations: one number, or one number per pattern.

    >>> print(bits("stem.2=full,*=1"))
    bits='{stem.2: full, "*": 1}'
    """
    if "=" not in value:
        return f"bits={value}"
    pairs = [part.strip().rpartition("=") for part in value.split(",")]
    return "bits='{" + ", ".join(f"{_quoted(pattern)}: {number}" for pattern, _, number in pairs) + "}'"


def _quoted(pattern: str) -> str:
    return f'"{pattern}"' if pattern.startswith("*") else pattern  # YAML reads a star at the beginning as an alias


def charge_steps(value: str) -> str:
    """Return the KEY=VALUE of charge steps: a number, or one weight per step.

    >>> charge_steps("0.5,0.25,0.25")
    'charge_steps=[0.5,0.25,0.25]'
    """
    return f"charge_steps=[{value}]" if "," in value else f"charge_steps={value}"


class QuantizeCommand(Command):
    """A command that answers a former flag with `InvalidArgument`, whose message names the KEY=VALUE to write."""

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
        """Raise `InvalidArgument` if there is a former flag, else parse the arguments."""
        for position, argument in enumerate(args):
            flag, equals, value = argument.partition("=")
            if flag in self.former:
                raise InvalidArgument(self._sentence(flag, value if equals else "".join(args[position + 1 :][:1])))
        return super().parse_args(ctx, args)

    def _sentence(self, flag: str, value: str) -> str:
        """Return the sentence that names the KEY=VALUE for a flag and its value."""
        now = self.former[flag]
        if isinstance(now, str) and "{}" not in now:
            return f"{flag} is written {now} now"
        value = value or "VALUE"
        return f"{flag} {value} is written {now.replace('{}', value) if isinstance(now, str) else now(value)} now"


class DemoCommand(QuantizeCommand):
    """A command that answers the former flags of the demo."""

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
