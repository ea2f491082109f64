"""Recipes: everything that decides a training run, as frozen data from YAML files and command lines; without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qffs.errors import InvalidArgument
from qffs.method import MAX_STEPS, Levels, Schedule, by_pattern
from qffs.recipes.messages import Fault, faults_of, refusal, shown

LARGEST = 2**63
"""No whole number reaches it, because what computes with them takes numbers of 64 bits."""
MOST_WORKERS = 256
"""A number that no machine needs; a mistyped one would start processes until the machine stops."""

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=LARGEST)]
Weights = Annotated[list[float], Field(min_length=1), "a list of numbers that add up to 1"]
Augmentations = Annotated[list[dict[str, dict[str, Any]]], "a list, each `Name: {argument: value}`"]
Bits = Annotated[
    int | dict[str, int | str], "a whole number from 1 to 8, or a mapping from patterns to such numbers or full"
]


class Section(BaseModel):
    """A mapping of a recipe with fixed keys, whose values have types and bounds; it is immutable.

    Values are not converted: a text is not read as a number, and true is not 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    def _faults(self) -> Iterator[Fault]:
        """Yield the faults of values that are allowed for their keys but not together."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        large = [(name, value) for name, value in self if isinstance(value, int) and abs(value) >= LARGEST]
        faults = list(self._faults())
        faults = faults or [Fault((name,), f"is too large a number: {shown(value)}") for name, value in large]
        if faults:
            raise refusal(faults)
        return self


class Training(Section):
    """The settings of a training; a QANN's step sizes train like other parameters, except for two keys.

    ``small_share``: the share of the ``epochs``, from the first one, that train on images of three quarters of the
    height and width. ``learning_rate``: the highest learning rate, which is reached after ``warmup_epochs`` of a linear
    rise. Then the learning rate falls to zero (``schedule: cosine``), is multiplied by ``decay`` per epoch, in equal
    factors per step (``exponential``), or stays (``constant``). ``weight_decay`` acts on the weights of convolutions
    and linear layers, never on biases and norms, and on step sizes only with ``step_size_weight_decay``.
    ``step_size_learning_rate``: the factor of the learning rate of step sizes. ``ema``: the decay per step of an
    exponential moving average of all weights; if it is not 0, the averaged weights are measured and saved.
    ``clip_gradient``: the largest norm of the gradient of all parameters together. ``distillation``: d in the loss ``(1
    - d) CE + d τ² KL(teacher || student)``, in which logits are divided by the ``temperature`` τ (Hinton, Vinyals, Dean
    2015); only for quantized training. The teacher is the recipe's ``teacher``, or the network in full precision.
    ``level_penalty``: λ in the term ``λ sum_c k_c x_c`` of each image, where the output's quantizer reads x_c and makes
    the level k_c of a wrong class c of it; only for outputs that spike, see `qffs.train.loss.wrong_levels`.
    """

    epochs: Annotated[int, Field(ge=0)]
    learning_rate: Positive
    batch_size: Annotated[int, Field(ge=1, lt=2**31)] = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    small_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    label_smoothing: Share = 0.0
    ema: Share = 0.0
    clip_gradient: Positive | None = None
    step_size_learning_rate: Positive = 1.0
    step_size_weight_decay: bool = False
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature: Positive = 1.0
    level_penalty: Annotated[float, Field(ge=0)] = 0.1

    def _faults(self) -> Iterator[Fault]:
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            yield Fault(("nesterov",), "needs optimizer: sgd and a momentum above 0")
        if self.optimizer == "adamw" and self.momentum != Training.model_fields["momentum"].default:
            yield Fault(("momentum",), "acts only with optimizer: sgd: leave it out")
        if self.warmup_epochs > self.epochs > 0:  # without an epoch it does not act
            yield Fault(("warmup_epochs",), f"must be at most the {self.epochs} epochs, not {self.warmup_epochs:g}")
        if self.decay != Training.model_fields["decay"].default and self.schedule != "exponential":
            yield Fault(("decay",), f"acts only with schedule: exponential, not {self.schedule}: leave it out")
        if self.temperature != 1 and not self.distillation:
            yield Fault(("temperature",), "acts only with a distillation above 0: leave it out")


class Recipe(Section):
    """A run from a network and data to a spiking network: train in full precision, quantize, train, convert, measure.

    ``augmentation``: classes of ``kornia.augmentation`` with their arguments, applied in this order to training
    batches. ``held_out``: the share of the training images that are not trained on, but used to choose from the
    candidates. ``teacher``: the name of the network whose logits ``quantized.distillation`` distills, with its
    ``teacher_weights``; without it, the network in full precision. The test images are read once, at the end: all, or
    ``test_images`` of them, chosen at random. ``reconstruction_steps``: those of `qffs.reconstruct` on the calibration
    images, without labels, before the quantized training. The charge schedule is the one of the ``candidates`` with the
    best accuracy on held-out images after ``choose_at`` steps; without candidates it is ``charge_steps``. ``fused``:
    train through compiled kernels; "auto" does so if it saves time.
    """

    model: str = "digits_net"
    model_arguments: dict[str, Any] = {}
    weights: str | None = None
    data: str = "digits"
    size: Annotated[int, Field(ge=1, le=8192)] | None = None  # as `qffs.data.load.LARGEST_SIZE`
    workers: Annotated[int, Field(ge=0)] = 0
    held_out: Share = 0.0
    augmentation: Augmentations = []
    bits: Bits = 2
    output: Annotated[int, Field(ge=1, le=8)] | Literal["analog"] = "analog"
    per_channel: bool = False
    calibration_images: Annotated[int, Field(ge=1)] = 512
    reconstruction_steps: Annotated[int, Field(ge=0)] = 0
    full_precision: Training = Training(epochs=15, learning_rate=0.03, batch_size=64)
    quantized: Training = Training(epochs=15, learning_rate=0.03, batch_size=64)
    teacher: str | None = None
    teacher_weights: str | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    test_images: Annotated[int, Field(ge=1)] | None = None
    charge_steps: int | Weights | None = None
    candidates: Annotated[list[int | Weights], "a list of such values as charge_steps takes"] = []
    choose_at: Annotated[int, Field(ge=1)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    fused: bool | Literal["auto"] = "auto"
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe of plain values, in which sections are mappings.

        Raises `InvalidArgument` with all mistakes.

        >>> Recipe.of({"bits": 3}).schedule.steps
        7
        """
        attempt = cls.attempt(values)
        if isinstance(attempt, Recipe):
            return attempt
        raise InvalidArgument("; ".join(map(str, attempt)))

    @classmethod
    def attempt(cls, values: Mapping[str, Any]) -> Recipe | list[Fault]:
        """Return the recipe of plain values, or all their mistakes."""
        values = spelled(values)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            return faults_of(cls, values, error)

    @property
    def schedule(self) -> Schedule:
        """The charge schedule of ``charge_steps``, or by default D = 2^b - 1.

        b: the most bits of hidden layers, or those of the output if all hidden layers are in full precision.
        """
        if self.charge_steps is not None:
            return Schedule.of(self.charge_steps)
        hidden = [levels for levels in by_pattern(self.bits).values() if levels]
        output = Levels(1) if isinstance(self.output, str) else Levels.from_bits(self.output)
        return Schedule.of(max(levels.highest for levels in hidden or [output]))

    @property
    def weight_files(self) -> dict[str, str | None]:
        """The keys whose values are paths of trained weights, with these paths."""
        return {"weights": self.weights, "teacher_weights": self.teacher_weights}

    @property
    def horizon(self) -> int:
        """The number of steps to simulate; by default 8 for digits, else 16, or twice the charge steps if more."""
        if self.steps is not None:
            return self.steps
        return max(8 if self.data == "digits" else 16, 2 * self._charged)

    @property
    def _charged(self) -> int:
        """The most charge steps of the schedule, or of the candidates if it is chosen from them."""
        return max(Schedule.of(each).steps for each in self.candidates or [list(self.schedule.weights)])

    def _faults(self) -> Iterator[Fault]:
        impossible = list(self._impossible())
        yield from impossible
        if not impossible:  # without a schedule there is nothing to compare
            yield from self._steps_faults()
        if self.reconstruction_steps and self.calibration_images < 2:
            yield Fault(("calibration_images",), "must be at least 2 for a reconstruction")
        if self.choose_at is not None and not self.candidates:
            yield Fault(("choose_at",), "acts only where there are candidates: leave it out, or set it to null")
        for name in ("step_size_learning_rate", "step_size_weight_decay", "level_penalty"):
            if getattr(self.full_precision, name) != Training.model_fields[name].default:
                yield Fault(("full_precision", name), "acts only in quantized training: leave it out")
        if self.full_precision.distillation:
            yield Fault(("full_precision", "distillation"), "must be 0: only quantized training has a teacher")
        if self.teacher is not None and not self.quantized.distillation:
            yield Fault(("teacher",), "acts only with a quantized.distillation above 0: leave it out")
        if self.teacher_weights is not None and self.teacher is None:
            yield Fault(("teacher_weights",), "acts only with a teacher: leave it out")
        if self.workers > MOST_WORKERS:
            yield Fault(("workers",), f"must be at most {MOST_WORKERS}, not {self.workers}: each is a process")
        for index, step in enumerate(self.augmentation):
            if len(step) != 1:
                yield Fault(
                    ("augmentation",), f"must name one class in each place, not {len(step)} in place {index + 1}"
                )

    def _impossible(self) -> Iterator[Fault]:
        """Yield a fault for each value that `by_pattern` or `Schedule` refuses."""
        schedules = [("candidates", each) for each in self.candidates]
        if self.charge_steps is not None:
            schedules.append(("charge_steps", self.charge_steps))
        checks: list[tuple[str, Any, Callable[[Any], object]]] = [("bits", self.bits, by_pattern)]
        for name, value, check in checks + [(*each, Schedule.of) for each in schedules]:
            try:
                check(value)
            except InvalidArgument as error:
                yield Fault((name,), f"cannot {'hold' if name == 'candidates' else 'be'} {shown(value)}: {error}")

    def _steps_faults(self) -> Iterator[Fault]:
        if not self._charged <= self.horizon <= MAX_STEPS:
            least, most = f"at least the {self._charged} charge steps", f"at most {MAX_STEPS:,}"
            yield Fault(("steps",), f"must be {least} and {most}, not {self.horizon}")
        if self.choose_at is not None and self.choose_at > self.horizon:
            yield Fault(("choose_at",), f"must be at most the {self.horizon} steps of a run, not {self.choose_at}")
        if self.choose_at is not None and self.choose_at < self._charged:
            yield Fault(("choose_at",), f"must be at least the {self._charged} charge steps, not {self.choose_at}")
        if self.candidates and not self.held_out:
            yield Fault(("candidates",), "need a held_out above 0, because they are compared on those images")
        if self.candidates and self.charge_steps is not None:
            yield Fault(("charge_steps",), "is not used where there are candidates: leave one of the two out")


