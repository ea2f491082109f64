"""Recipes as files: how YAML and overrides are read, those that come with qffs, their subcommands and document."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from helpers import mutations
from helpers.places import ROOT
from qffs import recipes
from qffs.cli.recipes import app
from qffs.errors import InvalidArgument, QffsError
from qffs.recipes import attempt, names, of_quantization, read, text, to_yaml
from qffs.recipes.messages import allowed, shown
from qffs.recipes.recipe import Recipe, Training
from qffs.recipes.yaml import parse

DOCUMENT = ROOT / "docs" / "recipes.md"


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """Write a recipe, return its path."""

    def write(content: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(content, encoding="utf-8")
        return str(path)

    return write


# YAML


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001),
        ("5.", 5.0),
        (".5", 0.5),
        ("-2", -2),
        ("010", 10),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("on", "on"),
        ("full", "full"),
        ("2020-01-01", "2020-01-01"),
        ("true", True),
        ("", None),
        ("~", None),
        ("'1e-3'", "1e-3"),
        ("[a, {b: [1, 2.0]}]", ["a", {"b": [1, 2.0]}]),
    ],
)
def test_scalars_are_those_of_the_core_schema(written: str, value: Any) -> None:
    found = parse(f"key: {written}")[0]["key"]
    assert found == value
    assert type(found) is type(value)


def test_every_key_has_its_line() -> None:
    assert parse("a: 1\n\nb:\n  - c: 2\n  - 3\n")[1] == {("a",): 1, ("b",): 3, ("b", "0", "c"): 4}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("seed: 1\nseed: 2", "line 2: seed stands twice, first on line 1"),
        ("quantized:\n  epochs: 1\n  epochs: 1", "line 3: quantized.epochs stands twice, first on line 2"),
        ("a: &a [1]\nb: *a", "line 1: anchors (&) and aliases (*) are not used in recipes: write the value out"),
        ("a: &a [*a]", "line 1: anchors"),
        ("a: [1", "line 1: this is no YAML"),
        ("data: a\n b: c", "line 2: this is no YAML"),
        ("a: 1\n---\nb: 2", "line 2: this is no YAML: but found another document"),
        ("a: !!python/object/apply:os.getcwd []", "line 1: a recipe holds no !!python/object/apply:os.getcwd"),
        ("a: !!set {1}", "line 1: a recipe holds no !!set"),
        ("? [1]\n: 2", "line 1: a key must be a text"),
        ("a: \x01", "this is no YAML: unacceptable character"),
        ("[" * 5000, "this is nested too deep"),
        ("seed: 1e999", "line 1: 1e999 is too large a number"),
        ("seed: " + "9" * 5000, "line 1: '9999"),
        ("a: !!int x", "line 1: 'x' is no int"),
        ("- 1", "line 1: a recipe is a mapping"),
        ("", "line 1: a recipe is a mapping"),
        ("seed: 1\nsize: no", 'line 2: size must be a whole number of at least 1 and at most 8192, or null, not "no"'),
        ("\nquantized:\n  epochs: 1", "line 2: quantized.learning_rate is missing: it must be a number above 0"),
        ("quantized:\n  epochs: 1\n  learning_rat: 1\n", "line 3: quantized.learning_rat is no key; did you mean quan"),
        ("seed: 1\nbits: {a: 2, b: 10}", "line 2: bits cannot be"),
        ("1: 2", "line 1: 1 is no key"),
        ('"\\uD800": 2', "line 1: '\\ud800' holds half a character"),
        ('data: "x\\uDFFF"', "line 1: 'x\\udfff' holds half a character"),
    ],
)
def test_a_mistake_in_a_file_is_said_with_its_line(content: str, sentence: str, file: Any) -> None:
    found = attempt(file(content))
    assert isinstance(found, list)
    assert any(each.startswith(sentence) for each in found), found


def test_reading_says_the_file_and_all_mistakes(file: Any) -> None:
    path = file("seed: -1\nsize: 0\n")
    with pytest.raises(InvalidArgument) as caught:
        read(path, ["workers=-1"])
    assert str(caught.value) == (
        f"{path}, line 2: size must be a whole number of at least 1 and at most 8192, or null, not 0; "
        "workers=-1: workers must be a whole number of at least 0, not -1; "
        "line 1: seed must be a whole number of at least 0 and below 2^63, not -1"
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("digit", "there is no recipe 'digit'; there is digits, and a file ends in .yaml"),
        ("xyz", "there is no recipe 'xyz'; there is cifar10_resnet18, "),
        ("absent.yaml", "absent.yaml cannot be read: No such file"),
        ("a\0.yaml", "a\0.yaml is no text in UTF-8"),
    ],
)
def test_what_is_no_recipe_is_refused_by_name(name: str, sentence: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        text(name)
    assert str(caught.value).startswith(sentence)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InvalidArgument, match=r"a\.yaml is no text in UTF-8"):
        read(str(tmp_path / "a.yaml"))


def test_only_a_regular_file_of_the_size_of_a_recipe_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(InvalidArgument, match=rf"{name}\.yaml cannot be read: it is no regular file"):
            read(str(tmp_path / f"{name}.yaml"))
    (tmp_path / "long.yaml").write_text("#" * (2**20 + 1))
    with pytest.raises(InvalidArgument, match=r"long\.yaml cannot be read: it has more than 1,048,576 characters"):
        read(str(tmp_path / "long.yaml"))


# Overrides


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("bits=3", "bits", 3),
        ('bits={"layer4.*": 3, "*": full}', "bits", {"layer4.*": 3, "*": "full"}),
        ("data=cifar10:a: b #c", "data", "cifar10:a: b #c"),
        ("data=12", "data", "12"),
        ("weights=*.pt", "weights", "*.pt"),
        ("weights=", "weights", None),
        ("weights=null", "weights", None),
        ("augmentation=[]", "augmentation", []),
        ("charge_steps=[0.5, 0.25, 0.25]", "charge_steps", [0.5, 0.25, 0.25]),
        ("held_out=5e-2", "held_out", 0.05),
        ("output=3", "output", 3),
        ("output=analog", "output", "analog"),
        ("model_arguments.width=32", "model_arguments", {"width": 32}),
        ("model_arguments={width: 32}", "model_arguments", {"width": 32}),
        ("steps=", "steps", None),
    ],
)
def test_an_override_takes_the_place_of_a_value(override: str, key: str, value: Any) -> None:
    assert getattr(read("digits", [override]), key) == value


def test_an_override_in_a_section_leaves_the_rest_of_it(file: Any) -> None:
    whole = read("cifar10_resnet18", ["quantized.epochs=3", "quantized.learning_rate=2e-2"])
    assert whole.quantized == read("cifar10_resnet18").quantized.model_copy(update={"epochs": 3})
    absent = read(file("data: digits"), ["quantized.epochs=3"])
    assert absent.quantized == Recipe().quantized.model_copy(update={"epochs": 3})
    assert Recipe().quantized.epochs == 15


def test_the_last_of_two_overrides_decides_and_names_the_mistake() -> None:
    assert read("digits", ["seed=1", "seed=2"]).seed == 2
    assert attempt("digits", ["seed=1", "seed=-2"]) == [
        "seed=-2: seed must be a whole number of at least 0 and below 2^63, not -2"
    ]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("bits", "bits: a change of a recipe is written key=value, such as bits=3"),
        ("=3", "=3: a change of a recipe"),
        ("epochs=3", "epochs=3: epochs is no key; did you mean full_precision.epochs or quantized.epochs?"),
        ("quantize.epochs=3", "quantize.epochs=3: quantize is no key; did you mean quantized?"),
        ("quantized.epoch=3", "quantized.epoch=3: quantized.epoch is no key; did you mean quantized.epochs?"),
        ("bits.layer4=3", "bits.layer4=3: bits has no keys: write its whole value, such as bits=..."),
        ("bits={*: 2}", "bits={*: 2}: this is no YAML"),
        ("size=[1", "size=[1: this is no YAML"),
        ("data=", "data=: data must be a text, not null"),
        ("steps=1", "steps=1: steps must be at least the 3 charge steps"),
    ],
)
def test_a_mistake_in_an_override_is_said_with_it(override: str, sentence: str) -> None:
    found = attempt("digits", [override])
    assert isinstance(found, list)
    assert found[0].startswith(sentence)


# Writing


@pytest.mark.parametrize("name", names())
def test_a_recipe_that_is_written_is_read_as_it_was(name: str, file: Any) -> None:
    recipe = read(name, ["quantized.clip_gradient=1e-5"])
    assert read(file(to_yaml(recipe))) == recipe


WORDS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["1e3", "08", "no", "~", "1_0", "0x1", "<<"]
)


@given(WORDS, st.dictionaries(WORDS, WORDS | st.integers() | st.booleans() | st.none(), max_size=3))
def test_any_text_is_read_as_it_was_written(word: str, arguments: dict[str, Any]) -> None:
    recipe = Recipe(data=word, model_arguments=arguments)
    assert Recipe.of(parse(to_yaml(recipe))[0]) == recipe


# The recipes that come with qffs


def test_the_recipes_are_these() -> None:
    assert names() == [
        "cifar10_resnet18",
        "cifar10_resnet20",
        "cifar10_vgg16",
        "digits",
        "imagenet_resnet50",
        "imagenet_vgg16",
        "imagenette_resnet18",
        "imagenette_resnet50",
        "imagenette_vgg16",
    ]


@pytest.mark.parametrize("name", names())
def test_a_recipe_begins_with_its_command_and_what_was_measured(name: str) -> None:
    lines = text(name).splitlines()
    command, overrides = shlex.split(lines[0])[:4], shlex.split(lines[0])[4:]
    assert command == ["#", "qffs", "train", name]
    assert isinstance(attempt(name, overrides), Recipe)
    assert [line.split(":")[0] for line in lines[1:5]] == ["#", "# about", "# machine and time", "# measured"]
    assert all(line.split(": ", 1)[1].strip() for line in lines[2:5])


@pytest.mark.parametrize("name", names())
def test_the_overrides_that_comments_suggest_are_valid(name: str) -> None:
    for line in text(name).splitlines()[1:]:
        if line.startswith("#"):
            suggested = re.findall(r"(?<![\w-])[a-z_]+(?:\.[a-z_]+)?=(?:'[^']*'|[^\s']+)", line[1:])
            assert isinstance(attempt(name, shlex.split(" ".join(suggested))), Recipe), line


def test_digits_is_the_default_recipe_with_each_image_moved() -> None:
    digits, default = read("digits"), Recipe()
    moved = {"augmentation": [{"RandomCrop": {"size": [8, 8], "padding": 1}}], "steps": 8}
    assert digits == default.model_copy(update=moved)


@pytest.mark.parametrize(
    "name", [name for name in names() if name.startswith(("cifar10_resnet18", "cifar10_vgg", "imagenet_"))]
)
def test_what_the_paper_gives_is_taken(name: str) -> None:
    """The recipes for CIFAR-10 are shorter, and their comments say how to take the paper's table."""
    _, _, comment = text(name).partition("# With the paper's table 2 ")
    recipe = read(name, re.findall(r"quantized\.[a-z_]+=[^\s]+", comment.partition("\n\n")[0]))
    table = {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "epochs": 40, "batch_size": 32}
    assert {key: getattr(recipe.quantized, key) for key in table} == table
    assert (recipe.quantized.optimizer, recipe.quantized.schedule) == ("sgd", "exponential")
    assert (recipe.bits, recipe.output, recipe.schedule.steps) == (2, 3, 3)
    assert (recipe.quantized.nesterov, recipe.quantized.ema, recipe.quantized.distillation) == (False, 0, 0)
    assert recipe.quantized.level_penalty == 0 or name.startswith("imagenet")


