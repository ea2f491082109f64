"""The folder layout of the Hugging Face Hub: weights, configuration, and a model card with what was measured."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qffs.checkpoint import CONFIG, Checkpoint, load, save
from qffs.errors import CheckpointError, InvalidArgument, QffsError
from qffs.export.target import Network, Target, Written
from qffs.network import SpikingNetwork
from qffs.report.results import write_text
from qffs.weights import WEIGHTS

CARD = "README.md"
FILES = (CONFIG, WEIGHTS, CARD)
MODULE = "huggingface_hub"


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
    _refuse_others(folder)
    with tempfile.TemporaryDirectory(dir=_existing(folder.absolute().parent)) as beside:
        made = save(network, Path(beside) / "made", about)
        write_text(made / CARD, card(network, about or {}, results))
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CARD, WEIGHTS, CONFIG):
            (made / name).replace(folder / name)
    return Written(folder, kind)


def push(folder: str | Path, repository: str, *, private: bool = False) -> str:
    """Upload a folder that `hub` wrote to a repository ``user/name``, made if it is not there; return its address.

    It takes the token that ``hf auth login`` keeps. Raises `CheckpointError` where the folder holds no checkpoint, and
    `QffsError` with what the Hub says.
    """
    library = _library()
    load(folder)  # what could not be loaded is not shared
    try:
        made = library.create_repo(repository, private=private, exist_ok=True)
        library.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=list(FILES))
    except (library.errors.HfHubHTTPError, library.errors.HFValidationError, OSError) as error:
        raise _said(repository, error) from error
    return str(made)


def pull(repository: str, folder: str | Path, revision: str | None = None) -> Checkpoint:
    """Download a repository ``user/name`` to a folder and load it; nothing of what is downloaded is run.

    revision: a branch, a tag or a commit. A folder that holds anything else than such a download is not touched.
    Raises `CheckpointError` where the repository holds no checkpoint of qffs, and `QffsError` with what the Hub says.
    """
    library, folder = _library(), Path(folder)
    _refuse_others(folder)
    with tempfile.TemporaryDirectory(dir=_existing(folder.absolute().parent)) as beside:
        try:
            found = library.snapshot_download(
                repository, revision=revision, local_dir=beside, allow_patterns=list(FILES)
            )
        except (library.errors.HfHubHTTPError, library.errors.HFValidationError, OSError) as error:
            raise _said(repository, error) from error
        try:
            loaded = load(found)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(found), repository)) from error
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CARD, WEIGHTS, CONFIG):
            if (Path(found) / name).exists():
                shutil.move(Path(found) / name, folder / name)
    return loaded


def card(network: Network, about: Mapping[str, Any], results: Mapping[str, Any] | None) -> str:
    """The model card, in Markdown, with what the Hub reads of it first."""
    spiking = isinstance(network, SpikingNetwork)
    name = str(about.get("model", "network"))
    what = "spiking neural network" if spiking else "quantised neural network"
    parts = [
        "---\nlibrary_name: qffs\npipeline_tag: image-classification\ntags:\n- qffs\n"
        + ("- spiking-neural-network\n" if spiking else "- quantized\n")
        + "---\n",
        f"# {name}, {what}\n",
        f"Made with qffs {about.get('versions', {}).get('qffs', '')}".rstrip()
        + (f" on {about['data']}" if "data" in about else "")
        + (f": {about['bits']} bits in hidden layers, output {about['output']}" if "output" in about else "")
        + ".\n",
    ]
    if isinstance(network, SpikingNetwork):
        weights = ", ".join(f"{weight:g}" for weight in network.schedule.weights)
        parts.append(f"Charge schedule: {weights}. Layers of neurons: {len(list(network.neurons()))}.\n")
    if results is not None:
        parts.append(_measured(results))
    steps = ", steps=8" if spiking else ""
    parts.append(
        "```python\nimport qffs.export\n\n"
        f'network = qffs.export.pull("USER/NAME", "FOLDER").network\nnetwork(x{steps})\n```\n'
    )
    return "\n".join(parts)


def _measured(results: Mapping[str, Any]) -> str:
    rows = [
        ("full precision", "", results["full_precision"]["accuracy"]),
        ("quantised", "", results["qann"]["accuracy"]),
    ]
    steps = results["snn"]
    shown = [row for row in steps if row["steps"] in {1, 2, 4, 8, 16, 32, 64} or row is steps[-1]]
    rows += [("spiking", str(row["steps"]), row["accuracy"]) for row in shown]
    lines = [f"| {kind} | {step} | {100 * accuracy:.2f} |" for kind, step, accuracy in rows]
    head = f"Measured on {results['images']:,} test images of {results['data']}:\n"
    return "\n".join([head, "| network | time steps | accuracy (%) |", "| --- | ---: | ---: |", *lines, ""])


def _refuse_others(folder: Path) -> None:
    """Raise where a folder holds anything else than what `hub` writes."""
    if folder.exists() and (not folder.is_dir() or not {path.name for path in folder.iterdir()} <= {*FILES, ".cache"}):
        raise CheckpointError(f"{folder} exists and holds something else: nothing was written; name another folder")


def _existing(folder: Path) -> Path:
    """A folder that is made where it is not there: what is written beside is on the same disk."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise InvalidArgument(f"this needs {MODULE}, which is not installed: pip install 'qffs[hub]'") from error
    return huggingface_hub


def _said(repository: str, error: Exception) -> QffsError:
    return QffsError(f"{repository}: {' '.join(str(error).split())}")


HUB = Target(
    "hub",
    "the folder layout of the Hugging Face Hub, with a model card: qffs push uploads it",
    ("snn", "qann", "float"),
    lambda network, path, _: hub(network, path),
    folder=True,
)
