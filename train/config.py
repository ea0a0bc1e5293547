"""The configuration of a run, and recipes: the same in TOML."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from edge.config import FrontendConfig
from edge.errors import ContractError
from train.augment import AugmentConfig
from train.bounds import (
    AtLeastOne,
    BelowOne,
    Count,
    Lowering,
    Margins,
    NotNegative,
    Positive,
    Seed,
    Share,
    check_bounds,
)
from train.effects import MicrophoneConfig
from train.settings import flat, replaced

RECIPES = Path(__file__).parent / "recipes"
CHOICES = {
    "optimiser": ("adamw", "sgd", "muon"),
    "schedule": ("one-cycle", "cosine", "plateau", "constant"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "balance": ("none", "sampling", "loss"),
}


@dataclass(frozen=True)
class TrainConfig:
    """One run. With the data set it decides the weights."""

    architecture: str = "streaming"
    model: dict[str, Any] = field(default_factory=dict)  # fields of the architecture's configuration
    frontend: FrontendConfig = FrontendConfig()
    augment: AugmentConfig = AugmentConfig()
    microphone: MicrophoneConfig = MicrophoneConfig()  # what the views are made with
    views: Count = 6  # other microphones that each clip is heard through, beside itself
    view_share: Share = 0.3  # of the training windows that come from a view
    backgrounds: tuple[str, ...] = ()  # folders of recordings that are mixed in; see augment.background
    outliers: tuple[str, ...] = ()  # folders of recordings that are none of the classes; see train.negatives
    outlier_share: Share = 0.25  # of each batch
    energy_loss: NotNegative = 0.1  # with outliers: weight of the energy's part of the loss (Liu 2020); 0: none
    energy_margins: Margins = (-2.0, 5.0)  # outliers' energy shall be below the first, others' above the second
    init: str = ""  # checkpoint or recipe whose weights it starts from; recipe@seed
    quantised: bool = False  # with init: rounds weights and activations as the int8 file does; see models.quantised
    trunk_rate: NotNegative = 1.0  # with init: learning rate of all but the last layer, relative
    train_folds: tuple[int, ...] = (1, 2, 3, 4)
    validation_folds: tuple[int, ...] = ()  # looked at while training; empty: none
    test_fold: int | None = 5  # never looked at while training
    epochs: AtLeastOne = 300
    batch_size: AtLeastOne = 32
    optimiser: str = "adamw"  # "muon" or "sgd"
    learning_rate: Positive = 3e-3  # the highest of the schedule
    momentum: BelowOne = 0.9  # of SGD
    weight_decay: NotNegative = 0.02
    schedule: str = "one-cycle"  # "cosine", "plateau" or "constant"
    warm_up: Share = 0.15  # share of the run, or cycle, in which the learning rate rises
    cycles: AtLeastOne = 1  # the schedule so many times; kept: the mean of all ends, and of init
    plateau_factor: Lowering = 0.3  # of the learning rate, when the loss has stopped falling
    plateau_patience: Count = 10  # epochs that measured the loss, until then
    patience: Count = 0  # epochs without a better validation accuracy, until the best weights are kept; 0: never ends
    clip_norm: NotNegative = 5.0  # of the gradient; 0: any
    average: Share = 0.04  # share of the run, or cycle, over which the weights are averaged, exponentially
    label_smoothing: Share = 0.0
    balance: str = "none"  # rare classes: drawn more often ("sampling"), or weighing more ("loss")
    teachers: tuple[str, ...] = ()  # checkpoints or recipes whose mean opinion is learnt (Hinton 2015); recipe@seed
    distil: Share = 0.6  # share of the teachers in the loss
    distil_temperature: Positive = 2.0  # softens both sides
    precision: str = "auto"  # of the forward pass (autocast), see train.precision; the weights stay float32
    seed: Seed = 0
    validate_every: AtLeastOne = 10  # epochs
    checkpoint_every: AtLeastOne = 5  # epochs

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if self.quantised and self.precision != "float32":
            raise ValueError(f"precision is {self.precision!r}; allowed where quantised: float32")
        check_bounds(self)
        for name, value in flat(self.model):
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"model.{name} is {value}; allowed: finite")
        bands, n_mels = self.augment.mel_mask_bands, self.frontend.n_mels
        if bands > max(n_mels, AugmentConfig.mel_mask_bands):  # the default is cut to a front end that has fewer
            raise ValueError(f"augment.mel_mask_bands is {bands}; allowed: 0 to {n_mels}, the front end's n_mels")
        self.outliers_in(self.batch_size)

    def cycle_ends(self) -> list[int]:
        """After how many epochs each cycle of the schedule ends; the last one with the run."""
        cycles = min(self.cycles, self.epochs)
        return [round(self.epochs * number / cycles) for number in range(1, cycles + 1)]

    def outliers_in(self, batch_size: int) -> int:
        """How many windows of a batch are outliers. Raises ValueError where that leaves none, or nothing else."""
        count = round(self.outlier_share * batch_size) if self.outliers else 0
        if self.outliers and not 0 < count < batch_size:
            raise ValueError(
                f"outlier_share is {self.outlier_share}: {count} windows of a batch of {batch_size}; "
                f"allowed: what makes 1 to {batch_size - 1}"
            )
        return count


def find_recipe(name: str) -> Path:
    """The TOML file of a recipe, by name or path. Raises ValueError."""
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ValueError(f"there is no recipe {name!r}; there are {there}, or give a TOML file")
    return path


def read_recipe(name: str, settings: Sequence[str] = ()) -> TrainConfig:
    """The configuration in a recipe, with ``settings`` like "augment.mix=0.5" on top.

    Raises ValueError for what it does not know.
    """
    path = find_recipe(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        for setting in settings:
            values = replaced(values, dict(flat(_parse(setting))))
        return config_of(values)
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"recipe {path}: {error}") from None


def _parse(setting: str) -> dict[str, Any]:
    """``a.b=1`` as the nested dictionary that TOML makes of it; a value that is no TOML is a string."""
    key, equals, value = setting.partition("=")
    if not equals:
        raise ValueError(f"setting {setting!r}; write it as key=value, for example augment.mix=0.5")
    try:
        return tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        return tomllib.loads(f"{key} = {json.dumps(value, ensure_ascii=False)}")


def config_of(values: dict[str, Any]) -> TrainConfig:
    """A configuration from plain values, as TOML and JSON have them. Raises TypeError, ValueError."""
    try:
        return _build(TrainConfig, values)
    except ContractError as error:  # of the front end; its remedy is for a model file
        raise ValueError(f"{error.what}; give another in the recipe, or with --set") from None


def _build(cls: Any, values: dict[str, Any]) -> Any:
    """A dataclass of ours, with its dataclasses, tuples and numbers. Raises TypeError, ValueError."""
    hints = get_type_hints(cls)
    if unknown := sorted(set(values) - set(hints)):
        raise ValueError(f"unknown key {', '.join(unknown)}; there are {', '.join(hints)}")
    return cls(**{key: _convert(hints[key], value, key) for key, value in values.items()})


def _convert(hint: Any, value: Any, key: str) -> Any:
    if isinstance(hint, types.UnionType):
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _build(hint, value)
    if hint is float and type(value) is int:
        return float(value)
    kind = get_origin(hint) or hint
    if hint == tuple[str, ...] and isinstance(value, str):  # one name, as people write it, and as runs did before
        return (value,) if value else ()
    if kind is tuple and isinstance(value, list):
        wanted = [a for a in get_args(hint) if a is not ...]
        if ... not in get_args(hint) and len(value) != len(wanted):
            raise ValueError(f"{key} is {value!r}; allowed: {len(wanted)} values")
        return tuple(_convert(wanted[0], item, key) for item in value)
    if type(value) is not kind:
        raise ValueError(f"{key} is {value!r}; allowed: {getattr(kind, '__name__', kind)}")
    return value
