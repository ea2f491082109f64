"""Networks by name: every form finds its network, and every mistake is one sentence that helps."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import qffs
from qffs import models
from qffs.errors import CheckpointError, InvalidArgument, QffsError
from qffs.graph.trace.trace import trace
from qffs.models import find as sources
from qffs.models.checkpoint import load, save
from qffs.models.find import find
from qffs.models.libraries import LIBRARIES

MINE = """
import sys
import torch
from torch import nn

made = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
sizes = (3, 4)

def make(classes=2):
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, classes))

def later():
    import sibling
    return sibling.net

def none():
    pass

def wants(classes, channels=3):
    return make()

def any_of(**sizes):
    return make(sizes["wide"])

def fails():
    return helper()

def helper():
    raise KeyError("width")

def fails_in_torch():
    return nn.Linear(3, "4")

def leaves():
    sys.exit("bye")

class Box:
    net = made

class Net(nn.Module):
    def forward(self, x):
        return x
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules of a user in it; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "sibling.py").write_text("import mine\nnet = mine.made\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "net.py").write_text(MINE)
    (tmp_path / "lacks.py").write_text("import torch\nimport not_there\n")
    (tmp_path / "typo.py").write_text("x = 1\ndef make(:\n")
    (tmp_path / "stops.py").write_text("\n\nraise SystemExit(3)\n")
    return tmp_path


def refusal(of: Callable[[], object], kind: type[QffsError] = InvalidArgument) -> str:
    with pytest.raises(kind) as caught:
        of()
    return str(caught.value)


def need(name: str) -> None:
    """Skip where the library that a name speaks of is not installed."""
    library = name.partition(":")[0]
    if library in LIBRARIES and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


# What is found


@pytest.mark.parametrize("name", models.MODELS)
def test_every_network_that_ships_comes_with_the_shape_of_its_images(name: str) -> None:
    if name == "cifar_resnet110":
        return
    source = find(name)
    (x,) = sources.example(name, source)
    assert x.shape == ((2, 1, 8, 8) if name == "digits_net" else (2, 3, 32, 32))
    assert source.network(x).shape == (2, 10)


@pytest.mark.parametrize("name", ["mine:made", "mine:make", "mine:Box.net", "mine:later", "pack.net:make"])
def test_a_function_of_the_current_folder_is_called_and_a_module_is_taken(name: str, here: Path) -> None:
    source = find(name)
    assert source.shapes == ()
    assert source.network(torch.ones(2, 3)).shape == (2, 2)
    assert sys.path.count(str(here)) == 1
    find(name)
    assert sys.path.count(str(here)) == 1


def test_a_class_is_a_function_that_makes_a_module(here: Path) -> None:
    assert type(find("mine:Net").network).__name__ == "Net"


def test_a_checkpoint_gives_its_float_network_and_the_shapes_it_was_traced_on(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.linear(x)) + y

    network = Two().double()
    folder = str(save(trace(network, (torch.ones(5, 6, 3).double(), torch.ones(5, 1, 4).double())), tmp_path / "two"))
    source = find(folder)
    assert source.shapes == ((6, 3), (1, 4))
    example = sources.example(folder, source)
    assert [(x.shape, x.dtype) for x in example] == [((2, 6, 3), torch.float64), ((2, 1, 4), torch.float64)]
    assert torch.equal(source.network(*example), network(*example))
    assert [row.kind for row in qffs.plan(source.network, example).rows].count("spiking") == 1


def test_a_name_that_ships_goes_before_a_folder_of_the_same_name(here: Path) -> None:
    (here / "digits_net").mkdir()
    assert isinstance(find("digits_net").network, models.DigitsNet)


def test_weights_are_loaded_into_whatever_the_name_gives(here: Path) -> None:
    weights = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict()
    save_file(weights, "w.safetensors")
    torch.save(weights, "w.pt")
    for file in ("w.safetensors", "w.pt"):
        loaded = find("mine:make", file).network.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.items())


@pytest.mark.parametrize("name", ["digits_net", "cifar_vgg16", "mlperf_resnet8"])
def test_the_folder_of_a_float_checkpoint_is_a_file_of_weights(name: str, tmp_path: Path) -> None:
    source = find(name, arguments={"width": 4})
    (x,) = sources.example(name, source)
    for parameter in source.network.parameters():
        nn.init.normal_(parameter, std=0.3)
    folder = str(save(trace(source.network, x), tmp_path / "float"))
    loaded = find(name, folder, {"width": 4})
    assert torch.equal(loaded.network.eval()(x), source.network.eval()(x))
    qann = qffs.calibrate(qffs.quantize(source.network, example=x), [x], "lsq").eval()
    other = str(save(qann, tmp_path / "qann"))
    assert "is not in the network" in refusal(lambda: find(name, other, {"width": 4}), CheckpointError)


