"""Saving and loading: whole or not at all, bit for bit, and nothing in the files is run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

import qffs
from helpers.full_disk import full_from
from helpers.problems import calibrated, images, network
from qffs.errors import CheckpointError
from qffs.graph.trace.trace import trace
from qffs.models import checkpoint
from qffs.models.checkpoint import CONFIG, WEIGHTS, load, save
from qffs.models.weights import load_weights, read_weights
from qffs.spiking.network import SpikingNetwork


def small(seed: int = 0) -> torch.fx.GraphModule:
    torch.manual_seed(seed)
    return trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(1, 3)).eval()


def weight(folder: Path) -> torch.Tensor:
    return load(folder).network.get_parameter("0.weight")


def refusal(of: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        of()
    return str(caught.value)


# There and back


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_every_kind_in_every_type_computes_the_same_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    x = images(dtype=dtype)
    model = network(dtype=dtype)
    qann = calibrated(model, x, output=3)
    snn = qffs.to_spiking(qann)
    for kind, saved in (("float", trace(model, x)), ("qann", qann), ("snn", snn)):
        loaded = load(save(saved, tmp_path / kind, {"note": "kept", "number": 0.1}))
        assert loaded.kind == kind
        assert loaded.about == {"note": "kept", "number": 0.1}
        assert not any(module.training for module in loaded.network.modules())
        again = loaded.network
        if kind == "snn":
            assert isinstance(again, SpikingNetwork)
            assert again.schedule == snn.schedule
            assert not any(parameter.requires_grad for parameter in again.parameters())
            before, after = snn(x, steps=6, backend="reference"), again(x, steps=6, backend="reference")
        else:
            before, after = saved.eval()(x), again(x)
        assert before.dtype == after.dtype
        assert torch.equal(before, after)
        own, theirs = saved.state_dict(), again.state_dict()
        assert {name: tensor.dtype for name, tensor in own.items()} == {n: t.dtype for n, t in theirs.items()}
        assert all(torch.equal(own[name], theirs[name]) for name in own)


def test_a_loaded_quantized_network_converts_and_trains_like_the_saved_one(tmp_path: Path) -> None:
    x = images()
    qann = calibrated(network(), x)
    loaded = load(save(qann, tmp_path / "qann")).network
    assert torch.equal(qffs.to_spiking(loaded)(x, steps=5), qffs.to_spiking(qann)(x, steps=5))
    for each in (qann, loaded):
        each.train()(x).sum().backward()
    gradients = {name: parameter.grad for name, parameter in qann.named_parameters()}
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter.grad, gradients[name])


@pytest.mark.parametrize(
    "change", [lambda layer: prune.l1_unstructured(layer, "weight", 0.5), parametrizations.weight_norm]
)
def test_weights_that_are_computed_are_saved_as_they_are_now(change: Callable[..., Any], tmp_path: Path) -> None:
    x = images()
    qann: Any = calibrated(network(), x)
    change(qann.shortcut)
    saved = load(save(qann, tmp_path / "qann")).network
    assert torch.equal(saved(x), qann(x))
    assert "weight" not in dict(qann.shortcut.named_parameters())


def test_the_folder_holds_the_two_files_and_the_format(tmp_path: Path) -> None:
    folder = save(small(), tmp_path / "deep" / "er" / "net")
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    assert [path.name for path in folder.parent.iterdir()] == ["net"]
    assert json.loads((folder / CONFIG).read_text())["format"] == checkpoint.FORMAT == 1


def test_an_uncalibrated_network_can_be_saved_and_is_still_uncalibrated(tmp_path: Path) -> None:
    x = images()
    loaded = load(save(qffs.quantize(network(), example=x), tmp_path / "qann")).network
    with pytest.raises(qffs.errors.NotCalibrated):
        loaded(x)


def test_what_is_saved_beside_the_network_may_have_any_name(tmp_path: Path) -> None:
    about = {"network": 1, "folder": "x", "about": None, "format": 9, "no identifier": [2]}
    assert load(save(small(), tmp_path / "net", about)).about == about
    assert load(save(small(), tmp_path / "net")).about == {}


@pytest.mark.parametrize("kind", ["float", "qann", "snn"])
def test_what_the_graph_never_calls_is_not_written(kind: str, tmp_path: Path) -> None:
    class WithConstant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.offset = nn.Linear(3, 4), nn.Parameter(torch.ones(4))
            self.register_buffer("scale", torch.tensor(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.relu(self.first(x) * self.scale + self.offset)

    x = torch.rand(4, 3)
    graph = trace(WithConstant(), x).eval() if kind == "float" else calibrated(WithConstant(), x)
    used = set(graph.state_dict())
    for name in ("unused", "first_unused"):
        graph.add_submodule(name, nn.Linear(2, 2))
    graph.first.add_module("odd", nn.Linear(2, 2))
    network = qffs.to_spiking(graph) if kind == "snn" else graph
    folder = save(network, tmp_path / "net")
    written = set(read_weights(folder / WEIGHTS))
    assert not any("unused" in name or "odd" in name for name in written)
    assert kind == "snn" or written == used
    again = load(folder).network
    given = {"steps": 4} if kind == "snn" else {}
    assert torch.equal(again(x, **given), network(x, **given))


@pytest.mark.parametrize("kind", ["float", "qann", "snn"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_neither_loaded_nor_saved(kind: str, value: float, tmp_path: Path) -> None:
    x = images()
    saved: Any = trace(network(), x) if kind == "float" else calibrated(network(), x)
    saved = qffs.to_spiking(saved) if kind == "snn" else saved
    folder = save(saved, tmp_path / "net")
    tensors = read_weights(folder)
    name = next(name for name in tensors if name.endswith("head.weight"))
    save_file({**tensors, name: torch.full_like(tensors[name], value)}, folder / WEIGHTS)
    assert refusal(lambda: load(folder)) == f"{folder} holds NaN or infinity in {name}"
    next(tensor for key, tensor in saved.state_dict().items() if key.endswith("head.weight"))[0] = value
    assert refusal(lambda: save(saved, tmp_path / "other")).endswith(f"holds NaN or infinity in {name}")


def test_an_infinite_mask_is_saved_and_loaded(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.softmax(nn.functional.relu(self.first(x)) + self.mask, -1)

    x = torch.rand(4, 3)
    snn = qffs.to_spiking(calibrated(Masked(), x))
    loaded = load(save(snn, tmp_path / "net")).network
    assert torch.equal(loaded(x, steps=6), snn(x, steps=6))


def test_the_root_of_all_folders_is_no_checkpoint() -> None:
    assert refusal(lambda: load("/")) == "/ is not a checkpoint: it has no config.json"
    assert refusal(lambda: save(small(), "/")).startswith("/ exists and holds something else than a checkpoint")


# All or nothing


@pytest.mark.parametrize("size", [100, 1500])  # the configuration does not fit, and the weights do not
def test_a_full_disk_is_one_sentence_that_names_the_folder(size: int, tmp_path: Path) -> None:
    with full_from(size):
        sentence = refusal(lambda: save(small(), tmp_path / "net"))
    assert sentence.startswith(f"the checkpoint could not be written to {tmp_path / 'net'}: ")
    assert list(tmp_path.iterdir()) == []


class Stop(BaseException):
    """The machine stops."""


STEPS = ("mkdir", "write_text", "save_file", "fsync", "rename", "rmtree")


class Failing:
    """Lets the first ``after`` file operations pass; the next fails with ``error``, and after a `Stop` all others."""

    def __init__(self, patch: pytest.MonkeyPatch, after: int, error: type[BaseException]) -> None:
        self.left, self.error, self.failed = after, error, False
        patch.setattr(Path, "mkdir", self.guarded(Path.mkdir))
        patch.setattr(Path, "write_text", self.guarded(Path.write_text, self.half_a_text))
        patch.setattr(Path, "rename", self.guarded(Path.rename))
        patch.setattr(Path, "rmdir", self.guarded(Path.rmdir, counts=False))
        patch.setattr(os, "fsync", self.guarded(os.fsync))
        patch.setattr(shutil, "rmtree", self.guarded(shutil.rmtree))
        patch.setattr(checkpoint, "save_file", self.guarded(checkpoint.save_file, self.half_a_file))

    def guarded(
        self, operation: Callable[..., Any], half: Callable[..., None] | None = None, counts: bool = True
    ) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            stopped = self.failed and self.error is Stop
            if stopped or (counts and self.left == 0 and not self.failed):
                self.failed = True
                if half is not None and not stopped:
                    half(*args)
                if operation.__name__ == "rmtree" and self.error is OSError:
                    return None  # it ignores errors
                raise self.error("disk full")
            self.left -= counts
            return operation(*args, **kwargs)

        return call

    @staticmethod
    def half_a_text(path: Path, text: str, **_: str) -> None:
        path.write_bytes(text.encode()[: len(text) // 2])

    @staticmethod
    def half_a_file(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_file(tensors, path)
        path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize("done", [1, 2])
def test_a_signal_just_after_a_renaming_loses_nothing(
    done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = small(0), small(1)
    folder, rename, left = save(old, tmp_path / "net"), Path.rename, [done]

    def renamed(path: Path, target: Path) -> None:
        rename(path, target)
        left[0] -= 1
        if not left[0]:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", renamed)
        with pytest.raises(Stop):
            save(new, folder)
    expected = (old, new)[done - 1]
    assert torch.equal(weight(folder), expected.get_parameter("0.weight"))


OPERATIONS = 9  # of replacing a checkpoint: a folder, two files, both to disk, two renames, and two removals


@pytest.mark.parametrize("step", range(OPERATIONS))
def test_a_failure_at_any_step_leaves_the_old_checkpoint_and_nothing_else(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = small(0), small(1)
    folder = save(old, tmp_path / "net")
    with monkeypatch.context() as patch:
        failing = Failing(patch, step, OSError)
        try:
            save(new, folder)
            expected = new  # a removal before or after the work may fail
        except CheckpointError:
            expected = old
    assert failing.failed
    assert torch.equal(weight(folder), expected.get_parameter("0.weight"))
    if expected is old:
        assert [path.name for path in tmp_path.iterdir()] == ["net"]
    save(new, folder)
    assert torch.equal(weight(folder), new.get_parameter("0.weight"))
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


@pytest.mark.parametrize("step", range(OPERATIONS))
def test_a_crash_at_any_step_leaves_the_old_checkpoint_or_the_new_one_whole(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = small(0), small(1)
    folder = save(old, tmp_path / "net")
    with monkeypatch.context() as patch:
        Failing(patch, step, Stop)
        with pytest.raises(Stop):
            save(new, folder)
    found = weight(folder)
    assert any(torch.equal(found, each.get_parameter("0.weight")) for each in (old, new))
    save(new, folder)
    assert torch.equal(weight(folder), new.get_parameter("0.weight"))
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_that_is_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(small(), tmp_path / "net")
    with monkeypatch.context() as patch:
        counter = Failing(patch, 10**6, OSError)
        save(small(1), folder)
    assert 10**6 - counter.left == OPERATIONS


@pytest.mark.parametrize("step", range(1, 6))
def test_a_first_checkpoint_that_fails_leaves_nothing_not_even_folders(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        Failing(patch, step, OSError)
        with pytest.raises(CheckpointError, match=r"could not be written to .*disk full"):
            save(small(), tmp_path / "a" / "b" / "net")
    assert not list(tmp_path.iterdir())


def test_a_stop_by_the_user_between_the_renames_puts_the_old_checkpoint_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = save(small(), tmp_path / "net"), Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name.endswith(".new"):
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(small(1), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    assert torch.equal(weight(folder), small().get_parameter("0.weight"))


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    folder, link = save(small(), tmp_path / "net"), tmp_path / "link"
    link.symlink_to(folder)
    save(small(1), link)
    assert link.is_symlink()
    assert torch.equal(weight(folder), small(1).get_parameter("0.weight"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "net"]


# Folders that hold something else


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": b"years of work"},
        {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"someone else's"},
        {"config.json": b'["qffs"]', "model.safetensors": b"x"},
        {"config.json": b"{"},
        {"model.safetensors": b"x"},
        {"checkpoint and": b"", "notes.txt": b"mine"},
    ],
    ids=str,
)
def test_a_folder_that_holds_anything_else_is_not_touched(files: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    if "notes.txt" in files:
        save(small(), folder)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    before = contents(tmp_path)
    assert "holds something else than a checkpoint of qffs" in refusal(lambda: save(small(), folder))
    assert contents(tmp_path) == before


def test_a_folder_with_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="holds something else than a checkpoint"):
        checkpoint.check_folder(tmp_path)
    with pytest.raises(CheckpointError, match=r"it has no config\.json"):
        load(tmp_path)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    assert load(save(small(), tmp_path / "net")).kind == "float"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    assert "exists and holds something else" in refusal(lambda: save(small(), tmp_path / "file"))
    assert "cannot be written" in refusal(lambda: save(small(), tmp_path / "file" / "net"))
    assert "cannot be written" in refusal(lambda: save(small(), tmp_path / ("n" * 300)))
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_folder_that_may_not_be_written_to_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "no folder that may be written to" in refusal(lambda: checkpoint.check_folder(tmp_path / "net"))


def test_what_could_not_be_loaded_again_is_not_written(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.i0(x)

    assert "i0" in refusal(lambda: save(trace(Odd(), torch.ones(1)), tmp_path / "net"))
    assert "JSON cannot represent the notes in about" in refusal(
        lambda: save(small(), tmp_path / "net", {"path": tmp_path})
    )
    assert "JSON cannot represent the notes in about" in refusal(lambda: save(small(), tmp_path / "net", [1]))  # type: ignore[arg-type]
    graph = torch.fx.Graph()
    graph.output(graph.placeholder("*inputs"))
    assert "impossible name, '*inputs'" in refusal(lambda: save(torch.fx.GraphModule({}, graph), tmp_path / "net"))
    assert not list(tmp_path.iterdir())


def test_only_graphs_and_spiking_networks_are_saved(tmp_path: Path) -> None:
    for other, name in ((nn.Sequential(nn.Linear(3, 4)), "Sequential"), (None, "NoneType")):
        assert refusal(lambda: save(other, tmp_path / "net")) == (  # type: ignore[arg-type]  # noqa: B023
            f"save takes what quantize or to_spiking returned, not a {name}"
        )
    assert not list(tmp_path.iterdir())


def test_what_is_no_path_is_refused() -> None:
    for use in (load, read_weights, lambda path: save(small(), path)):
        assert refusal(lambda: use(None)) == "None is no path of a file or folder"  # type: ignore[arg-type]  # noqa: B023


# Damaged files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    x = torch.rand(4, 3)
    return save(qffs.to_spiking(calibrated(small(), x)), tmp_path / "snn")


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | values))


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    assert refusal(lambda: load(tmp_path / "none")).endswith("none is not a checkpoint: it has no config.json")
    assert "cannot be read" in refusal(lambda: load(tmp_path / ("n" * 300)))
    assert "there is no weight file" in refusal(lambda: read_weights(tmp_path / "none"))
    assert "no complete safetensors file: " in refusal(lambda: read_weights(tmp_path / ("n" * 300)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:7],
        lambda data: b"\x80\x02garbage" * 99,
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data + b"more",
    ],
)
def test_a_damaged_weight_file_is_refused(damage: Callable[[bytes], bytes], folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(damage((folder / WEIGHTS).read_bytes()))
    assert "model.safetensors is no complete safetensors file" in refusal(lambda: load(folder))


def test_a_missing_weight_file_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert "there is no weight file" in refusal(lambda: load(folder))


@pytest.mark.parametrize(
    "text", ["", "{", '{"format": 1', "null", "5", "[]", '"x"', "{}", "\x00", "[" * 99_999, "1" * 9999, "NaN"]
)
def test_a_damaged_configuration_is_refused(text: str, folder: Path) -> None:
    (folder / CONFIG).write_text(text)
    assert "config.json is" in refusal(lambda: load(folder))


def test_a_configuration_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / CONFIG).write_bytes(b"\xff\xfe\x00")
    assert "config.json is damaged" in refusal(lambda: load(folder))


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_another_format_is_refused_by_number(version: object, folder: Path) -> None:
    change(folder, format=version)
    assert f"has format {version!r}, but qffs {qffs.__version__} reads format 1" in refusal(lambda: load(folder))


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "float"},
        {"kind": "qann"},
        {"kind": "annsnn"},
        {"kind": ["snn"]},
        {"about": None},
        {"schedule": None},
        {"schedule": []},
        {"schedule": 5},
        {"schedule": ["a"]},
        {"schedule": [0.5, 0.6]},
        {"schedule": [float("nan")]},
        {"network": None},
        {"network": {"modules": {}, "nodes": []}},
    ],
    ids=str,
)
def test_values_that_cannot_be_are_refused(values: dict[str, Any], folder: Path) -> None:
    change(folder, **values)
    assert "damaged" in refusal(lambda: load(folder))


def test_a_network_of_another_kind_than_it_says_is_refused(tmp_path: Path) -> None:
    qann = calibrated(small(), torch.rand(4, 3))
    linear = trace(nn.Sequential(nn.Linear(3, 4)), torch.ones(1, 3))
    for each, kinds in ((linear, ("qann", "snn")), (small(), ("qann", "snn")), (qann, ("float", "snn"))):
        saved = save(each, tmp_path / "net")
        for kind in kinds:
            change(saved, kind=kind, schedule=[1.0])
            assert f"its network is not of kind {kind!r}" in refusal(lambda: load(saved))  # noqa: B023


def test_a_configuration_with_code_in_it_runs_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    description = json.loads((folder / CONFIG).read_text())["network"]
    description["nodes"][0]["target"] = "x\nimport os; os.mkdir('ran')\ndef f(x"
    change(folder, network=description)
    assert "impossible name" in refusal(lambda: load(folder))
    assert not (folder / "ran").exists()


def test_a_huge_layer_is_a_shape_that_does_not_fit_not_a_lack_of_memory(folder: Path) -> None:
    description = json.loads((folder / CONFIG).read_text())["network"]
    description["modules"]["0"]["out_features"] = 10**12
    change(folder, network=description)
    assert "0.weight has shape (4, 3) in the file and (1000000000000, 3)" in refusal(lambda: load(folder))


# Weights that do not fit


def test_missing_and_surplus_tensors_of_a_checkpoint_are_named(folder: Path) -> None:
    tensors = read_weights(folder / WEIGHTS)
    name = "1.threshold"
    save_file({key: value for key, value in tensors.items() if key != name}, folder / WEIGHTS)
    assert "1.threshold is missing in the file" in refusal(lambda: load(folder))
    save_file(tensors | {"more": torch.ones(1)}, folder / WEIGHTS)
    assert "more is not in the network" in refusal(lambda: load(folder))


def own() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_the_first_three_misfits_are_named_and_nothing_is_loaded() -> None:
    network, tensors = own(), own().state_dict()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name in ("0.weight", "2.weight"):
        del tensors[name]
    tensors |= {"extra": torch.ones(2), "0.bias": torch.zeros(7), "2.bias": torch.zeros(9)}
    assert refusal(lambda: load_weights(network, tensors, "w.safetensors")) == (
        "the weights of w.safetensors do not fit the network: 0.weight is missing in the file; "
        "2.weight is missing in the file; extra is not in the network; and 2 more"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_shapes_are_named_on_both_sides() -> None:
    tensors = own().state_dict() | {"0.bias": torch.zeros(7)}
    message = refusal(lambda: load_weights(own(), tensors, "w"))
    assert (
        message == "the weights of w do not fit the network: 0.bias has shape (7,) in the file and (4,) in the network"
    )


def test_whole_numbers_are_no_weights() -> None:
    tensors = own().state_dict() | {"0.bias": torch.zeros(4, dtype=torch.int64)}
    assert "0.bias is of type torch.int64 in the file and torch.float32" in refusal(
        lambda: load_weights(own(), tensors, "w")
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float) -> None:
    tensors = own().state_dict()
    tensors["2.bias"] = torch.tensor([0.0, value])
    network = own()
    assert refusal(lambda: load_weights(network, tensors, "w")) == "w holds NaN or infinity in 2.bias"
    assert bool(torch.isfinite(network[2].bias).all())


def test_only_the_counter_of_batches_may_be_missing() -> None:
    network, tensors = own(), {name: tensor + 1 for name, tensor in own().state_dict().items()}
    del tensors["1.num_batches_tracked"]
    load_weights(network, tensors, "w")
    assert all(torch.equal(network.state_dict()[name], tensors[name]) for name in tensors)
    assert int(network[1].num_batches_tracked) == 0


def test_weights_may_be_named_by_their_folder(tmp_path: Path) -> None:
    save(small(), tmp_path / "net")
    assert read_weights(tmp_path / "net").keys() == read_weights(tmp_path / "net" / "model.safetensors").keys()


def test_the_weights_of_a_checkpoint_are_safetensors_and_nothing_else(folder: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in read_weights(folder).items()}  # the file itself is mapped
    torch.save(tensors, folder / WEIGHTS)
    assert "no complete safetensors file" in refusal(lambda: load(folder))
