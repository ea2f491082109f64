"""Settings of all tests, those in docstrings included."""

from typing import Any

import pytest
import torch
from hypothesis import settings

import qffs

# A shared machine may be slow at any moment; what is tested is values, never times.
settings.register_profile("values", deadline=None)
settings.load_profile("values")


@pytest.fixture(autouse=True)
def _docstring_names(doctest_namespace: dict[str, Any]) -> None:
    """The names that examples in docstrings use without importing them."""
    doctest_namespace.update(qffs=qffs, torch=torch)