# Subcommands


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_list_has_a_row_for_each_recipe() -> None:
    shown_, rows = run("list"), json.loads(run("list", "--json").stdout)
    assert shown_.exit_code == 0
    assert [row["name"] for row in rows] == names()
    assert all(name in shown_.stdout for name in names())
    assert rows[names().index("digits")] == {
        "name": "digits",
        "model": "digits_net",
        "data": "digits",
        "bits": 2,
        "output": "analog",
        "epochs": {"full_precision": 15, "quantized": 15},
        "about": recipes.about("digits"),
    }


def test_show_prints_the_recipe_as_it_stands_in_its_file() -> None:
    assert run("show", "digits").stdout == text("digits")


def test_validate_says_that_a_recipe_is_valid(file: Any) -> None:
    path = file(text("digits"))
    assert run("validate", path, "quantized.epochs=1").stdout == f"{path} is valid\n"
    answer = run("validate", path, "--json")
    assert (answer.exit_code, json.loads(answer.stdout)) == (0, {"recipe": path, "valid": True, "mistakes": []})


def test_validate_says_all_mistakes_and_leaves_with_2() -> None:
    answer = run("validate", "digits", "seed=-1", "bitz=2")
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert answer.stderr.splitlines() == [
        "digits, bitz=2: bitz is no key; did you mean bits?",
        "digits, seed=-1: seed must be a whole number of at least 0 and below 2^63, not -1",
    ]
    answer = run("validate", "digits", "seed=-1", "--json")
    assert answer.exit_code == 2
    assert json.loads(answer.stdout)["mistakes"] == attempt("digits", ["seed=-1"])


