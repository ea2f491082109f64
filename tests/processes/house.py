"""Prints today's figures of the house, which tests/test_house.py holds, and what stands behind each.

python tests/processes/house.py               figures of src/qffs
python tests/processes/house.py SRC/qffs      figures of another tree
python tests/processes/house.py --floors      the table of floors in CONTRIBUTING.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [] if str(TESTS) in sys.path else [str(TESTS)]

from helpers.house import floors, imports, running, sources  # noqa: E402
from helpers.places import ROOT  # noqa: E402

SOURCE = ROOT / "src" / "qffs"
LINES, FUNCTION_LINES, C_LINES, PARAMETERS = 300, 60, 60, 8

run = cache(running.measured)


def modules_under_root(source: Path) -> list[str]:
    return sorted(path.name for path in source.glob("*.py"))


def folders_under_root(source: Path) -> list[str]:
    return sorted(path.name for path in source.iterdir() if any(path.rglob("*.py")))


def room_arrows(source: Path) -> list[str]:
    return [
        f"{room} -> {target}" for room, targets in imports.room_arrows(source).items() for target in sorted(targets)
    ]


def circles(source: Path) -> list[str]:
    rooms = [f"rooms {', '.join(circle)}" for circle in imports.circles(imports.room_arrows(source))]
    return rooms + [", ".join(circle) for circle in imports.circles(imports.arrows(source))]


def needless(source: Path) -> list[str]:
    """Return what training loads of studies and exports, under their names today and before."""
    rooms = ("studies", "export", "baselines", "paper")
    return [path for path in run("train", source).loaded if Path(path).parts[0] in rooms]


def misplaced_tests(source: Path) -> list[str]:
    top = source.parents[1]
    return sources.misplaced_tests(top / "tests", source, top / "scripts")


def shown(sized: list[sources.Sized]) -> list[str]:
    return [f"{size:4} {where}" for where, size in sized]


FIGURES: dict[str, Callable[[Path], list[str]]] = {
    "modules directly under qffs": modules_under_root,
    "folders of Python directly under qffs": folders_under_root,
    "floors: the longest chain of rooms": lambda source: imports.longest_chain(imports.room_arrows(source)),
    "arrows between rooms": room_arrows,
    "circles of imports, of files and of rooms": circles,
    "longest chain of imports when files load": lambda source: imports.longest_chain(
        imports.arrows(source, eager=True)
    ),
    "longest chain of imports, lazy and type imports too": lambda source: imports.longest_chain(imports.arrows(source)),
    "modules": lambda source: sorted(map(".".join, imports.files(source))),
    "modules loaded by `qffs train digits`": lambda source: run("train", source).loaded,
    "modules of studies and exports among them": needless,
    "files entered by `qffs train digits`": lambda source: run("train", source).entered,
    "files entered by `snn(x, steps=8)`": lambda source: run("simulate", source).entered,
    "private names that a base class of another file defines": sources.private_overrides,
    "tests that are not at the path of their source": misplaced_tests,
    f"files over {LINES} lines": lambda source: shown(sources.long_files(source, LINES)),
    f"functions over {FUNCTION_LINES} lines": lambda source: shown(sources.long_functions(source, FUNCTION_LINES)),
    f"functions of more than {PARAMETERS} parameters": lambda source: shown(sources.wide_functions(source, PARAMETERS)),
    f"C functions over {C_LINES} lines": lambda source: shown(sources.long_c_functions(source, C_LINES)),
}
"""By name, what is counted: the figure is the length of the list."""

WHOLE = ("modules", "arrows between rooms")
"""Figures whose lists are too long to be read."""


def main(arguments: list[str]) -> None:
    if arguments == ["--floors"]:
        print(floors.table(SOURCE), end="")
        return
    source = Path(arguments[0]).resolve() if arguments else SOURCE
    lists = {name: figure(source) for name, figure in FIGURES.items()}
    width = max(map(len, lists))
    print("\n".join(f"{name:{width}}  {len(lines):4}" for name, lines in lists.items()))
    for name, lines in lists.items():
        if lines and name not in WHOLE:
            print("\n".join((f"\n{name}:", *(f"  {line}" for line in lines))))


if __name__ == "__main__":
    main(sys.argv[1:])
