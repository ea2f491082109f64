"""The folder layout of the Hugging Face Hub: weights, configuration, and a model card with the measured accuracy."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qffs.errors import CheckpointError, InvalidArgument, QffsError
from qffs.export.target import Network, Target, Written
from qffs.files import expanded, read_text, write_folder
from qffs.models.checkpoint import CONFIG, Checkpoint, check_folder, filler, kind_of, load
from qffs.models.weights import WEIGHTS
from qffs.spiking.network import SpikingNetwork

CARD = "README.md"
NAMES = {
    "snn": "spiking neural network",
    "qann": "quantized neural network",
    "float": "neural network in full precision",
}
TAGS = {"snn": "spiking-neural-network", "qann": "quantized", "float": "full-precision"}
FILES = (CONFIG, WEIGHTS, CARD)
MODULE = "huggingface_hub"
MARK = "library_name: qffs"
"""The line by which a model card of this library is recognized, also by the Hub."""


def hub(
    network: Network,
    folder: str | Path,
    about: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
) -> Written:
    """Write a checkpoint with a model card to a folder, in the layout of the Hugging Face Hub, ready for `push`.

    network: a network that `qffs.quantize`, `qffs.to_spiking` or `qffs.graph.trace.trace` returned.
    folder: the folder to write. An earlier export in it is replaced when the new one is complete; a folder with other
        files is not changed.
    about: notes to save with the network, as in `qffs.save`; the card shows ``model``, ``data``, ``bits``, ``output``
        ``license``, ``copyright``, ``source``, ``license_text`` and ``versions`` if they are present.
    results: the content of the ``results.json`` of a run; the card shows its accuracy as a table.

    Writes ``model.safetensors``, ``config.json`` and the model card ``README.md``. Returns a `Written` with the path
    and the kind of the network.

    Raises `InvalidArgument` if ``network`` is something else, and `CheckpointError` if the folder contains other files
    or cannot be written.
    """
    kind, folder = HUB.check(network), expanded(folder)
    _check(folder)
    fill_checkpoint = filler(network, about, str(folder))

    def fill(fresh: Path) -> None:
        fill_checkpoint(fresh)
        (fresh / CARD).write_text(card(network, about or {}, results), encoding="utf-8")

    write_folder(folder.resolve(), fill)
    return Written(folder, kind)


def push(folder: str | Path, repository: str, *, private: bool = False) -> str:
    """Upload a folder that `hub` wrote to the Hugging Face Hub, and return the address of the repository.

    folder: the folder that `hub` wrote. repository: ``user/name``; it is created if it does not exist. private: whether
    a new repository is private. The token is the one that ``hf auth login`` saved.

    Returns the address (URL) of the repository. Raises `InvalidArgument` if huggingface_hub is not installed,
    `CheckpointError` if the folder contains no checkpoint, and `QffsError` with the message of the Hub if it refuses.
    """
    library = _library()
    load(folder)  # a network that cannot be loaded is not uploaded
    with _one_sentence(repository):
        url = library.create_repo(repository, private=private, exist_ok=True)
        library.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=list(FILES))
    return str(url)


def pull(repository: str, folder: str | Path, revision: str | None = None) -> Checkpoint:
    """Download a repository of the Hugging Face Hub to a folder, and return its checkpoint; no downloaded code is run.

    repository: ``user/name``. folder: the folder to write. An earlier download or export in it is replaced when the new
    one is complete; a folder with other files is not changed. revision: a branch, a tag or a commit, by default the
    newest version.

    Returns the `qffs.models.checkpoint.Checkpoint`: ``kind``, ``network`` and ``about``. Raises `InvalidArgument` if
    huggingface_hub is not installed, `CheckpointError` if the repository contains no checkpoint of qffs or the folder
    contains other files, and `QffsError` with the message of the Hub if the download fails.
    """
    library, folder = _library(), expanded(folder)
    _check(folder)
    loaded: list[Checkpoint] = []

    def fill(fresh: Path) -> None:
        with _one_sentence(repository):
            library.snapshot_download(repository, revision=revision, local_dir=fresh, allow_patterns=list(FILES))
        shutil.rmtree(fresh / ".cache", ignore_errors=True)
        for path in fresh.iterdir():
            if path.name not in FILES or not path.is_file() or path.is_symlink():
                raise CheckpointError(f"{repository} holds {path.name}, which is not a file of a checkpoint")
        try:
            loaded.append(load(fresh))
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(fresh), repository)) from error

    write_folder(folder.resolve(), fill)
    return loaded[0]


def card(network: Network, about: Mapping[str, Any], results: Mapping[str, Any] | None) -> str:
    """Return the model card in Markdown; it begins with the metadata that the Hub reads."""
    kind, notes = kind_of(network), {key: _plain(value) for key, value in about.items()}
    versions = about.get("versions")
    version = _plain(versions.get("qffs", "")) if isinstance(versions, Mapping) else ""
    head = [MARK, "tags:", "- qffs", f"- {TAGS[kind]}"]
    head += ["pipeline_tag: image-classification"] if "data" in notes else []
    sentence = f"Made with qffs {version}".rstrip() + (f" on {notes['data']}" if "data" in notes else "")
    sentence += (
        f": {notes['bits']} bits in hidden layers, output {notes['output']}"
        if {"bits", "output"} <= notes.keys()
        else ""
    )
    parts = [
        "\n".join(["---", *head, "---", ""]),
        f"# {notes.get('model', 'network')}, {NAMES[kind]}\n",
        f"{sentence}.\n",
    ]
    if isinstance(network, SpikingNetwork):
        weights = ", ".join(f"{weight:g}" for weight in network.schedule.weights)
        parts.append(f"Charge schedule: {weights}. Layers of neurons: {len(list(network.neurons()))}.\n")
    if results is not None:
        parts.append(_measured(results))
    if "license" in notes:
        holder = ", ".join(notes[key] for key in ("license", "copyright", "source") if key in notes)
        text = str(about.get("license_text", "")).replace("`", "")
        parts.append(f"## License\n\n{holder}.\n" + (f"\n```text\n{text}```\n" if text else ""))
    steps = ", steps=8" if kind == "snn" else ""
    parts.append(
        "```python\nimport qffs.export\n\n"
        f'network = qffs.export.pull("USER/NAME", "FOLDER").network\nnetwork(x{steps})\n```\n'
    )
    return "\n".join(parts)


def _plain(value: object) -> str:
    """Return a value as plain text of at most 100 characters, without those that HTML, links and tables need."""
    return re.sub(r"[^\w .,:+/\[\]{}'=*-]", "", " ".join(str(value).split()))[:100]


def _measured(results: Mapping[str, Any]) -> str:
    rows = [
        ("full precision", "", results["full_precision"]["accuracy"]),
        ("quantized", "", results["qann"]["accuracy"]),
    ]
    steps = results["snn"]
    shown = [row for row in steps if row["steps"] in {1, 2, 4, 8, 16, 32, 64} or row is steps[-1]]
    rows += [("spiking", str(row["steps"]), row["accuracy"]) for row in shown]
    lines = [f"| {kind} | {step} | {100 * accuracy:.2f} |" for kind, step, accuracy in rows]
    head = f"Measured on {results['images']:,} test images of {_plain(results['data'])}:\n"
    return "\n".join([head, "| network | time steps | accuracy (%) |", "| --- | ---: | ---: |", *lines, ""])


def _check(folder: Path) -> None:
    """Raise `CheckpointError` if a folder cannot be written, or contains files that `hub` and `pull` did not write."""
    check_folder(folder, frozenset({CARD}))
    if folder.exists() and any(folder.iterdir()) and MARK not in _text(folder / CARD):
        raise CheckpointError(f"{folder} exists and holds something else than `hub` writes: name another folder")


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError):
        return ""


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InvalidArgument(f"this needs {MODULE}, which is not installed: pip install 'qffs[hub]'") from error
    return huggingface_hub


@contextmanager
def _one_sentence(repository: str) -> Iterator[None]:
    """Raise a `QffsError` with one sentence instead of an error of the Hub, its library or the internet connection.

    These errors have many types, which no documentation lists.
    """
    try:
        yield
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        raise QffsError(f"{repository}: {message}") from error


HUB = Target(
    "hub",
    "the folder layout of the Hugging Face Hub, with a model card: qffs push uploads it",
    ("snn", "qann", "float"),
    hub,
    frozenset({"about", "results"}),
    folder=True,
)
