"""Settings of all tests, those in docstrings included."""

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from qffs.runs.processors import openmp_defaults, processors

os.environ.update(openmp_defaults())  # OpenMP reads it when torch is imported
if capability := os.environ.get("ATEN_CPU_CAPABILITY"):
    # PyTorch keeps compiled kernels without saying for which instructions, and would run those of other ones.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{capability}")

import torch

import qffs
from qffs.graph import rules

# A shared machine may be slow at any moment; what is tested is values, never times.
settings.register_profile("values", deadline=None)
settings.load_profile("values")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes run tests: one per processor that this one may use."""
    return processors()


@pytest.fixture(autouse=True)
def _docstring_names(doctest_namespace: dict[str, Any]) -> None:
    """The names that examples in docstrings use without importing them."""
    doctest_namespace.update(qffs=qffs, torch=torch)


@pytest.fixture(autouse=True)
def _own_operators() -> Iterator[None]:
    """Operators that a test or an example registers are forgotten after it."""
    tables: list[dict[Any, Any]] = [rules.MODULES, rules.OPERATORS, rules.ADDRESSES, rules.FUNCTIONS]
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)
