"""torchvision and timm: imported when asked for, repaired in one known case, and else reported as they fail."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

import qffs
from qffs.errors import InvalidArgument
from qffs.models import find
from qffs.models.libraries import vision

needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    for name in ("torchvision", "timm")
}

ASK = """
import gc, sys, torch
from qffs.models.libraries import vision
module = vision(sys.argv[1])
gc.collect()
print(module.__name__, module.imports, hasattr(torch.ops.torchvision, "nms"))
"""

NEEDS_SCHEMAS = """
import torch
from torchvision import state
state.imports += 1
imports = state.imports
for name in ("nms", "qnms"):
    torch.library.register_fake(f"torchvision::{name}")(lambda dets, scores, iou_threshold: dets)
"""


def ask(folder: Path, name: str, packages: Mapping[str, str]) -> tuple[str, str]:
    """What a fresh Python prints, and the last line of its errors, where these are the packages."""
    for path, text in packages.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(Path(qffs.__file__).parents[1])!r}]\n{ASK}"
    done = subprocess.run(
        [sys.executable, "-c", code, name], capture_output=True, text=True, timeout=120, check=False, cwd=folder
    )
    return done.stdout.strip(), (done.stderr.strip().splitlines() or [""])[-1]


@pytest.mark.slow
def test_the_missing_schemas_are_defined_and_what_was_half_imported_is_imported_again(tmp_path: Path) -> None:
    package = {"torchvision/__init__.py": NEEDS_SCHEMAS, "torchvision/state.py": "imports = 0"}
    assert ask(tmp_path, "torchvision", package) == ("torchvision 1 True", "")
    package["timm/__init__.py"] = "from torchvision import imports"
    assert ask(tmp_path, "timm", package) == ("timm 1 True", "")


@pytest.mark.slow
def test_a_torchvision_that_works_is_left_alone(tmp_path: Path) -> None:
    assert ask(tmp_path, "torchvision", {"torchvision/__init__.py": "imports = 7"}) == ("torchvision 7 False", "")


@pytest.mark.slow
def test_what_the_schemas_do_not_cure_is_reported(tmp_path: Path) -> None:
    still = "operator torchvision::nms does not exist"
    said, error = ask(tmp_path, "torchvision", {"torchvision/__init__.py": f"raise RuntimeError({still!r})"})
    assert said == ""
    assert error == f"qffs.errors.InvalidArgument: torchvision cannot be imported: RuntimeError: {still}"


@pytest.fixture
def unimported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As if neither had been imported yet; what is in the test's folder is imported first."""

    def theirs() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] in needs]

    before = {name: sys.modules.pop(name) for name in theirs()}
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in theirs():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.usefixtures("unimported")
@pytest.mark.parametrize(
    ("name", "package", "message"),
    [
        ("torchvision", "raise RuntimeError('no symbol')", "torchvision cannot be imported: RuntimeError: no symbol"),
        ("torchvision", "raise OSError('libjpeg')", "torchvision cannot be imported: OSError: libjpeg"),
        (
            "torchvision",
            "import old_pil",
            "torchvision is installed, but a module that it needs is not: No module named 'old_pil'",
        ),
        ("timm", "raise AttributeError('old torch')", "timm cannot be imported: AttributeError: old torch"),
    ],
)
def test_any_other_failure_is_reported_as_it_is(
    name: str, package: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qffs.models.libraries._define", lambda: pytest.fail("tried to repair it"))
    for path, text in {"torchvision": "", name: package}.items():
        (tmp_path / path).mkdir()
        (tmp_path / path / "__init__.py").write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        vision(name)
    assert str(caught.value) == message


@pytest.mark.parametrize(("missing", "name"), [("torchvision", "torchvision.models"), ("timm", "timm")])
def test_what_is_not_installed_comes_with_the_command(missing: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InvalidArgument) as caught:
        vision(name)
    assert str(caught.value) == f"{missing} is not installed: pip install 'qffs[vision]'"


def test_neither_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, qffs.models.find, qffs.runs; print(*{'torchvision', 'timm'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "\n", done.stderr


# The real ones


@needs["torchvision"]
@pytest.mark.parametrize(
    ("name", "side", "neurons"),
    [("resnet18", 224, 17), pytest.param("googlenet", 224, 57, marks=pytest.mark.slow)],
)
def test_networks_of_torchvision_come_untrained_with_their_shape(name: str, side: int, neurons: int) -> None:
    source = find.find(f"torchvision:{name}")
    assert source.shapes == ((3, side, side),)
    plan = qffs.plan(source.network, find.example(name, source))
    assert sum(row.kind == "spiking" for row in plan.rows) == neurons
    assert not plan.refused


@needs["torchvision"]
def test_one_network_takes_larger_images() -> None:
    assert find.find("torchvision:inception_v3").shapes == ((3, 299, 299),)


@needs["timm"]
@pytest.mark.slow
def test_networks_of_timm_come_untrained_with_their_shape() -> None:
    source = find.find("timm:resnet18")
    assert source.shapes == ((3, 224, 224),)
    assert find.find("timm:test_resnet").shapes == ((3, 160, 160),)
    assert type(source.network).__module__ == "timm.models.resnet"


@needs["torchvision"]
@pytest.mark.parametrize("name", ["resnet81", "fcn_resnet50", "list_models", ""])
def test_a_name_that_torchvision_has_not_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"torchvision has no classification network '{name}'") as caught:
        find.find(f"torchvision:{name}")
    assert ("; nearest to it: " in str(caught.value)) == ("resnet" in name)


@needs["timm"]
@pytest.mark.parametrize("name", ["resnet-18", "hf-hub:timm/resnet18", "local-dir:/x", "", "none"])
def test_a_name_that_timm_has_not_is_refused_and_nothing_is_fetched(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"timm has no classification network '{name}'"):
        find.find(f"timm:{name}")


@needs["timm"]
def test_what_timm_refuses_is_one_sentence() -> None:
    with pytest.raises(InvalidArgument, match=r"timm cannot build resnet18\.none: RuntimeError: .*none"):
        find.find("timm:resnet18.none")
