"""The command line: one sentence on standard error and exit code 2 for whatever cannot work."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import qffs
from helpers.command_line import Said
from helpers.problems import instead_of_data
from qffs import cli, models
from qffs.cli.former_flags import DemoCommand, QuantizeCommand
from qffs.data import Images
from qffs.data import load as load_data
from qffs.graph.plan import Row
from qffs.graph.trace.trace import trace
from qffs.models.weights import load_weights, read_weights
from qffs.recipes import of_demo
from qffs.recipes.recipe import Recipe
from qffs.runs.convert import convert
from qffs.runs.quantize import quantize

SUBCOMMANDS = ("demo", "quantize", "convert", "simulate", "noise", "energy")
RECIPES = ("demo", "quantize")
"""Those whose seed and device are keys of a recipe."""


@pytest.fixture
def run(command_line: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Said]:
    """Run a command line in an empty folder, in this process."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("COLUMNS", "200")

    return command_line


ROUNDS = {"learning_rate": 0.03, "batch_size": 64}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits, but few of them."""
    digits = load_data("digits")
    parts = [Images(part.images[:30], part.labels[:30]) for part in (digits.train, digits.test)]
    instead_of_data(monkeypatch, lambda *_, **__: dataclasses.replace(digits, train=parts[0], test=parts[1]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, and with a quantized and a spiking network for digits."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    save_file(models.build("digits_net").state_dict(), folder / "w.safetensors")
    recipe = Recipe.of({"weights": str(folder / "w.safetensors"), "quantized": ROUNDS | {"epochs": 0}, "device": "cpu"})
    quantize(recipe, folder / "qann", progress=False)
    convert(folder / "qann", folder / "snn", None)
    return folder


# What works


@pytest.mark.usefixtures("few")
def test_the_single_steps_go_from_weights_to_a_table(run: Callable[..., Said], made: Path) -> None:
    given = ("digits_net", "--data", "digits", "--no-reconstruct", "--weights", made / "w.safetensors")
    said = run("quantize", *given, "-o", "q")
    assert said.code == 0
    assert said.out.endswith("Wrote the quantized network to q; qffs convert makes a spiking network of it.\n")
    said = run("convert", "q", "-o", "s", "--charge-steps", "0.5,0.25,0.25", "--device", "cpu", "--seed", 1)
    assert said.code == 0
    assert said.out == "Wrote the spiking network to s: 5 layers of neurons, charged over 3 steps.\n"
    said = run("simulate", "s", "--qann", "q", "--steps", 3, "--device", "cpu", "--seed", 1)
    assert said.code == 0
    assert "digits_net on digits, 30 test images" in said.out
    assert "margin" not in said.out
    margins = ("--stop-when", 2, "--stop-when", 0.5)
    said = run("simulate", "s", "--steps", 6, *margins)
    assert said.code == 0
    assert re.search(r"SNN, margin 2 .* mean \d\.\d\d .* \d+\.\d\d %", said.out)
    told = json.loads(run("simulate", "s", "--steps", 6, *margins, "--json").out)["stopping"]
    assert [each["margin"] for each in told] == [2.0, 0.5]
    assert 1 <= told[1]["steps"] <= told[0]["steps"] <= 6


@pytest.mark.usefixtures("few")
def test_noises_and_cost_are_tables(run: Callable[..., Said], made: Path) -> None:
    said = run("noise", made / "snn", "--images", 20, "--steps", 6)
    assert said.code == 0
    for words in ("digits_net on digits, 20 test images", "rate-coding", "without", "longer simulation", "settles at"):
        assert words in said.out
    told = json.loads(run("noise", made / "snn", "--qann", made / "qann", "--steps", 6, "--json").out)
    assert (told["images"], told["steps"], len(told["noise"]), len(told["remedies"])) == (30, 6, 5, 5)
    said = run("energy", made / "snn", "--images", 20)
    assert said.code == 0
    assert re.search(r"│ QANN, zeros skipped │ +[\d.]+ [nµ]J │", said.out)
    assert "The SNN takes " in said.out
    free = json.loads(run("energy", made / "snn", "--multiply-add-pj", 0, "--add-pj", 2, "--json").out)
    operations = free["operations"]
    assert free["energy_pj"]["SNN"] == pytest.approx(2 * (operations["synaptic"] + operations["injected"]))
    some = json.loads(run("simulate", made / "snn", "--images", 20, "--steps", 3, "--json").out)
    assert some["images"] == 20


@pytest.mark.usefixtures("few")
def test_quantize_takes_bits_by_name(run: Callable[..., Said], made: Path) -> None:
    weights = ("--weights", made / "w.safetensors")
    changes = ("bits={stem.2: full, '*': 1}", "per_channel=true")
    said = run(
        "quantize", "digits_net", "--data", "digits", "--no-reconstruct", *weights, *changes, "--json", "-o", "q"
    )
    assert said.code == 0
    told = json.loads(said.out)
    assert list(told["bits"].items()) == [("stem.2", "full"), ("*", 1)]
    assert told["per_channel"] is True
    said = run("convert", "q", "-o", "s", "--json")
    assert list(json.loads(said.out)["highest_level"].values()) == [1, 1, 1, 1]


@pytest.mark.usefixtures("few")
def test_json_is_all_that_is_printed(run: Callable[..., Said], made: Path) -> None:
    weights = ("--weights", made / "w.safetensors")
    for arguments, key in (
        (("quantize", "digits_net", "--data", "digits", "--no-reconstruct", *weights, "-o", "q"), "loss"),
        (("convert", "q", "-o", "s"), "highest_level"),
        (("simulate", "s", "--steps", 3), "snn"),
    ):
        said = run(*arguments, "--json")
        assert said.code == 0
        assert key in json.loads(said.out)


def test_the_demo_hands_everything_on(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def demo(recipe: Recipe, folder: Path) -> dict[str, object]:
        seen.append((recipe, folder))
        rows = [{"steps": 1, "accuracy": 0.5, "spikes_per_image": 2.0}]
        return {"model": "net", "data": "pets", "images": 9, "snn": rows}

    monkeypatch.setattr("qffs.runs.train.demo", demo)
    assert "net on pets, 9 test images" in run("demo").out
    changes = "data=images:x model=m weights=w bits=3 output=4 quantized.epochs=7 precision=bfloat16 charge_steps=5"
    more = "quantized.learning_rate=0.5 seed=6 device=cpu size=24 -o out --json"
    assert json.loads(run("demo", *changes.split(), *more.split()).out)["images"] == 9
    assert seen[0] == (Recipe.of({}), Path("runs/demo"))
    network = {"data": "images:x", "model": "m", "weights": "w", "bits": 3, "output": 4, "seed": 6, "size": 24}
    rest = {"precision": "bfloat16", "charge_steps": 5, "device": "cpu"}
    stages = {"full_precision": ROUNDS | {"epochs": 2}, "quantized": ROUNDS | {"epochs": 7, "learning_rate": 0.5}}
    assert seen[1] == (Recipe.of({**network, **rest, **stages}), Path("out"))
    assert seen[1][0].horizon == 16
    run("demo", "bits={stem.2: full, block1.*: 3, '*': 1}", "per_channel=true", "--json")
    mixed = Recipe.of({"bits": {"stem.2": "full", "block1.*": 3, "*": 1}, "per_channel": True})
    assert seen[2] == (mixed, Path("runs/demo"))
    assert mixed.schedule.steps == 7  # of the finest
    assert mixed.horizon == 14
    run("demo", "weights=w", "full_precision.epochs=5", "quantised.epochs=3", "quantised.optimiser=adamw", "--json")
    told = seen[3][0]
    assert (told.full_precision.epochs, told.quantized.epochs, told.quantized.optimizer) == (5, 3, "adamw")


FORMER = {
    "demo --bits 3": "--bits 3 is written bits=3 now",
    "demo --bits=stem.2=full,*=1": """--bits stem.2=full,*=1 is written bits='{stem.2: full, "*": 1}' now""",
    "demo --epochs 3 --seed 1": "--epochs 3 is written quantized.epochs=3 now",
    "demo --float-epochs 3": "--float-epochs 3 is written full_precision.epochs=3 now",
    "demo --model m": "--model m is written model=m now",
    "demo --data d": "--data d is written data=d now",
    "demo --charge-steps 0.5,0.5": "--charge-steps 0.5,0.5 is written charge_steps=[0.5,0.5] now",
    "demo --batch-size 8": "--batch-size 8 is written full_precision.batch_size=8 quantized.batch_size=8 now",
    "quantize digits_net --data digits -o q --batch-size 8": "--batch-size 8 is written quantized.batch_size=8 now",
    "quantize digits_net --data digits -o q --size 8": "--size 8 is written size=8 now",
    "quantize digits_net --data digits -o q --device cpu": "--device cpu is written device=cpu now",
    "quantize digits_net --data digits -o q --per-channel": "--per-channel is written per_channel=true now",
    "quantize digits_net --data digits -o q --bits": "--bits VALUE is written bits=VALUE now",
}


@pytest.mark.parametrize("command", FORMER)
def test_a_flag_of_before_is_answered_with_how_it_is_written_now(command: str, run: Callable[..., Said]) -> None:
    assert run(*command.split()) == Said(2, "", f"qffs: {FORMER[command]}\n")
    assert not list(Path().iterdir())


@pytest.mark.parametrize("kind", [DemoCommand, QuantizeCommand])
def test_what_is_written_instead_of_a_former_flag_is_taken(kind: type[QuantizeCommand]) -> None:
    values = {"--precision": "bfloat16", "--output-bits": "3", "--bits": "stem.2=full,*=1", "--device": "cpu"}
    values |= {"--charge-steps": "0.5,0.25,0.25", "--data": "digits", "--model": "digits_net", "--weights": "w"}
    changes = []
    for flag, now in kind.former.items():
        value = values.get(flag, "2")
        changes += shlex.split(now.replace("{}", value) if isinstance(now, str) else now(value))
    recipe = of_demo([*changes, "steps=8"])
    assert recipe.bits == {"stem.2": "full", "*": 1}
    assert (recipe.seed, recipe.device, recipe.precision, recipe.per_channel) == (2, "cpu", "bfloat16", True)


def test_pictures_of_unequal_sizes_are_brought_to_one(
    run: Callable[..., Said], made: Path, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []

    def load(*given: Any, **more: Any) -> None:
        shapes.append(load_data(*given, **more).test.images.shape)
        raise qffs.errors.DataError("read")

    instead_of_data(monkeypatch, load)
    pictures = f"images:{broken}/unequal"
    for command in (
        ("demo", f"data={pictures}", "size=8"),
        ("quantize", "digits_net", "--data", pictures, "size=8", "-o", "q"),
        ("simulate", made / "snn", "--data", pictures, "--size", 8),
    ):
        assert run(*command).err.endswith("qffs: read\n")
    assert shapes == [(2, 3, 8, 8)] * 3


def test_help_says_how_to_name_data_and_how_long_the_demo_takes(run: Callable[..., Said]) -> None:
    assert "in well under a minute" in " ".join(run("--help").out.split())
    for name in ("quantize", "simulate"):
        said = " ".join(word for word in run(name, "--help").out.split() if word not in "│|")
        assert "or just the PATH of a zip or folder" in said
    for name in ("simulate", "export"):
        said = " ".join(word for word in run(name, "--help").out.split() if word not in "│|")
        assert "Resize the shorter side to N pixels and cut out the center square; for images:PATH only." in said


def test_every_subcommand_has_an_example_and_the_common_options(run: Callable[..., Said]) -> None:
    assert "Example" in run("--help").out
    for name in SUBCOMMANDS:
        said = run(name, "--help")
        assert said.code == 0
        assert f"Example: qffs {name} " in said.out.replace("`", "")
        assert "--json" in said.out
        common = ("KEY=VALUE",) if name in RECIPES else ("--device", "--seed")
        assert all(option in said.out for option in common)


def test_version_and_help_answer_without_torch() -> None:
    for argument in ("--version", "--help"):
        code = f"""import sys; sys.argv = ["qffs", "{argument}"]