# Arguments


@pytest.mark.parametrize("name", [each for each in models.MODELS if each != "cifar_resnet110"])
def test_every_network_that_ships_takes_classes_channels_and_width(name: str) -> None:
    source = find(name, arguments={"classes": 3, "channels": 2, "width": 4})
    (x,) = sources.example(name, source)
    assert x.shape[1] == 2
    assert source.network(x).shape == (2, 3)


def test_arguments_reach_the_function(here: Path) -> None:
    assert find("mine:make", arguments={"classes": 5}).network(torch.ones(2, 3)).shape == (2, 5)
    assert find("mine:wants", arguments={"classes": 5}).network(torch.ones(2, 3)).shape == (2, 2)
    assert find("mine:any_of", arguments={"wide": 5}).network(torch.ones(2, 3)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("torchvision:resnet18", {"num_classes": 7}, (3, 224, 224)),
        ("torchvision:googlenet", {"num_classes": 7, "aux_logits": False, "init_weights": False}, (3, 224, 224)),
        ("torchvision:vit_b_16", {"num_classes": 7, "image_size": 64}, (3, 64, 64)),
        ("timm:resnet18", {"num_classes": 7, "in_chans": 1}, (1, 224, 224)),
        ("timm:vit_tiny_patch16_224", {"num_classes": 7, "img_size": 64}, (3, 64, 64)),
    ],
)
def test_arguments_reach_the_networks_of_others(name: str, arguments: dict[str, object], shape: sources.Shape) -> None:
    need(name)
    source = find(name, arguments=arguments)
    assert source.shapes == (shape,)
    (x,) = sources.example(name, source)
    assert source.network.eval()(x).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("digits_net", {"clases": 3}, "digits_net takes no argument 'clases'; it takes classes, channels, pooling, "),
        ("cifar_resnet20", {"wide": 3}, "cifar_resnet20 takes no argument 'wide'; it takes width, "),
        ("cifar_resnet20", {"blocks": 3}, "cifar_resnet20 takes no argument 'blocks'; it takes "),
        ("cifar_resnet18", {"projection": 0}, "cifar_resnet18 takes no argument 'projection'; it takes "),
        ("digits_net", {"width": 0}, "width of digits_net must be a whole number of at least 1, not 0"),
        ("digits_net", {"width": 10**9}, "digits_net cannot be built: RuntimeError: "),
        ("mine:make", {"clases": 3}, "mine:make takes no argument 'clases'; it takes classes"),
        ("mine:none", {"classes": 3}, "mine:none takes no argument 'classes'; it takes none"),
        ("mine:wants", {"channels": 3}, "mine:wants is called with only channels: missing a required argument: "),
        ("mine:made", {"classes": 3}, "mine:made is a network that has been built: it takes no arguments"),
        ("mine:make", {"classes": "3"}, "mine:make raised an error: TypeError: "),
        (".", {"classes": 3}, ". names a checkpoint: its network is built and takes no arguments"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("here")
def test_an_argument_that_is_not_taken_is_refused_in_one_sentence(
    name: str, arguments: dict[str, object], message: str
) -> None:
    said = refusal(lambda: find(name, "no/such/file", arguments))
    assert said.startswith(message)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("torchvision:resnet18", {"num_clases": 3}, "torchvision:resnet18 takes no argument 'num_clases'; it takes nu"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "torchvision:resnet18 takes no argument 'weights'; it takes "),
        ("torchvision:resnet18", {"layers": [1]}, "torchvision:resnet18 takes no argument 'layers'; it takes "),
        ("torchvision:resnet18", {"num_classes": "3"}, "torchvision cannot build resnet18: TypeError: "),
        ("timm:resnet18", {"num_clases": 3}, "timm:resnet18 takes no argument 'num_clases'; it takes num_classes, "),
        ("timm:resnet18", {"pretrained": True}, "timm:resnet18 takes no argument 'pretrained'; it takes "),
        ("timm:resnet18", {"checkpoint_path": "x.pth"}, "timm:resnet18 takes no argument 'checkpoint_path'; it takes "),
    ],
)  # fmt: skip
def test_an_argument_that_a_network_of_others_does_not_take(
    name: str, arguments: dict[str, object], message: str
) -> None:
    need(name)
    said = refusal(lambda: find(name, "no/such/file", arguments))
    assert said.startswith(message)
    assert "\n" not in said


# Shapes


