"""A recipe names functions of the current folder alone, unless the user types the name or trusts the recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import pytest

from helpers.command_line import Said
from qffs.errors import InvalidArgument
from qffs.recipes import read
from qffs.recipes.trust import distrusted

FILES = {
    "nets.py": """
import subprocess
from subprocess import getoutput
from .near import Near
from near import small as little
from near import run as passed_on
from os import path

class Net:
    pass

def build(): ...

if True:
    def chosen(): ...

made = build
named: object = build
""",
    "near.py": "from subprocess import run\nclass Near: pass\ndef small(): ...\n",
    "package/__init__.py": "from .inner import Inner\nfrom . import inner\nfrom ..nets import Net\n",
    "package/inner.py": "class Inner: pass\n",
    "folder/deep.py": "def build(): ...\n",
    "circle.py": "from circle import something\n",
    "broken.py": "def build(:\n",
    "subprocess.py": "def getoutput(cmd): ...\n",
    "yaml.py": "def load(text): ...\n",
    "passing.py": "from yaml import load\nfrom subprocess import getoutput\n",
    "again.py": "def build(): ...\nfrom subprocess import getoutput as build\n",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_text(text)
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize(
    "model",
    [
        "digits_net", "torchvision:resnet18", "timm:resnet18", "some/folder", "nets:Net", "nets:Net.small",
        "nets:build", "nets:chosen", "nets:made", "nets:named", "nets:Near", "nets:little", "package:Inner",
        "package.inner:Inner",
        "package:Net", "folder.deep:build",
    ],
)  # fmt: skip
def test_names_of_the_folder_and_of_libraries(model: str) -> None:
    assert distrusted(model) is None


@pytest.mark.parametrize(
    "model",
    [
        "subprocess:getoutput", "os:system", "builtins:eval", "torch.hub:load", "nets:subprocess.getoutput",
        "nets:getoutput", "nets:passed_on", "nets:path", "nets:build.__globals__", "nets:Net.__init__.__globals__",
        "nets:made.call", "nets:__loader__", "nets:missing", "package:inner.Inner", "circle:something", "broken:build",
        "again:build", "yaml:load", "passing:load", "passing:getoutput",
        "../here/nets:build", "/etc/x:build", ".nets:build", ":build", "nets:", "nets.:build",
    ],
)  # fmt: skip
def test_names_of_other_code(model: str) -> None:
    assert "if you trust it, type model=" in (distrusted(model) or "")


def test_a_module_that_python_has_loaded_from_elsewhere_is_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert distrusted("nets:Net") is None
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "nets.py").write_text("class Net: ...")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert distrusted("nets:Net") is None  # the current folder is searched first
    monkeypatch.setitem(sys.modules, "nets", ModuleType("nets"))
    sys.modules["nets"].__spec__ = PathFinder.find_spec("nets", [str(tmp_path / "elsewhere")])
    assert "if you trust it" in (distrusted("nets:Net") or "")


def test_a_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("seed: 1\nmodel: subprocess:getoutput\nmodel_arguments: {cmd: touch x}\n")
    with pytest.raises(InvalidArgument, match=r"r\.yaml, line 2: model names a function"):
        read(str(path), ["seed=2"])
    assert read(str(path), trust=True).model == "subprocess:getoutput"
    assert read(str(path), ["model=subprocess:getoutput"]).model == "subprocess:getoutput"
    assert read("digits", ["model=subprocess:getoutput"]).model == "subprocess:getoutput"


def test_the_teacher_of_a_file_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "model: torchvision:resnet18\n"
        "teacher: subprocess:getoutput\n"
        "quantized: {epochs: 1, learning_rate: 0.1, distillation: 0.5}\n"
    )
    with pytest.raises(InvalidArgument, match=r"line 2: teacher names a function .* type teacher=subprocess:getoutput"):
        read(str(path), ["model=digits_net"])
    assert read(str(path), ["teacher=subprocess:getoutput"]).teacher == "subprocess:getoutput"


def test_the_command_line_runs_no_code_of_a_recipe(command_line: Callable[..., Said], tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: subprocess:getoutput\nmodel_arguments: {cmd: touch RAN}\n")
    for words in (
        ["recipes", "validate", path],
        ["train", path],
        ["train", path, "--resume"],
        ["compare", path],
        ["paper", "fig6", path],
    ):
        said = command_line(*words)
        assert said.code == 2
        assert "model names a function" in said.err
    assert command_line("recipes", "validate", path, "--trust").code == 0
    assert not list(tmp_path.rglob("RAN"))
    for words in (["train"], ["compare"], ["paper", "fig6"]):
        assert "subprocess:getoutput returned a str" in command_line(*words, path, "--trust").err
