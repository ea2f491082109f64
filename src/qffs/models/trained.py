"""The trained networks that come with the library, by name; each has a card.

The folder of a network holds one checkpoint, of the quantized network or of one in full precision, and ``card.json``,
by whose hashes the checkpoint is checked. The spiking network is not stored, because it is the quantized one, converted
with the charge schedule on the card.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from qffs.errors import CheckpointError
from qffs.files import read_text

FOLDER = Path(__file__).with_name("networks")
CARD = "card.json"


def names() -> tuple[str, ...]:
    """Return the names of the trained networks that come with the library.

    >>> "digits-2bit" in names()
    True
    """
    return tuple(sorted(path.parent.name for path in FOLDER.glob(f"*/{CARD}")))


def is_name(source: str | Path) -> bool:
    """Return whether a text names a trained network of the library: where there is a folder of that name, it does not.

    >>> is_name("digits-2bit"), is_name("digits_net")
    (True, False)
    """
    return str(source) in names() and not Path(source).is_dir()


def schedule(name: str) -> list[float]:
    """Return the charge schedule on the card of a quantized network, one weight for each step."""
    weights: list[float] = card(name)["results"]["charge_schedule"]
    return weights


def card(name: str) -> dict[str, Any]:
    """Return the card of a trained network: what it is, on what it was measured, and whose weights it began with.

    ``title``, ``kind``, ``input`` (what the network takes), ``classes``, ``license``, ``copyright``, ``source``,
    ``full_precision`` (the name of the network that was quantized, or None), ``sha256`` by file, and ``run`` and
    ``results``, as `qffs train` writes them. Raises `CheckpointError` if there is no network of that name.

    >>> card("digits-2bit")["kind"]
    'qann'
    """
    if name not in names():
        raise CheckpointError(f"no trained network {name!r} comes with qffs; there are {', '.join(names())}")
    content: dict[str, Any] = json.loads(read_text(FOLDER / name / CARD))
    return content


def size(name: str) -> int:
    """Return the number of bytes of a trained network's files."""
    return sum(path.stat().st_size for path in (FOLDER / name).iterdir())


def folder(name: str) -> Path:
    """Return the folder of a trained network's checkpoint, which is of kind "qann" or "float".

    Raises `CheckpointError` if a file is not the one of the card.
    """
    for file, digest in card(name)["sha256"].items():
        path = FOLDER / name / file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise CheckpointError(f"{path} is not the file of the trained network {name}: install qffs again")
    return FOLDER / name
