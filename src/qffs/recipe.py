"""Recipes: all that decides a training run, as frozen data that YAML files and command lines write; free of torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Weights = Annotated[list[float], Field(min_length=1)]


class Section(BaseModel):
    """A mapping of a recipe: its keys are known, its values have types and bounds, and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=True, allow_inf_nan=False)


class Training(Section):
    """How to train for some epochs; a QANN's step sizes are parameters like any other, but for their two keys.

    ``learning_rate`` is the highest, after ``warmup_epochs`` of a linear rise; from there it falls along a
    ``cosine`` to zero, is multiplied by ``decay`` an epoch (``exponential``, step by step), or stays
    (``constant``). ``weight_decay`` acts on the weights of convolutions and linear layers, never on biases and
    norms, and on step sizes only with ``step_size_weight_decay``; ``step_size_learning_rate`` is their factor.
    ``ema``: the decay a step of an exponential moving average of all weights, which is then what is measured and
    kept. ``clip_gradient``: the largest norm of the whole gradient. ``distillation``: the share d of ``(1 - d) CE +
    d τ² KL(teacher || student)``, where logits are divided by the ``temperature`` τ and the teacher is the
    full-precision network (Hinton, Vinyals, Dean 2015); only for quantised training.
    """

    epochs: Annotated[int, Field(ge=0)]
    learning_rate: Positive
    batch_size: Annotated[int, Field(ge=1, lt=2**31)] = 128
    optimiser: Literal["sgd", "adamw"] = "sgd"
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing: Share = 0.0
    ema: Share = 0.0
    clip_gradient: Positive | None = None
    step_size_learning_rate: Positive = 1.0
    step_size_weight_decay: bool = False
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature: Positive = 1.0


class Recipe(Section):
    """A run from a network and data to a spiking network: train in full precision, quantise, train, convert, measure.

    ``augmentation``: classes of ``kornia.augmentation`` with their arguments, applied in this order to training
    batches. ``held_out``: the share of the training images that is not trained on, for choosing; the test images
    are read once, at the end. Where ``candidates`` are given, the charge schedule is the one of them with the best
    accuracy on held-out images after ``choose_at`` steps, else ``charge_steps``. ``fused``: train through compiled
    kernels; "auto" does where that pays.
    """

    model: str = "digits_net"
    model_arguments: dict[str, Any] = {}
    weights: str | None = None
    data: str = "digits"
    size: Annotated[int, Field(ge=1)] | None = None
    workers: Annotated[int, Field(ge=0)] = 0
    held_out: Share = 0.0
    augmentation: list[dict[str, dict[str, Any]]] = []
    bits: int | dict[str, int | str] = 2
    output: int | Literal["analog"] = "analog"
    per_channel: bool = False
    calibration_images: Annotated[int, Field(ge=1)] = 512
    full_precision: Training = Training(epochs=15, learning_rate=0.03, batch_size=64)
    quantised: Training = Training(epochs=15, learning_rate=0.03, batch_size=64)
    steps: Annotated[int, Field(ge=1)] | None = None
    charge_steps: int | Weights | None = None
    candidates: list[int | Weights] = []
    choose_at: Annotated[int, Field(ge=1)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    fused: bool | Literal["auto"] = "auto"
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