def test_given_shapes_go_before_the_networks_own() -> None:
    source = find("cifar_resnet20")
    assert [x.shape for x in sources.example("net", source, [(3, 8, 8), (7,)])] == [(2, 3, 8, 8), (2, 7)]


def test_the_example_is_the_same_every_time() -> None:
    source = find("digits_net")
    assert torch.equal(sources.example("net", source)[0], sources.example("net", source)[0])


@pytest.mark.parametrize("text", ["", "3x", "x3", "3x0x4", "3x-1", "3,4", "3 x 4", "3.0", "a", "3x²", "9" * 10])
def test_a_shape_that_is_none_is_refused(text: str) -> None:
    assert refusal(lambda: sources.shape_of(text)) == (f"the shape of an input is written like 3x224x224, not {text!r}")


def test_a_network_that_does_not_say_its_shape_needs_one(here: Path) -> None:
    assert refusal(lambda: sources.example("mine:make", find("mine:make"))) == (
        "mine:make does not say what it takes: give the shape of an input, as in --input 3x224x224"
    )


def test_a_shape_beyond_all_memory_is_refused() -> None:
    shape = (10**8, 10**8)
    said = refusal(lambda: sources.example("net", find("digits_net"), [shape]))
    assert said.startswith("an input of 100000000x100000000 is too large: ")


# What is not found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar_resnet2", "; nearest to it: cifar_resnet"),
        ("digitsnet", "; nearest to it: digits_net"),
        ("vgg", "timm:NAME, package.module:function, the folder of a checkpoint, and the trained networks that"),
        ("", "there is no model ''; there are digits_net, "),
        ("a/b.py:make", "there is no model 'a/b.py:make'; there are "),
        ("mine:", "there is no model 'mine:'; there are "),
        (":make", "there is no model ':make'; there are "),
        ("mine:make()", "there is no model 'mine:make()'; there are "),
        ("n" * 300, "there are digits_net, "),
        ("n\0", "there are digits_net, "),
        ("torchvison:net", "no module torchvison in this folder or among the installed; nearest to it: torchvision"),
        ("none:make", "there is no module none in this folder or among the installed"),
        ("pack.none:make", "there is no module pack.none in this folder or among the installed"),
        ("none.pack:make", "there is no module none in this folder or among the installed"),
        ("mine.py:make", "or among the installed; write mine:... without .py"),
        ("lacks:make", "lacks cannot be imported: ModuleNotFoundError: No module named 'not_there' (lacks.py, line 2)"),
        ("typo:make", "typo cannot be imported: SyntaxError: invalid syntax (typo.py, line 2)"),
        ("stops:make", "stops cannot be imported: SystemExit: 3 (stops.py, line 3)"),
        ("mine:maek", "mine has no 'maek'; nearest to it: make, made"),
        ("mine:quantize", "mine has no 'quantize'"),
        ("mine:Box.nett", "mine has no 'Box.nett'"),
        ("mine:sizes", "mine:sizes is a tuple, neither an nn.Module nor a function that makes one"),
        ("mine:none", "mine:none returned a NoneType, where an nn.Module is needed"),
        ("mine:wants", "mine:wants is called without arguments: missing a required argument: 'classes'"),
        ("mine:fails", "mine:fails raised an error: KeyError: 'width' (mine.py, line 29)"),
        ("mine:fails_in_torch", "mine:fails_in_torch raised an error: TypeError: "),
        ("mine:leaves", "mine:leaves raised an error: SystemExit: bye (mine.py, line 35)"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("here")
def test_a_name_that_gives_no_network_is_refused_in_one_sentence(name: str, message: str) -> None:
    said = refusal(lambda: find(name))
    assert message in said
    assert "\n" not in said
    if name == "mine:fails_in_torch":
        assert said.endswith(" (mine.py, line 32)")


def test_the_function_may_interrupt(here: Path) -> None:
    (here / "tired.py").write_text("def make():\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        find("tired:make")


def test_only_a_float_checkpoint_is_a_source(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(4, 3)
    qann = qffs.calibrate(qffs.quantize(model, example=x), [x], "lsq").eval()
    for kind, network in (("qann", qann), ("snn", qffs.to_spiking(qann))):
        folder = str(save(network, tmp_path / kind))
        assert refusal(lambda: find(folder), CheckpointError) == (  # noqa: B023
            f"{folder} holds a network of kind {kind!r}: name one of a float network, which demo writes to its folder "
            "float"
        )
        assert load(folder).kind == kind


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    assert refusal(lambda: find(str(tmp_path)), CheckpointError).endswith("is not a checkpoint: it has no config.json")
