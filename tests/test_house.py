"""The plan of the house: what may import what, how large things may be, and where tests lie.

A test lies at the path of what it tests:

- tests/X/test_Y.py belongs to src/qffs/X/Y.py or to the package X/Y, and tests/X/test_X.py to the package X;
- a folder tests/X/Y/ may hold several test files of the source file X/Y.py;
- tests/scripts/docs/test_Z.py belongs to scripts/docs/Z.py;
- test_qffs, test_docs, test_house, test_quick and test_benchmarks are tests of the whole project.

`python tests/processes/house.py` prints the figures, and what stands behind each.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.house import floors, imports, running, sources
from helpers.places import ROOT
from processes import house as script

LIMITS = {
    "modules directly under qffs": 9,
    "folders of Python directly under qffs": 15,
    "floors: the longest chain of rooms": 14,
    "arrows between rooms": 123,
    "circles of imports, of files and of rooms": 0,
    "longest chain of imports when files load": 14,
    "longest chain of imports, lazy and type imports too": 21,
    "modules loaded by `qffs train digits`": 118,
    "modules of studies and exports among them": 0,
    "files entered by `qffs train digits`": 86,
    "files entered by `snn(x, steps=8)`": 17,
    "private names that a base class of another file defines": 0,
    "tests that are not at the path of their source": 0,
    "files over 300 lines": 0,
    "functions over 60 lines": 0,
    "functions of more than 8 parameters": 7,
    "C functions over 60 lines": 0,
}
"""How many there may be. A limit is lowered when the house is better than it, and never raised."""


TRAINING = [name for name in LIMITS if "train digits" in name or "among them" in name]
"""What one training shows, which takes seconds."""


@pytest.mark.parametrize("name", [name for name in LIMITS if name not in TRAINING])
def test_no_figure_is_over_its_limit(name: str) -> None:
    check_limit(name)


@pytest.mark.slow
def test_training_loads_and_enters_only_what_it_needs() -> None:
    for name in TRAINING:
        check_limit(name)


def check_limit(name: str) -> None:
    lines = script.FIGURES[name](script.SOURCE)
    assert len(lines) <= LIMITS[name], f"{name}: {len(lines)}, more than {LIMITS[name]}:\n" + "\n".join(lines)


def test_every_figure_has_a_limit() -> None:
    assert set(script.FIGURES) - set(LIMITS) == {"modules"}


def test_rooms_import_only_rooms_that_stand_before_them() -> None:
    found = floors.faults(script.SOURCE)
    assert not found, "\n" + "\n".join(found)


def test_every_room_has_one_place() -> None:
    assert floors.unused(script.SOURCE) == []
    assert len(set(floors.ORDER)) == len(floors.ORDER)


def test_contributing_shows_the_floors_as_they_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- floors: [^\n]*-->\n(.*?)<!-- end of floors -->", text, re.DOTALL)
    assert table == floors.table(script.SOURCE), "print it with `python tests/processes/house.py --floors`"


# The checks themselves, on small made-up source trees.


def tree(folder: Path, **files: str) -> Path:
    """Write a source tree, return it: ``nn__neuron="..."`` is ``qffs/nn/neuron.py``, ``nn="..."`` is ``qffs/nn.py``."""
    source = folder / "src" / "qffs"
    for name, text in files.items():
        path = source / f"{name}.py" if name.startswith("__") else source / f"{name.replace('__', '/', 1)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return source


# Floors


@pytest.mark.parametrize(
    "statement",
    [
        "import qffs.graph",
        "import qffs.graph.plan as plan",
        "from qffs import graph",
        "from qffs.graph import plan",
        "from qffs.graph.plan import Plan",
        "from qffs.graph import *",
        "from .. import graph",
        "from ..graph import plan",
        "from ..graph.plan import Plan",
    ],
)
def test_an_upward_import_is_named_with_file_and_line(statement: str, tmp_path: Path) -> None:
    source = tree(tmp_path, nn__neuron=f"import torch\n\n{statement}\n", graph__plan="")
    assert floors.faults(source) == [
        f"src/qffs/nn/neuron.py:3: `{statement}`: `graph` stands after `nn`, on the floor of graph, above functions"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "def run():\n    from qffs.graph import plan\n",
        "async def run():\n    from qffs.graph import plan\n",
        "class Neuron:\n    def run(self):\n        import qffs.graph\n",
        "try:\n    import numpy\nexcept ImportError:\n    from ..graph import plan\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import qffs.graph\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from qffs.graph import plan\n",
        "import typing\nif typing.TYPE_CHECKING:\n    from ..graph import plan\n",
        "from importlib import import_module\nplan = import_module('qffs.graph.plan')\n",
        "import qffs.errors, qffs.graph\n",
    ],
)
def test_an_upward_import_is_found_wherever_it_hides(text: str, tmp_path: Path) -> None:
    (fault,) = floors.faults(tree(tmp_path, nn__neuron=text, graph__plan="", errors=""))
    assert "`graph` stands after `nn`" in fault


@pytest.mark.parametrize(
    "text",
    [
        "from qffs.errors import QffsError\nfrom qffs import method\nfrom ..functional import neuron\n",
        "from . import quantizer\nfrom .quantizer import Quantizer\nfrom qffs.nn import quantizer\n",
        "import torch\nfrom torch import nn\nimport qffs_other.graph\n",
        "def run():\n    from qffs.functional import neuron\n",
        "text = 'from qffs.graph import plan'\n",
    ],
)
def test_imports_of_rooms_before_pass(text: str, tmp_path: Path) -> None:
    source = tree(tmp_path, nn__neuron=text, nn__quantizer="", errors="", method="", functional__neuron="")
    assert floors.faults(source) == []


def test_relative_imports_of_a_package_start_at_the_package_itself(tmp_path: Path) -> None:
    source = tree(tmp_path, nn____init__="from .neuron import Neuron\nfrom ..graph import plan\n", graph__plan="")
    (fault,) = floors.faults(source)
    assert fault.startswith("src/qffs/nn/__init__.py:2: ")


def test_a_later_room_of_the_same_floor_is_refused(tmp_path: Path) -> None:
    source = tree(tmp_path, data="from qffs.models import resnet\n", models="from qffs.data import Images\n")
    (fault,) = floors.faults(source)
    assert fault.startswith("src/qffs/data.py:1: ")
    assert "`models` stands after `data`, both on the floor of applications" in fault


def test_errors_import_nothing(tmp_path: Path) -> None:
    source = tree(tmp_path, method="from qffs.errors import QffsError\n", errors="from qffs.method import Levels\n")
    (fault,) = floors.faults(source)
    assert fault.startswith("src/qffs/errors.py:1: ")


@pytest.mark.parametrize("statement", ["import qffs", "from qffs import quantize", "from . import quantize"])
def test_the_top_package_stands_after_the_rooms_it_exports(statement: str, tmp_path: Path) -> None:
    source = tree(tmp_path, train=f"{statement}\n", __init__="from qffs.train import fit\n")
    (fault,) = floors.faults(source)
    assert "`__init__` stands after `train`" in fault


def test_a_room_without_a_place_is_named(tmp_path: Path) -> None:
    source = tree(tmp_path, attic="import qffs.cli\n", cellar__wine="", nn__neuron="from qffs import attic\n")
    assert floors.faults(source) == [
        "src/qffs/attic.py: `attic` has no floor: give it a place in FLOORS of tests/helpers/house/floors.py",
        "src/qffs/cellar/wine.py: `cellar` has no floor: give it a place in FLOORS of tests/helpers/house/floors.py",
    ]
    assert "graph" in floors.unused(source)


# Chains and circles


def test_a_circle_is_found_through_lazy_and_type_imports(tmp_path: Path) -> None:
    types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from qffs.nn import walk\n"
    lazily = "def run():\n    from qffs.nn.state import State\n"
    source = tree(tmp_path, nn__state=types, nn__walk=lazily, nn__alone="from qffs.nn import state\n")
    assert script.circles(source) == ["qffs.nn.state, qffs.nn.walk"]
    assert imports.circles(imports.arrows(source, eager=True)) == []


def test_a_circle_of_rooms_is_found_where_files_have_none(tmp_path: Path) -> None:
    source = tree(tmp_path, nn__a="import qffs.graph.b\n", graph__b="", graph__c="import qffs.nn.d\n", nn__d="")
    assert script.circles(source) == ["rooms graph, nn"]


def test_a_longest_chain_is_shown_from_its_first_file(tmp_path: Path) -> None:
    source = tree(
        tmp_path,
        graph__a="import qffs.nn.b\nimport qffs.errors\n",
        nn__b="from qffs.method import Levels\n",
        method="from qffs.errors import QffsError\ndef late():\n    import qffs.version\n",
        errors="",
        version="import qffs.progress\n",
        progress="",
    )
    eager = imports.longest_chain(imports.arrows(source, eager=True))
    assert eager == ["qffs.graph.a", "qffs.nn.b", "qffs.method", "qffs.errors"]
    assert len(imports.longest_chain(imports.arrows(source))) == 5
    assert imports.longest_chain({"a": frozenset("b"), "b": frozenset("a")}) in (["a"], ["b"])


# Sizes


def test_long_files_and_functions_and_wide_ones_are_found(tmp_path: Path) -> None:
    text = "def short(a, b):\n    return 1\n\n\ndef long(a, *, b, c):\n    x = 1\n    y = 2\n    return 3\n"
    source = tree(tmp_path, errors=text, method="x = 1\n")
    assert sources.long_files(source, 7) == [("errors.py", 8)]
    assert sources.long_files(source, 8) == []
    assert sources.long_functions(source, 3) == [("errors.py:5 long", 4)]
    assert sources.wide_functions(source, 2) == [("errors.py:5 long", 3)]


C = """// int not_one(void) {
#define MANY(x) \\
    do { x; } while (0)
