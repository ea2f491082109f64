"""A script of `scripts/` as a module, for the tests of the pages that it writes."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from helpers.places import ROOT

SCRIPTS = ROOT / "scripts" / "docs"


def script(name: str) -> Any:
    """The module of a script; what would run it from the command line is left out."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for what they annotate
    spec.loader.exec_module(module)
    return module
