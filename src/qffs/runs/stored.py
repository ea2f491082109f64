"""Files that a run wrote, checked where they are read: results.json, run.json and state.pt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from qffs.errors import CheckpointError
from qffs.files import Results, read_text
from qffs.recipes.messages import shown
from qffs.train.saved import Fraction, History

Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(ge=0, lt=1e300)]


class _Checked(BaseModel):
    """A mapping with at least these keys; any others may be there."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Network(_Checked):
    accuracy: Fraction


class _Step(_Checked):
    steps: Annotated[int, Field(ge=1, lt=2**31)]
    accuracy: Fraction
    spikes_per_image: Number
    agreement: Fraction = 0.0


class _Layer(_Checked):
    layer: str
    positive: list[Count]
    negative: list[Count]

    @model_validator(mode="after")
    def _same_steps(self) -> Self:
        if len(self.positive) != len(self.negative):
            raise ValueError("positive and negative must have one number for each step")
        return self


class _Run(_Checked):
    """What pages, tables and cards read of results.json."""

    model: str
    data: str
    images: Annotated[int, Field(ge=1, lt=2**63)]
    snn: Annotated[list[_Step], Field(min_length=1)]
    layers: list[_Layer]
    full_precision: _Network | None = None
    qann: _Network | None = None
    bits: int | dict[str, int | str] | None = None
    charge_schedule: list[float] = []
    versions: dict[str, Any] = {}

    @model_validator(mode="after")
    def _same_keys(self) -> Self:
        if len({"agreement" in row.model_fields_set for row in self.snn}) > 1:
            raise ValueError("snn must have an agreement for each step, or for none")
        null = [
            key
            for key in ("full_precision", "qann", "bits")
            if key in self.model_fields_set and getattr(self, key) is None
        ]
        if null:
            raise ValueError(f"{null[0]} is null")
        return self


class _Origin(_Checked):
    """What pages and later runs read of run.json."""

    command: str = ""
    fingerprints: dict[str, str] = {}
    versions: dict[str, Any] = {}


class _State(_Checked):
    """What a run keeps in state.pt beside the state of its training."""

    stage: Literal["full precision", "quantized"]
    data: Any
    histories: dict[Literal["full precision", "quantized"], History]
    seconds: Number
    command: str = ""


def check_state(state: Results, path: Path, epochs: int) -> None:
    """Raise `CheckpointError` if the state of a run is damaged.

    epochs: those of the training in full precision, which alone has ended while the quantized network is trained.
    """
    _checked(_State, state, path)
    ended = {"full precision": epochs} if state["stage"] == "quantized" else {}
    if {stage: len(history) for stage, history in state["histories"].items()} != ended:
        raise CheckpointError(f"{path} is damaged: histories are not those of a run at stage {state['stage']}")


def read_results(path: Path) -> Results:
    """Return the results that a run wrote; raises `CheckpointError` if the file holds something else."""
    results = _mapping(path)
    if "snn" not in results:
        raise CheckpointError(f"{path} holds no results of a run: qffs train and qffs demo write them")
    return _checked(_Run, results, path)


def read_origin(path: Path) -> Results:
    """Return the origin of a run (run.json), empty without the file; raises `CheckpointError` if it is damaged."""
    return _checked(_Origin, _mapping(path), path) if path.exists() else {}


def _mapping(path: Path) -> Results:
    """Return the mapping in a JSON file; raise `CheckpointError` if it holds anything else."""
    try:
        content: Any = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds {shown(content)}, where a mapping is needed")
    return content


def _checked(kind: type[BaseModel], content: Results, path: Path) -> Results:
    try:
        kind.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged: {_fault(error.errors(include_url=False)[0])}") from error
    return content


def _fault(error: ErrorDetails) -> str:
    """Return what is wrong at which key, such as "snn.0.accuracy is missing"."""
    key, kind = ".".join(map(str, error["loc"])), error["type"]
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        return f"{key} {error['msg'].removeprefix('Value error, ')}".strip()
    return f"{key} cannot be {shown(error['input'])}".strip()
