"""What the documents promise holds: versions agree, the first commands are the right ones, no private word slips in."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from torch import nn

from helpers.places import ROOT
from helpers.scripted import script
from helpers.untrained import images, network, trained
from qffs.graph.rules import MODULES, OPERATORS
from qffs.studies.methods import METHODS
from qffs.version import __version__

operators = script("operators")
SHELLS = ("", "sh", "bash", "shell", "console")
# Registries and machine paths; put together here so that this file does not hold them.
FORBIDDEN = tuple(
    start + end
    for start, end in [
        ("pypi", ".org"),
        ("pythonhosted", ".org"),
        ("/wo", "rk/"),
        ("/tm", "p/w"),
        ("/ro", "ot/"),
    ]
)


def top_keys(text: str) -> dict[str, str]:
    """Return the ``key: value`` lines of a YAML text that are not indented, values without their quotes."""
    return {key: value.strip('"') for key, value in re.findall(r"^([\w-]+): *(.*?) *$", text, re.MULTILINE)}


def shell_commands(markdown: str) -> list[str]:
    """Return the commands of the fenced shell blocks, without prompts, comments and empty lines."""
    blocks = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    lines = [line for language, block in blocks if language in SHELLS for line in block.splitlines()]
    commands = [re.sub(r"(^|\s)#.*", "", line).strip().removeprefix("$ ") for line in lines]
    return [command for command in commands if command]


def forbidden_in(content: bytes) -> list[str]:
    return [word for word in FORBIDDEN if word.encode() in content.lower()]


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if (ROOT / name).is_file()]


def test_citation_has_the_required_keys_and_the_paper() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    keys = top_keys(text)
    assert keys["cff-version"] == "1.2.0"
    assert keys["license"] == "Apache-2.0"
    assert {"message", "title", "authors", "preferred-citation"} <= keys.keys()
    assert "doi: 10.3389/fnins.2022.918793" in text


def test_citation_names_the_version_of_the_package() -> None:
    assert top_keys((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__


def test_the_package_is_typed() -> None:
    assert (ROOT / "src" / "qffs" / "py.typed").is_file()


def test_constraints_pin_torch() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert "torch==2.13.0" in pins
    assert "torchvision==0.28.0" in pins  # the one that needs this torch: another would pull another


def test_license_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text


def test_readme_begins_with_the_two_commands() -> None:
    assert shell_commands((ROOT / "README.md").read_text(encoding="utf-8"))[:2] == ["make demo", "make test"]


def test_readme_names_the_command_for_all_tests_and_make_knows_it() -> None:
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"`make ([\w-]+)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert {"demo", "test", "test-all"} <= set(named) <= set(rules)


def test_shell_commands_of_a_text() -> None:
    text = "```python\nimport qffs\n```\n\n```sh\n# one minute\n$ make demo  # writes\n\nmake test\n```\n"
    assert shell_commands(text) == ["make demo", "make test"]


def test_no_tracked_file_holds_a_forbidden_word() -> None:
    found = {path.relative_to(ROOT).as_posix(): forbidden_in(path.read_bytes()) for path in tracked_files()}
    assert found, "git lists no file"
    assert not {name: words for name, words in found.items() if words}


@pytest.mark.parametrize("word", FORBIDDEN)
def test_a_forbidden_word_is_found(word: str) -> None:
    assert forbidden_in(b"see " + word.upper().encode() + b"x") == [word]


def test_the_readmes_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10))
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    names = {"model": nn.Sequential(*layers).double(), "x": x, "batches": [x]}
    exec(example, names)
    assert names["logits"].shape == (8, 4, 10)  # type: ignore[attr-defined]


def test_the_example_of_ones_own_operator_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text("utf-8"), re.DOTALL)
    torch.manual_seed(0)
    exec(example, {"__name__": "example"})
    printed = capsys.readouterr().out
    assert re.search(r"wavelet +Wavelet +16x8x32 +linear", printed)
    assert re.search(r"median +median +16x8x1 +differenced +the median of the accumulated input", printed)
    assert "the spike counts of all 6,144 neurons of 2 layers, over 16 images, are their quantizers' levels" in printed


def test_the_example_of_ones_own_method_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    _, example = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text("utf-8"), re.DOTALL)
    for method in ("qffs", "percentile"):  # so that what the example adds is gone afterwards
        monkeypatch.setitem(METHODS, method, METHODS["qffs"])
    names: dict[str, Any] = {"__name__": "example"}
    exec(example, names)
    method, x = names["METHODS"]["percentile"], images()
    made = trained(method, network(), x)
    with torch.no_grad():
        wanted = made(x)
    found = method.spiking(made, [x], 512)(x, steps=512)[-1]
    assert float((found - wanted).norm() / wanted.norm()) < 0.1


def test_the_comparisons_page_is_that_of_what_was_compared() -> None:
    page = script("compare")
    assert page.PAGE.read_text(encoding="utf-8") == page.page(page.comparisons())
    for name in page.comparisons():
        assert (page.PICTURES / f"{name}.png").exists()


def test_gaps_are_explained_for_any_methods() -> None:
    """Explain gaps also if no method trained ReLUs, and if one has no read-out."""
    page = script("compare")
    points = [{"latency": 4, "accuracy": 0.5}]
    rows = [
        {"method": name, "title": name.upper(), "activation": "clip", "trained_accuracy": 0.8, "by_latency": found}
        for name, found in (("tcl", points), ("cos", []))
    ]
    told = page.behind({"model": "m", "data": "d", "full_precision": {"accuracy": 0.9}, "methods": rows})
    assert "- TCL: 10.0 points as trained, below" in told
    assert "- TCL: 30.0 points at T = 4, below" in told
    assert "COS" not in told


def test_the_table_of_operators_is_that_of_the_rules() -> None:
    assert operators.FILE.read_text(encoding="utf-8") == operators.document(), "run python scripts/docs/operators.py"
    rows = [line for line in operators.document().splitlines() if line.startswith("| **")]
    for name in (*OPERATORS, *(kind.__name__ for kind in MODULES if kind.__module__.startswith("torch."))):
        assert sum(f"`{name}`" in row or f"`.{name}`" in row for row in rows) >= 1


def glossary_names(text: str) -> list[str]:
    return [
        name
        for line in re.findall(r"Code:(.*?)\n\n", text + "\n", re.DOTALL)
        for name in re.findall(r"`(qffs[\w.]*)`", line)
    ]


def test_the_glossary_names_what_is_in_the_code() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert "docs/glossary.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    names = glossary_names(text)
    assert len(names) > 40
    for name in names:
        assert resolve_name(name) is not None
    with pytest.raises(AttributeError):
        resolve_name("qffs.functional.lsq.nothing")
    defined = [word.lower() for word in re.findall(r"^\*\*([\w -]+?)\*\*", text, re.MULTILINE)]
    assert len(defined) == len(set(defined))
    words = "qann lsq level threshold charge t d read-out settle increment step-size"
    assert {word.replace("step-size", "step size") for word in words.split()} <= set(defined)