typedef struct {
    int a;
} pair;

static int first(pair p)
{
    if (p.a) { // }
        return '}';
    }
    return 0;
}

static inline pair
second(int a) { return (pair){a}; }

static const int table[] = {1, 2};
"""


def test_c_functions_are_found_between_macros_structures_and_tables(tmp_path: Path) -> None:
    assert list(sources.c_functions(C)) == [("first", 8, 14), ("second", 16, 17)]
    source = tree(tmp_path, errors="")
    (source / "layer.c").write_text(C, encoding="utf-8")
    assert sources.long_c_functions(source, 6) == [("layer.c:8 first", 7)]


# Private names

WALK = "class Walk:\n    _limit = 1\n    def __init__(self):\n        self._values = {}\n    def _step(self): ...\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("from qffs.nn.walk import Walk\nclass Fast(Walk):\n    def _step(self): ...\n", "_step"),
        ("from .walk import Walk as Slow\nclass Fast(Slow):\n    _limit = 2\n", "_limit"),
        ("from qffs.nn import walk\nclass Fast(walk.Walk):\n    def run(self):\n        self._values = 1\n", "_values"),
        ("from qffs.nn.far import Far\nclass Fast(Far):\n    def _step(self): ...\n", "_step"),
        ("from qffs.nn import Walk\nclass Fast(Walk):\n    async def _step(self): ...\n", "_step"),
    ],
)
def test_a_private_name_of_another_file_is_found(text: str, name: str, tmp_path: Path) -> None:
    far = "from qffs.nn.walk import Walk\nclass Far(Walk):\n    pass\n"
    source = tree(tmp_path, nn__walk=WALK, nn__far=far, nn____init__="from .walk import Walk\n", nn__fast=text)
    assert sources.private_overrides(source) == [f"qffs.nn.fast.Fast.{name} is defined by qffs.nn.walk.Walk too"]


@pytest.mark.parametrize(
    "text",
    [
        "from qffs.nn.walk import Walk\nclass Fast(Walk):\n    def __init__(self): ...\n    def step(self): ...\n",
        "from qffs.nn.walk import Walk\nclass Fast:\n    def _step(self): ...\n",
        "from torch.nn import Walk\nclass Fast(Walk):\n    def _step(self): ...\n",
        "class Walk:\n    def _step(self): ...\nclass Fast(Walk):\n    def _step(self): ...\n",
    ],
)
def test_names_of_its_own_are_no_fault(text: str, tmp_path: Path) -> None:
    assert sources.private_overrides(tree(tmp_path, nn__walk=WALK, nn__fast=text)) == []


# Where tests lie


def test_a_test_at_no_source_is_named(tmp_path: Path) -> None:
    source = tree(tmp_path, convert="", nn__neuron="", nn____init__="", export__hub="")
    (source / "export" / "nir").mkdir()
    (source / "export" / "nir" / "__init__.py").touch()
    scripts, tests = tmp_path / "scripts", tmp_path / "tests"
    placed = ("test_qffs", "test_convert", "convert/test_bits", "nn/test_neuron", "nn/test_nn", "nn/neuron/test_leak",
              "export/test_nir", "export/nir/test_nir", "scripts/docs/test_page")  # fmt: skip
    misplaced = ("nn/test_other", "test_neuron", "scripts/docs/test_other", "nn/test_docs", "export/test_export")
    (scripts / "docs").mkdir(parents=True)
    (scripts / "docs" / "page.py").touch()
    for name in (*placed, *misplaced):
        (tests / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (tests / f"{name}.py").touch()
    assert sources.misplaced_tests(tests, source, scripts) == sorted(f"{name}.py" for name in misplaced)


# What a run loads and enters

COMMANDS = """import sys
from qffs import method
def main():
    from qffs import files
    assert sys.argv[1:5] == ["train", "digits", "fine.epochs=1", "--output"]
    files.write()
    sys.exit(0)