def test_validate_looks_at_the_augmentation_too() -> None:
    answer = run("validate", "digits", "augmentation=[{RandomCrp: {}}]")
    assert answer.exit_code == 2
    assert "kornia.augmentation has no 'RandomCrp'; there is RandomCrop" in answer.stderr
    answer = run("validate", "digits", "augmentation=[{RandomCrop: {size: [0, 0]}}]")
    assert answer.exit_code == 2
    assert "RandomCrop returns images without pixels: choose another size" in answer.stderr
    answer = run("validate", "digits", "augmentation=[{RandomCrop: {size: 8}}]")
    assert answer.exit_code == 2
    assert "RandomCrop cannot be applied to images of 3 x 512 x 512: " in answer.stderr


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, qffs.cli.recipes; sys.exit(bool({'torch', 'kornia'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The document


def rows_of(section: type[Any]) -> list[str]:
    """The beginning of the row of each key, as the document must have it."""
    found = []
    for name, field in section.model_fields.items():
        default = field.default
        if isinstance(default, Training):
            default = default.model_dump(exclude_unset=True)
        said = "must be said" if field.is_required() else f"`{shown(default)}`"
        found.append(f"| `{name}` | {allowed(field)} | {said} | ")
    return found


def test_the_document_has_every_key_with_what_it_takes_and_its_default() -> None:
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    wanted = rows_of(Recipe) + rows_of(Training)
    assert len(lines) == len(wanted)
    for line, beginning in zip(lines, wanted, strict=True):
        assert line.startswith(beginning)
        assert len(line) > len(beginning) + 2, "a meaning"


def test_the_examples_of_the_document_are_read() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    for block in re.findall(r"```yaml\n(.*?)```", document, re.DOTALL):
        assert isinstance(Recipe.of(parse(block)[0]), Recipe)
    found = re.findall(r"`([a-z_.]+=[^`]+)`", document)
    overrides = [shlex.split(override)[0] for override in found if override != "key=value"]
    assert len(overrides) > 3
    for override in overrides:
        assert isinstance(attempt("digits", [override]), Recipe), override


def test_keys_in_their_spelling_of_before_are_read(tmp_path: Path) -> None:
    old = to_yaml(read("digits", ["quantized.optimizer=adamw", "quantized.epochs=3"]))
    for key, before in (("quantized", "quantised"), ("optimizer", "optimiser")):
        assert key in old
        old = old.replace(key, before)
    (tmp_path / "old.yaml").write_text(old)
    recipe = read(str(tmp_path / "old.yaml"))
    assert (recipe.quantized.optimizer, recipe.quantized.epochs) == ("adamw", 3)
    changed = read(str(tmp_path / "old.yaml"), ["quantised.optimiser=sgd", "quantised.epochs=4", "quantized.ema=0.9"])
    assert (changed.quantized.optimizer, changed.quantized.epochs, changed.quantized.ema) == ("sgd", 4, 0.9)
    (tmp_path / "old.yaml").write_text(old.replace("epochs: 3", "epochs: -3"))
    line = 1 + old.splitlines().index("  epochs: 3")
    (sentence,) = attempt(str(tmp_path / "old.yaml"))
    assert sentence == f"line {line}: quantized.epochs must be a whole number of at least 0, not -3"


def test_any_damage_of_a_recipe_is_told_in_sentences(tmp_path: Path) -> None:
    values, path, taken = read("cifar10_resnet20").model_dump(), tmp_path / "damaged.yaml", 0
    contents = [yaml.safe_dump(damaged).encode() for damaged in mutations.of_json(values, 200)]
    contents += mutations.of_bytes(to_yaml(read("digits")).encode(), 200)
    for content in contents:
        path.write_bytes(content)
        try:
            read(str(path))
            taken += 1
        except QffsError as error:
            sentence = str(error)
            assert sentence.startswith(str(path))
    assert 0 < taken < 400


def test_steps_of_a_reconstruction_are_the_users() -> None:
    def steps(*overrides: str, reconstruct: bool | None = None) -> int:
        return of_quantization("digits_net", "digits", None, overrides, reconstruct=reconstruct).reconstruction_steps

    assert steps("reconstruction_steps=0") == 0
    assert steps("reconstruction_steps=60") == steps("reconstruction_steps=60", reconstruct=True) == 60
    assert steps("quantized.epochs=1") == 0
    assert steps("quantized.epochs=1", reconstruct=True) == steps() > 60
    for value, option in (("60", False), ("0", True)):
        with pytest.raises(InvalidArgument, match=f"reconstruction_steps={value} contradicts --"):
            steps(f"reconstruction_steps={value}", reconstruct=option)
