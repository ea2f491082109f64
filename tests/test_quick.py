"""Every folder of the package keeps quick tests: those that `make test` runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from helpers.places import ROOT

SOURCE, TESTS = ROOT / "src" / "qffs", ROOT / "tests"


def packages(source: Path) -> set[str]:
    """Return the packages below a source folder, as paths from there: ``train/distributed``."""
    return {path.parent.relative_to(source).as_posix() for path in source.rglob("__init__.py")} - {"."}


def package_of(test: Path, named: set[str]) -> str:
    """Return the package that a test file belongs to, for a path from the tests' folder: ``nn/test_neuron.py``.

    It is the package that the file is named after, ``studies/methods`` of ``studies/methods/test_methods.py`` or of
    ``studies/test_methods.py``, else the package nearest above it.
    """
    own = test.parent / test.stem.removeprefix("test_")
    above = [own, *own.parents]
    return next((path.as_posix() for path in above if path.as_posix() in named), "")


def without(tests: Iterable[Path], named: set[str]) -> set[str]:
    """Return the packages to which none of the test files belongs."""
    return named - {package_of(test, named) for test in tests}


def test_every_package_has_quick_tests(request: pytest.FixtureRequest) -> None:
    config = request.config
    if config.args_source is not config.ArgsSource.TESTPATHS or config.option.keyword:
        pytest.skip("a part of the tests runs")
    quick = [item.path for item in request.session.items if item.get_closest_marker("slow") is None]
    tests = {path.relative_to(TESTS) for path in quick if path.is_relative_to(TESTS)}
    assert not without(tests, packages(SOURCE))


def test_a_package_without_a_test_is_named(tmp_path: Path) -> None:
    for name in ("nn", "train", "train/distributed", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    named = packages(tmp_path)
    assert named == {"nn", "train", "train/distributed", "data"}
    tests = [Path("nn/neuron/test_fire.py"), Path("train/test_distributed.py"), Path("test_data.py"), Path("test_x.py")]
    assert without(tests, named) == {"train"}
