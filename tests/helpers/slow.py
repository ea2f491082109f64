"""Parameters of which few are quick tests and the others are marked slow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(values: Iterable[Any], *quick: Any) -> list[Any]:
    """Return all values for ``parametrize``, marked slow but for the quick ones, each of which must be there.

    >>> [getattr(each, "values", each) for each in slow_but(["a", "b"], "b")]
    [('a',), 'b']
    """
    values = list(values)
    assert set(quick) <= set(values)
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