"""


def test_files_that_are_loaded_are_told_from_those_that_are_entered(tmp_path: Path) -> None:
    method = "class Levels:\n    highest = 3\nsizes = [x for x in range(3)]\ndef unused(): ...\n"
    source = tree(tmp_path, __init__="", cli=COMMANDS, method=method, files="def write(): ...\n", version="")
    (source / "recipes").mkdir()
    (source / "recipes" / "digits.yaml").write_text("bits: 2\nfine:\n  epochs: 15\n", encoding="utf-8")
    run = running.measured("train", source)
    assert run.loaded == ["__init__.py", "cli.py", "files.py", "method.py"]
    assert run.entered == ["cli.py", "files.py"]


def test_a_run_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No module named 'qffs"):
        running.measured("train", tree(tmp_path, __init__=""))


def test_the_script_prints_figures_and_what_stands_behind_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {name: figure for name, figure in script.FIGURES.items() if "digits" not in name and "steps" not in name}
    monkeypatch.setattr(script, "FIGURES", {**quick, "modules of studies and exports among them": lambda _: []})
    source = tree(tmp_path, nn__a="import qffs.nn.b\n", nn__b="import qffs.nn.a\n", errors="")
    script.main([str(source)])
    out = capsys.readouterr().out
    assert re.search(r"^modules directly under qffs +1$", out, re.MULTILINE)
    assert "circles of imports, of files and of rooms:\n  qffs.nn.a, qffs.nn.b\n" in out
    script.main(["--floors"])
    assert capsys.readouterr().out == floors.table(script.SOURCE)