from qffs.cli import main
try: main()
finally: assert "torch" not in sys.modules, "torch was imported" """
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert qffs.__version__ in done.stdout or "Usage" in done.stdout


@pytest.mark.slow
def test_the_module_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qffs", "demo", "bits=9"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "qffs: digits, bits=9: bits cannot be 9: bits must be a whole number from 1 to 8, not 9\n"


@pytest.fixture
def mine(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user in the current folder, of networks that print when they are made."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    Path("mine.py").write_text("""import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, refused=False, smooth=False):
        super().__init__()
        print("made")
        self.linear, self.refused, self.smooth = nn.Linear(3, 4), refused, smooth

    def forward(self, x, y):
        x = self.linear(x).relu()
        x = torch.sigmoid(x) if self.smooth else x
        return torch.logcumsumexp(x, 1) if self.refused else x + y

def refused():
    return Net(refused=True)

def smooth():
    return Net(smooth=True)
""")
    return Path("mine.py")


def test_the_plan_is_one_line_a_call_and_a_count_where_it_is_piped(run: Callable[..., Said], made: Path) -> None:
    network = models.build("digits_net")
    for more in ((), ("--weights", made / "w.safetensors"), ("--input", "1x8x8")):
        said = run("plan", "digits_net", *more)
        assert (said.code, said.err) == (0, "")
        *_, count = said.out.splitlines()
        assert said.out == f"{qffs.plan(network, torch.rand(2, 1, 8, 8))}\n"
        assert count.startswith("5 layers of neurons, 1 input, 9 linear, ")
        assert count.endswith(", nothing refused")


@pytest.mark.usefixtures("mine")
def test_the_plan_as_json_is_a_list_of_rows_and_nothing_else(run: Callable[..., Said]) -> None:
    said = run("plan", "mine:Net", "--input", "3", "--input", "4", "--json")
    assert (said.code, said.err) == (0, "made\n")
    rows = json.loads(said.out)
    assert [row["kind"] for row in rows] == ["input", "input", "linear", "spiking", "sum", "output"]
    assert rows[2]["site"] == "linear"
    assert rows[2]["shape"] == [2, 4]
    assert rows[2].keys() == {field.name for field in dataclasses.fields(Row)}


@pytest.mark.usefixtures("mine")
def test_what_is_refused_is_said_after_the_whole_table(run: Callable[..., Said]) -> None:
    shapes = ("--input", "3", "--input", "4")
    said = run("plan", "mine:refused", *shapes)
    assert said.code == 2
    assert said.out.splitlines()[-1].endswith(", 1 refused")
    assert "relu" in said.out
    assert re.fullmatch(r"made\nqffs: this network cannot be converted: logcumsumexp at .*\n", said.err)
    said = run("plan", "mine:refused", *shapes, "--json")
    assert said.code == 2
    assert [row["kind"] for row in json.loads(said.out)].count("refused") == 1
    assert run("plan", "mine:smooth", *shapes).code == 0
    said = run("plan", "mine:smooth", *shapes, "--strict")
    assert said.code == 2
    assert said.out.splitlines()[-1].endswith(", nothing refused")
    assert "cannot be converted: sigmoid at sigmoid (mine.py, line " in said.err


@pytest.mark.usefixtures("few")
def test_a_float_checkpoint_is_quantized_like_its_network_and_weights(run: Callable[..., Said], made: Path) -> None:
    network, folder = models.build("digits_net"), Path("float").absolute()
    load_weights(network, read_weights(made / "w.safetensors"), "w")
    qffs.save(trace(network, torch.rand(2, 1, 8, 8)), folder)
    counts = [run("plan", name).out.splitlines()[-1] for name in (folder, "digits_net")]
    assert counts[0] == counts[1]
    options = ("--data", "digits", "quantized.epochs=1", "--json")
    told = [
        json.loads(run("quantize", *given, *options, "-o", name).out)
        for name, given in (("a", ("digits_net", "--weights", made / "w.safetensors")), ("b", (folder,)))
    ]
    assert told[0]["loss"] == told[1]["loss"]
    assert told[1]["model"] == str(folder)


def test_the_plan_has_an_example(run: Callable[..., Said]) -> None:
    said = run("plan", "--help")
    assert said.code == 0
    assert "Example: qffs plan torchvision:resnet18 --input 3x224x224" in said.out.replace("`", "")


# What does not


def bad(path: Path) -> None:
    """Files that cannot be used, in a folder."""
    path.joinpath("half.safetensors").write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{")
    torch.manual_seed(0)
    weights = models.build("digits_net").state_dict()
    save_file(weights | {"classify.bias": torch.zeros(3)}, path / "shape.safetensors")
    save_file(weights | {"classify.bias": torch.full((10,), float("nan"))}, path / "nan.safetensors")
    with zipfile.ZipFile(path / "broken.zip", "w") as archive:
        for part in ("train", "test"):
            archive.writestr(f"{part}/cat/1.png", b"no picture")
    for part in ("train", "test"):
        (path / "empty" / part / "dog").mkdir(parents=True)
        for kind in ("empty", "color"):
            (path / kind / part / "cat").mkdir(parents=True)
            Image.new("RGB", (8, 8), (9, 9, 9)).save(path / kind / part / "cat" / "1.png")
            (path / "unequal" / part / "cat").mkdir(parents=True, exist_ok=True)
            for name, size in (("1.png", (9, 12)), ("2.png", (16, 8))):
                Image.new("RGB", size, (9, 9, 9)).save(path / "unequal" / part / "cat" / name)
    torch.save(models.build("digits_net"), path / "code.pt")
    (path / "taken" / "results.json").mkdir(parents=True)
    (path / "file").write_bytes(b"mine")


CASES: dict[str, tuple[str, str]] = {
    **{
        f"an unset variable: {words}": (words, f"qffs: {name} is empty: give it a value, or leave it out")
        for words, name in [
            ("train digits -o ", "-o"),
            ("demo --output=", "--output"),
            ("quantize digits_net --data digits -o ", "-o"),
            ("convert  -o out", "an argument"),
            ("simulate none --qann ", "--qann"),
            ("plan digits_net --weights ", "--weights"),
            ("report ", "an argument"),
            ("report none --data ", "--data"),
            ("compare ", "an argument"),
            ("paper fig6 -o ", "-o"),
            ("export  --to onnx -o x", "an argument"),
            ("pull me/net -o ", "-o"),
            ("push  me/net", "an argument"),
            ("recipes show ", "an argument"),
            ("recipes validate ", "an argument"),
        ]
    },
    **{
        f"to save every {value} seconds": (
            f"train digits --save-every {value}",
            "--save-every must be a finite number of at least 0, not ",
        )
        for value in ("nan", "inf", "-1", "1e999")
    },
    "bits": ("demo bits=9", "bits must be a whole number from 1 to 8, not 9"),
    "bits in words": ("demo bits=two", "bits must be a whole number from 1 to 8, or a mapping from patterns to such"),
    "bits of a name": ("demo bits={stem.2:\xa03,'*':\xa09}", "for '*', bits must be a whole number from 1 to 8, not 9"),
    "no bits of a name": ("quantize digits_net --data digits bits={'*':\xa0} -o q", "bits must be a whole number"),
    "a name twice": ("demo bits={'*':\xa02,'*':\xa03}", "bits={'*': 2,'*': 3}: * stands twice, first on line 1"),
    "a star alone": ("demo bits={*:\xa02}", "bits={*: 2}: this is no YAML: "),
    "name of nothing": (
        "demo bits={stem.3:\xa03,'*':\xa02}",
        "'stem.3' matches no activation that is to be quantized",
    ),
    "names of some": (
        "demo bits={stem.2:\xa03}",
        "no pattern matches block1.relu, block1.relu_2, block2.relu and 1 more",
    ),
    "name too late": (
        "demo bits={'*':\xa03,stem.2:\xa02}",
        "decides nothing: '*' before it matches stem.2; put it first",
    ),
    "all in full precision": (
        "demo bits={'*':\xa0full}",
        'nothing would be quantized: every activation is to stay "full"',
    ),
    "output bits": ("demo output=9", "output must be a whole number of at least 1 and at most 8, or analog"),
    "output bits in words": ("demo output=two", "output must be a whole number of at least 1 and at most 8, or analog"),
    "too few steps": ("demo steps=2", "steps must be at least the 3 charge steps"),
    "charge weights": ("demo charge_steps=[0.5,0.6]", "charge weights must add up to 1"),
    "charge steps in words": ("demo charge_steps=many", "charge_steps must be a whole number, a list of numbers"),
    "charge steps in words to convert": (
        "convert {made}/qann -o out --charge-steps many",
        "--charge-steps must be a whole number or weights",
    ),
    "charge weights that are none": (
        "demo charge_steps=[nan,1]",
        "a list of numbers that add up to 1, or null",
    ),
    "epochs": ("demo quantized.epochs=-1", "quantized.epochs must be a whole number of at least 0, not -1"),
    "float epochs": ("demo full_precision.epochs=-1", "full_precision.epochs must be a whole number of at least 0"),
    "learning rate": ("demo quantized.learning_rate=0", "quantized.learning_rate must be a number above 0, not 0"),
    "learning rate nan": ("demo quantized.learning_rate=nan", "quantized.learning_rate must be a number above 0, not"),
    "batch size": (
        "demo quantized.batch_size=0",
        "quantized.batch_size must be a whole number of at least 1 and below 2^31",
    ),
    "huge batch size": (
        "demo quantized.batch_size=9999999999",
        "at least 1 and below 2^31, not 9999999999",
    ),
    "endless run": ("demo steps=1000000000", "and at most 1,048,576, not 1000000000"),
    "endless charge": ("demo charge_steps=1" + "0" * 30, "there can be at most 1,048,576 charge steps"),
    "size": (
        "demo data=images:{bad}/color size=0",
        "size must be a whole number of at least 1 and at most 8192, or null, not 0",
    ),
    "size of digits": ("demo size=8", "a size fits only image files"),
    "size of digits to quantize": ("quantize digits_net --data digits size=8 -o q", "a size fits only image files"),
    "size of digits to simulate": ("simulate {made}/snn --size 8", "a size fits only image files"),
    "unequal sizes": ("demo data=images:{bad}/unequal", "pixels, but train/cat/1.png is 9 x 12: give "),
    "result is a folder": ("demo -o {bad}/taken", "taken/results.json is a folder, where a file is to be written"),
    "seed": ("demo seed=99999999999999999999", "seed must be a whole number of at least 0 and below 2^63"),
    "device": ("demo device=cuda", "there is no CUDA device here: name cpu instead"),
    "device to convert": ("convert {made}/qann -o out --device cuda", "there is no CUDA device here"),
    "device to simulate": ("simulate {made}/snn --device cuda", "there is no CUDA device here"),
    "model": ("demo model=vgg", "there is no model 'vgg'; there are digits_net"),
    "model of a function": ("demo model=none:make", "there is no module none in this folder or among the installed"),
    "model of a spiking checkpoint": ("demo model={made}/snn", "holds a network of kind 'snn': name one of a float"),
    "quantized twice": (
        "quantize {made}/qann --data digits -o q",
        "holds a network of kind 'qann': name one of a float",
    ),
    "plan of nothing": ("plan vgg", "there is no model 'vgg'; there are digits_net"),
    "plan of a quantized one": ("plan {made}/qann", "holds a network of kind 'qann': name one of a float network"),
    "plan of a folder": ("plan {bad}", "is not a checkpoint: it has no config.json"),
    "plan of a shape in words": ("plan digits_net --input big", "the shape of an input is written like 3x224x224, not"),
    "plan of a wrong shape": ("plan digits_net --input 3x8x8", "does not run on an example of shape (2, 3, 8, 8)"),
    "plan of too many inputs": ("plan digits_net --input 1x8x8 --input 4", "the example has 2 inputs, but DigitsNet"),
    "plan without a shape": ("plan torch.nn:Identity", "torch.nn:Identity does not say what it takes: give the shape"),
    "plan with missing weights": ("plan digits_net --weights none", "there is no weight file none"),
    "plan with code": (
        "plan digits_net --weights {bad}/code.pt",
        "code.pt cannot be read as weights only, and reading",
    ),
    "plan with other weights": ("plan cifar_resnet20 --weights {made}/w.safetensors", "conv1.weight is missing in the"),
    "data": ("demo data=nothing", "'nothing' names no data"),
    "missing data": ("demo data=images:nothing", "nothing does not exist"),
    "broken image": ("demo data=images:{bad}/broken.zip", "train/cat/1.png in {bad}/broken.zip is broken"),
    "empty class": ("demo data=images:{bad}/empty", "dog in {bad}/empty holds no image: no file ends in .jpg, "),
    "color": ("demo data=images:{bad}/color", "does not run on an example of shape (1, 3, 8, 8)"),
    "missing weights": ("demo weights=none", "there is no weight file none"),
    "half a file": ("demo weights={bad}/half.safetensors", "is no complete safetensors file"),
    "shapes": ("demo weights={bad}/shape.safetensors", "classify.bias has shape (3,) in the file and (10,) in the"),
    "nan weights": ("demo weights={bad}/nan.safetensors", "nan.safetensors holds NaN or infinity in classify.bias"),
    "output is a file": ("demo -o {bad}/file", "no folder that may be written to"),
    "output under a file": ("quantize digits_net --data digits -o {bad}/file/q", "no folder that may be written to"),
    "output of others": ("quantize digits_net --data digits -o {bad}/empty", "holds something else than a checkpoint"),
    "convert nothing": ("convert none -o out", "none is not a checkpoint: it has no config.json"),
    "convert a spiking one": ("convert {made}/snn -o out", "of kind 'snn': convert takes a quantized one"),
    "convert in place": ("convert {made}/qann -o {made}/qann", "would replace the quantized one"),
    "convert into its input": ("convert {made}/qann -o {made}/qann/snn", "snn lies inside the checkpoint {made}/qann"),
    "convert with weights": ("convert {made}/qann -o out --charge-steps 0.5,0.6", "charge weights must add up to 1"),
    "noise of no network": ("noise none", "none is not a checkpoint: it has no config.json"),
    "noise of a quantized one": ("noise {made}/qann", "simulate takes a spiking one, which qffs convert makes"),
    "noise beside another": ("noise {made}/snn --qann {made}/snn", "--qann takes a quantized one"),
    "no image": ("energy {made}/snn --images 0", "images must be from 1 to the 449 of digits, not 0"),
    "more images than there are": ("simulate {made}/snn --images 450", "images must be from 1 to the 449 of digits"),
    "energy below none": (
        "energy {made}/snn --add-pj -1",
        "the energy of an addition must be a number of pJ",
    ),
    "simulate nothing": ("simulate none", "none is not a checkpoint: it has no config.json"),
    "simulate a quantized one": ("simulate {made}/qann", "simulate takes a spiking one, which qffs convert makes"),
    "simulate too short": ("simulate {made}/snn --steps 2", "at least as many steps as the 3 charge steps"),
    "simulate to no margin": (
        "simulate {made}/snn --stop-when 0",
        "stop_when must be a finite number above 0, not 0.0",
    ),
    "simulate color": ("simulate {made}/snn --data images:{bad}/color", "does not run on images of 3 x 8 x 8"),
    "compare with itself": ("simulate {made}/snn --qann {made}/snn", "--qann takes a quantized one"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    bad(folder)
    return folder


def names(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_exit_code_2_and_nothing_written(
    case: str, run: Callable[..., Said], made: Path, broken: Path
) -> None:
    command, sentence = (text.replace("{made}", str(made)).replace("{bad}", str(broken)) for text in CASES[case])
    before = names(made), names(broken)
    said = run(*(word.replace("\xa0", " ") for word in command.split(" ")))
    assert said.code == 2
    assert said.out == ""
    *bars, last = said.err.splitlines()
    assert all(bar.startswith("decoding ") for bar in bars), said.err
    assert last.startswith("qffs: ")
    assert sentence in last
    assert not list(Path().iterdir())
    assert (names(made), names(broken)) == before


@pytest.mark.parametrize(
    "command",
    [
        "nonsense",
        "demo --nonsense",
        "simulate x --seed two",
        "simulate x --device tpu",
        "quantize",
        "convert",
        "simulate a b",
    ],
)
def test_mistakes_in_the_command_line_itself_are_exit_code_2_too(command: str, run: Callable[..., Said]) -> None:
    said = run(*command.split())
    assert said.code == 2
    assert said.out == ""
    assert "Usage: " in said.err
    assert "Traceback" not in said.err
    assert not list(Path().iterdir())


def test_a_message_of_several_lines_becomes_one(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise qffs.errors.QffsError("one\n  two\nthree")

    monkeypatch.setattr("qffs.runs.convert.convert", fail)
    assert run("convert", "a", "-o", "b") == Said(2, "", "qffs: one two three\n")


def test_an_interruption_is_exit_code_130(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qffs.runs.convert.convert", stop)
    said = run("convert", "a", "-o", "b")
    assert said == Said(130, "", "qffs: stopped\n")


def test_a_warning_is_one_sentence_and_printed_once(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*_: object, **__: object) -> None:
        for path in (cli.__file__, cli.__file__, "/elsewhere.py"):
            warnings.warn_explicit("2 files are left out", UserWarning, path, 1)
            # Commands have advice of their own, so this is not printed.
            warnings.warn_explicit("use more bits", qffs.errors.Inaccurate, path, 1)
        raise qffs.errors.QffsError("stopped")

    monkeypatch.setattr("qffs.runs.convert.convert", warn)
    monkeypatch.setattr(cli, "_notices", set())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        said = run("convert", "a", "-o", "b")
    assert said.err.splitlines() == [
        "qffs: 2 files are left out", "/elsewhere.py:1: UserWarning: 2 files are left out", "qffs: stopped",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_paths_may_begin_with_the_home_folder(
    run: Callable[..., Said], made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.setenv("USERPROFILE", str(made))
    network = models.build("digits_net")
    load_weights(network, read_weights("~/w.safetensors"), "w")
    assert qffs.save(trace(network, torch.zeros(2, 1, 8, 8)), "~/float") == made / "float"
    for command in (
        "plan ~/float",
        "quantize ~/float --data=digits --weights=~/float/model.safetensors -o=q quantized.epochs=0",
        "quantize digits_net --data digits weights=~/float/model.safetensors model=~/float -o q quantized.epochs=0",
        "convert ~/qann --output=s",
        "simulate ~/snn --qann=~/qann --images 2",
        "export ~/snn --to hub -o h",
    ):
        said = run(*command.split())
        assert said.code == 0, said.err
    (made / "mine.yaml").write_text("bits: 3\n")
    assert run("recipes", "validate", "~/mine.yaml").code == 0


def test_a_home_folder_that_does_not_exist_is_named(run: Callable[..., Said], tmp_path: Path) -> None:
    for command in (
        "convert qann -o ~nosuchuser/s",
        "export snn --to pt2 -o ~nosuchuser/x.pt2",
        "train digits -o ~nosuchuser/run",
        "plan ~nosuchuser/float",
        "recipes validate ~nosuchuser/mine.yaml",
        "demo weights=~nosuchuser/w.pt",
        "compare ~nosuchuser/float",
    ):
        said = run(*command.split())
        assert (said.code, "~nosuchuser" in said.err, "Traceback" in said.err) == (2, True, False), said.err
    assert not any(path.name.startswith("~") for path in tmp_path.iterdir())