SPELLINGS = {"quantised": "quantized", "optimiser": "optimizer"}
"""The keys of recipes before version 0.2, with their present names; both are read."""


def spelled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe under the present names of its keys and of the keys of its sections.

    >>> spelled({"quantised": {"optimiser": "adamw"}})
    {'quantized': {'optimizer': 'adamw'}}
    """

    def renamed(section: Mapping[str, Any]) -> dict[str, Any]:
        return {SPELLINGS.get(key, key): value for key, value in section.items()}

    sections = {name for name, field in Recipe.model_fields.items() if isinstance(field.default, Section)}
    return {
        key: renamed(value) if key in sections and isinstance(value, Mapping) else value
        for key, value in renamed(values).items()
    }


def differences(a: Recipe, b: Recipe) -> list[str]:
    """Return the keys, with their sections, whose values differ in two recipes.

    >>> differences(Recipe(), Recipe(seed=1, quantized=Training(epochs=1, learning_rate=0.03, batch_size=64)))
    ['quantized.epochs', 'seed']
    """
    return list(_differences(a, b))


def _differences(a: Section, b: Section) -> Iterator[str]:
    for name in type(a).model_fields:
        first, second = getattr(a, name), getattr(b, name)
        if isinstance(first, Section):
            yield from (f"{name}.{inner}" for inner in _differences(first, second))
        elif first != second:
            yield name
