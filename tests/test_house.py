"""A module imports only from lower floors of the package.

Every ``import`` statement counts, at the top of a module and inside its functions, except those under
``if TYPE_CHECKING:``. Modules imported by a string (``importlib.import_module``) are not seen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.places import ROOT

SOURCE = ROOT / "src" / "qffs"

# Floor by floor, the rooms of the house: a module of the package, or a package with all it holds.
# "__init__" is the package `qffs` itself; `__main__` stands above `cli`, which it only calls.
FLOORS = (
    ("errors", "faults", "levels", "precision", "version", "progress"),
    ("distributed", "functional", "recipe"),
    ("kernels", "recipes", "state"),
    ("nn",),
    ("graph",),
    ("simulate", "augment", "data", "models", "vision", "weights"),
    ("accumulate",),
    ("backends", "stream"),
    ("network",),
    ("convert", "calibration", "checkpoint", "train"),
    ("measure", "sources", "baselines"),
    ("report",),
    ("export",),
    ("jobs",),
    ("paper",),
    ("cli", "__init__"),
    ("__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
OPEN_TO_ALL = ("errors",)  # its own floor included: `levels` raises errors too
FREE_INSIDE_FUNCTIONS = ("__init__",)


class Import(NamedTuple):
    line: int
    text: str
    room: str
    inside_function: bool


def test_modules_import_only_from_lower_floors() -> None:
    assert (SOURCE / "errors.py").is_file(), f"no modules to read under {SOURCE}"
    found = faults(SOURCE)
    assert not found, "\n" + "\n".join(found)


def faults(source: Path) -> list[str]:
    """One line for each module without a floor and for each import from the same or an upper floor."""
    return [fault for path in sorted(source.rglob("*.py")) for fault in faults_of(path, source)]


def faults_of(path: Path, source: Path) -> Iterator[str]:
    shown, module = path.relative_to(source.parents[1]).as_posix(), module_of(path, source)
    room = room_of(module)
    if room not in FLOOR_OF:
        yield f"{shown}: `{room}` has no floor: give it one in FLOORS of tests/test_house.py"
        return
    package = module if path.name == "__init__.py" else module[:-1]
    for found in imports(ast.parse(path.read_text(encoding="utf-8")), package, source):
        reason = objection(room, found)
        if reason:
            yield f"{shown}:{found.line}: `{found.text}`: {reason}"


def objection(room: str, found: Import) -> str | None:
    """Why the import is wrong in this room, or None."""
    if found.room in (room, *OPEN_TO_ALL) or (found.inside_function and room in FREE_INSIDE_FUNCTIONS):
        return None
    if found.room not in FLOOR_OF:
        return f"`{found.room}` has no floor"
    if FLOOR_OF[found.room] < FLOOR_OF[room]:
        return None
    return f"`{room}` is on floor {FLOOR_OF[room]} and `{found.room}` on floor {FLOOR_OF[found.room]}, not below it"


def imports(tree: ast.AST, package: tuple[str, ...], source: Path, inside_function: bool = False) -> Iterator[Import]:
    """Each import of a part of `qffs` below the given node."""
    if isinstance(tree, ast.Import | ast.ImportFrom):
        for name in imported(tree, package, source):
            yield Import(tree.lineno, ast.unparse(tree), room_of(name), inside_function)
        return
    inside_function |= isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for_types_only = isinstance(tree, ast.If) and ast.unparse(tree.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    for child in tree.orelse if for_types_only else ast.iter_child_nodes(tree):
        yield from imports(child, package, source, inside_function)


def imported(node: ast.Import | ast.ImportFrom, package: tuple[str, ...], source: Path) -> list[tuple[str, ...]]:
    """Return the full names of what a statement imports from `qffs`; a relative name starts at the package."""
    if isinstance(node, ast.Import):
        names = [tuple(alias.name.split(".")) for alias in node.names]
    else:
        start = package[: len(package) - node.level + 1] if node.level else ()
        module = start + tuple(node.module.split(".") if node.module else ())
        # `from qffs import levels` imports a module, `from qffs import quantize` what `qffs/__init__.py` defines.
        names = [
            (*module, alias.name) if module != ("qffs",) or is_room(alias.name, source) else module
            for alias in node.names
        ]
    return [name for name in names if name[:1] == ("qffs",)]


def is_room(name: str, source: Path) -> bool:
    return name in FLOOR_OF or (source / name).is_dir() or (source / f"{name}.py").is_file()


def module_of(path: Path, source: Path) -> tuple[str, ...]:
    """``.../qffs/nn/neuron.py`` -> ``("qffs", "nn", "neuron")``; a package is named by its folder."""
    parts = ("qffs", *path.relative_to(source).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def room_of(module: tuple[str, ...]) -> str:
    return module[1] if len(module) > 1 else "__init__"


# The checker itself, on small made-up source trees.


def house(folder: Path, **files: str) -> Path:
    """Write a source tree, return it: ``nn__neuron="..."`` is ``qffs/nn/neuron.py``, ``nn="..."`` is ``qffs/nn.py``."""
    source = folder / "src" / "qffs"
    for name, text in files.items():
        path = source / f"{name}.py" if name.startswith("__") else source / f"{name.replace('__', '/', 1)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return source


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
    source = house(tmp_path, nn__neuron=f"import torch\n\n{statement}\n")
    assert faults(source) == [
        f"src/qffs/nn/neuron.py:3: `{statement}`: `nn` is on floor 3 and `graph` on floor 4, not below it"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "def run():\n    from qffs.graph import plan\n",
        "async def run():\n    from qffs.graph import plan\n",
        "class Neuron:\n    def run(self):\n        import qffs.graph\n",
        "try:\n    import numpy\nexcept ImportError:\n    from ..graph import plan\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import qffs.graph\n",
        "import qffs.errors, qffs.graph\n",
    ],
)
def test_an_upward_import_is_found_wherever_it_hides(text: str, tmp_path: Path) -> None:
    (fault,) = faults(house(tmp_path, nn__neuron=text))
    assert "`nn` is on floor 3 and `graph` on floor 4" in fault


@pytest.mark.parametrize(
    "text",
    [
        "from qffs.errors import QffsError\nfrom qffs import levels\nfrom ..functional import fire\n",
        "from . import quantizer\nfrom .quantizer import Quantizer\nfrom qffs.nn import quantizer\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from qffs.graph import plan\n",
        "import typing\nif typing.TYPE_CHECKING:\n    from ..graph import plan\n",
        "import torch\nfrom torch import nn\nimport qffs_other.graph\n",
        "def run():\n    from qffs.functional import fire\n",
        "text = 'from qffs.graph import plan'\n",
    ],
)
def test_what_is_allowed_passes(text: str, tmp_path: Path) -> None:
    assert faults(house(tmp_path, nn__neuron=text)) == []


def test_relative_imports_of_a_package_start_at_the_package_itself(tmp_path: Path) -> None:
    source = house(tmp_path, nn____init__="from .neuron import Neuron\nfrom ..graph import plan\n")
    (fault,) = faults(source)
    assert fault.startswith("src/qffs/nn/__init__.py:2: ")


def test_a_module_of_the_same_floor_is_refused(tmp_path: Path) -> None:
    (fault,) = faults(house(tmp_path, data="from qffs.models import resnet\n", models=""))
    assert fault.startswith("src/qffs/data.py:1: ")
    assert "`data` is on floor 5 and `models` on floor 5" in fault


def test_errors_are_open_to_their_own_floor_and_import_nothing(tmp_path: Path) -> None:
    text = "from qffs.errors import InvalidArgument\nfrom qffs.version import __version__\n"
    source = house(tmp_path, levels=text, errors="from qffs.method import Levels\n")
    assert [fault.split(": ")[0] for fault in faults(source)] == ["src/qffs/errors.py:1", "src/qffs/method.py:2"]


@pytest.mark.parametrize("statement", ["import qffs", "from qffs import quantize", "from . import quantize"])
def test_the_top_package_is_above_the_modules_it_exports(statement: str, tmp_path: Path) -> None:
    (fault,) = faults(house(tmp_path, train=f"{statement}\n"))
    assert f"`train` is on floor {FLOOR_OF['train']} and `__init__` on floor {FLOOR_OF['__init__']}" in fault


def test_the_top_package_may_import_anything_lazily(tmp_path: Path) -> None:
    lazily = "from qffs.convert import quantize\ndef __getattr__(name):\n    from qffs import cli\n"
    main = "from qffs.cli import main\nmain()\n"
    assert faults(house(tmp_path, __init__=lazily, __main__=main)) == []
    (fault,) = faults(house(tmp_path / "eager", __init__="from qffs.cli import main\n"))
    assert fault.startswith("src/qffs/__init__.py:1: ")


def test_a_module_without_a_floor_is_named(tmp_path: Path) -> None:
    source = house(tmp_path, attic="import qffs.cli\n", cellar__wine="", nn__neuron="from qffs import attic\n")
    assert faults(source) == [
        "src/qffs/attic.py: `attic` has no floor: give it one in FLOORS of tests/test_house.py",
        "src/qffs/cellar/wine.py: `cellar` has no floor: give it one in FLOORS of tests/test_house.py",
        "src/qffs/nn/neuron.py:1: `from qffs import attic`: `attic` has no floor",
    ]


def test_every_room_has_one_floor() -> None:
    assert len(FLOOR_OF) == sum(len(rooms) for rooms in FLOORS)
