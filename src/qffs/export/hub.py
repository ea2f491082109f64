"""The folder layout of the Hugging Face Hub: weights, configuration, and a model card with what was measured."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qffs.errors import CheckpointError, InvalidArgument, QffsError
from qffs.export.target import Network, Target, Written
from qffs.files import write_folder
from qffs.models.checkpoint import CONFIG, Checkpoint, check_folder, kind_of, load, save
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
"""What a model card of this library says, for the Hub, of where it comes from."""


def hub(
    network: Network,
    folder: str | Path,
    about: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
) -> Written:
    """Write ``model.safetensors``, ``config.json`` and a model card ``README.md`` to a folder, ready for `push`.

    about: anything JSON can hold, kept beside the network as by `qffs.save`; results: a run's ``results.json``, whose
    figures the card shows. An earlier export in the folder is replaced when the new one is complete; a folder that
    holds anything else is not touched. Raises `CheckpointError`.
    """
    kind, folder = HUB.check(network), Path(folder)
    _check(folder)

    def fill(fresh: Path) -> None:
        save(network, fresh / "made", about)
        for name in (CONFIG, WEIGHTS):
            (fresh / "made" / name).rename(fresh / name)
        (fresh / "made").rmdir()
        (fresh / CARD).write_text(card(network, about or {}, results), encoding="utf-8")

    write_folder(folder.resolve(), fill)
    return Written(folder, kind)


def push(folder: str | Path, repository: str, *, private: bool = False) -> str:
    """Upload a folder that `hub` wrote to a repository ``user/name``, made if it is not there; return its address.

    It takes the token that ``hf auth login`` keeps. Raises `CheckpointError` where the folder holds no checkpoint, and
    `QffsError` with what the Hub says.
    """
    library = _library()
    load(folder)  # what could not be loaded is not shared
    with _telling(repository):
        made = library.create_repo(repository, private=private, exist_ok=True)
        library.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=list(FILES))
    return str(made)


def pull(repository: str, folder: str | Path, revision: str | None = None) -> Checkpoint:
    """Download a repository ``user/name`` to a folder and load it; nothing of what is downloaded is run.

    revision: a branch, a tag or a commit. A folder that holds anything else than such a download is not touched.
    Raises `CheckpointError` where the repository holds no checkpoint of qffs, and `QffsError` with what the Hub says.
    """
    library, folder = _library(), Path(folder)
    _check(folder)
    loaded: list[Checkpoint] = []

    def fill(fresh: Path) -> None:
        with _telling(repository):
            library.snapshot_download(repository, revision=revision, local_dir=fresh, allow_patterns=list(FILES))
        shutil.rmtree(fresh / ".cache", ignore_errors=True)
        for path in fresh.iterdir():
            if path.name not in FILES or not path.is_file() or path.is_symlink():
                raise CheckpointError(f"{repository} holds {path.name}, which is no file of a checkpoint")
        try:
            loaded.append(load(fresh))
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(fresh), repository)) from error

    write_folder(folder.resolve(), fill)
    return loaded[0]


def card(network: Network, about: Mapping[str, Any], results: Mapping[str, Any] | None) -> str:
    """The model card, in Markdown, with what the Hub reads of it first."""
    kind, told = kind_of(network), {key: _plain(value) for key, value in about.items()}
    versions = about.get("versions")
    version = _plain(versions.get("qffs", "")) if isinstance(versions, Mapping) else ""
    head = [MARK, "tags:", "- qffs", f"- {TAGS[kind]}"]
    head += ["pipeline_tag: image-classification"] if "data" in told else []
    made = f"Made with qffs {version}".rstrip() + (f" on {told['data']}" if "data" in told else "")
    made += (
        f": {told['bits']} bits in hidden layers, output {told['output']}" if {"bits", "output"} <= told.keys() else ""
    )
    parts = ["\n".join(["---", *head, "---", ""]), f"# {told.get('model', 'network')}, {NAMES[kind]}\n", f"{made}.\n"]
    if isinstance(network, SpikingNetwork):
        weights = ", ".join(f"{weight:g}" for weight in network.schedule.weights)
        parts.append(f"Charge schedule: {weights}. Layers of neurons: {len(list(network.neurons()))}.\n")
    if results is not None:
        parts.append(_measured(results))
    steps = ", steps=8" if kind == "snn" else ""
    parts.append(
        "```python\nimport qffs.export\n\n"
        f'network = qffs.export.pull("USER/NAME", "FOLDER").network\nnetwork(x{steps})\n```\n'
    )
    return "\n".join(parts)


def _plain(value: object) -> str:
    """A value as words that no Markdown or HTML is made of."""
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
    """Raise where a folder cannot be written, or holds anything else than what `hub` or `pull` wrote."""
    check_folder(folder, frozenset({CARD}))
    if folder.exists() and any(folder.iterdir()) and MARK not in _text(folder / CARD):
        raise CheckpointError(f"{folder} exists and holds something else than `hub` writes: name another folder")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InvalidArgument(f"this needs {MODULE}, which is not installed: pip install 'qffs[hub]'") from error
    return huggingface_hub


@contextmanager
def _telling(repository: str) -> Iterator[None]:
    """Say in a sentence what the Hub, its library or the network's failure says; their errors are of many kinds."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise QffsError(f"{repository}: {said}") from error


HUB = Target(
    "hub",
    "the folder layout of the Hugging Face Hub, with a model card: qffs push uploads it",
    ("snn", "qann", "float"),
    hub,
    frozenset({"about", "results"}),
    folder=True,
)
