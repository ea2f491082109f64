"""What holds a network to the sizes that its code decided on while it was read."""

from __future__ import annotations

from typing import Any

from qffs.errors import InvalidArgument


def expect(value: Any, known: Any, where: str) -> None:
    """Raise `InvalidArgument` where ``value`` is not what it was on the example.

    >>> expect(8, 8, "net.py, line 3")
    """
    if value != known:
        raise InvalidArgument(
            f"the code of this network decided on sizes when it was read ({where or 'within torch'}: {known!r}), and "
            f"would decide otherwise here ({value!r}): quantise it on an example of this size"
        )
