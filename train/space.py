"""What a search may change: a TOML file of settings, each with its choices or its range."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from train.config import TrainConfig, config_of
from train.loop import make_model
from train.settings import flat, replaced

SPACES = Path(__file__).parent / "search_spaces"
GIVEN = (
    "train_folds",
    "validation_folds",
    "test_fold",
    "quantised",
    "model.n_labels",
    "model.n_mels",
    "model.channels",
)
KEYS = {"choices", "low", "high", "log", "step"}


@dataclass(frozen=True)
class Dimension:
    """One setting: choices, or a range."""

    name: str  # dotted field of TrainConfig
    choices: tuple[Any, ...] = ()  # empty: a range
    low: int | float = 0
    high: int | float = 0  # itself included
    log: bool = False  # uniform in the logarithm
    step: int | float | None = None  # None: 1 of whole numbers, any of others

    def __post_init__(self) -> None:
        if not self.choices and not self.low < self.high:
            raise ValueError(f"{self.name}: low is {self.low}, high is {self.high}; low must be below high")
        if not math.isfinite(self.high - self.low) or not math.isfinite(self.step or 0):  # also too far apart for numpy
            said = f"low is {self.low}, high is {self.high}, step is {self.step}"
            raise ValueError(f"{self.name}: {said}; allowed: finite numbers, and so their difference")
        if self.log and (self.low <= 0 or self.step):
            raise ValueError(f"{self.name}: log needs low above 0, it is {self.low}, and no step")

    def suggest(self, trial: optuna.Trial) -> Any:
        """A value from Optuna. Choices travel as JSON: Optuna keeps no lists."""
        if self.choices:
            return json.loads(trial.suggest_categorical(self.name, [json.dumps(choice) for choice in self.choices]))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, log=self.log, step=int(self.step or 1))
        return trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True)
class Space:
    """All that a search may change."""

    dimensions: tuple[Dimension, ...]

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """A value for each dotted name."""
        return {dimension.name: dimension.suggest(trial) for dimension in self.dimensions}


def read_space(path: Path, base: TrainConfig) -> Space:
    """The space in ``path``, of settings that ``base`` has.

    Raises:
        ValueError: naming what is no setting, cannot be searched, or is no range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"search space {path}: {error}") from None
    known = searchable(base)
    try:
        dimensions = tuple(_dimension(name, leaf, known) for name, leaf in _leaves(values))
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"search space {path}: {error}") from None
    if not dimensions:
        raise ValueError(
            f"search space {path} is empty; give settings, such as learning_rate = {{low = 1e-3, high = 1e-2}}"
        )
    return Space(dimensions)


def searchable(base: TrainConfig) -> dict[str, Any]:
    """The settings that a search may change, with their values in ``base``; ``model.`` those of its architecture.

    Raises ValueError where the network of ``base`` cannot be built.
    """
    model = make_model(base, base.model.get("n_labels", 1)).config
    settings = dict(flat(dataclasses.asdict(base) | {"model": dataclasses.asdict(model)}))
    return {name: value for name, value in settings.items() if name not in GIVEN}


def changed(base: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """``base`` with other values for dotted names. Another architecture has its own sizes. Raises ValueError."""
    values = dataclasses.asdict(base)
    if changes.get("architecture", base.architecture) != base.architecture:
        values["model"] = {}
    return config_of(replaced(values, changes))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, choices or range); a table of other tables is a group."""
    for key, value in values.items():
        if isinstance(value, dict) and value and all(isinstance(inner, dict) for inner in value.values()):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _dimension(name: str, leaf: Any, known: Mapping[str, Any]) -> Dimension:
    if name not in known:
        what = "cannot be searched" if name in GIVEN else "is no setting"
        raise ValueError(f"{name} {what}; there are {', '.join(known)}")
    ranged = isinstance(leaf, dict) and {"low", "high"} <= set(leaf) and "choices" not in leaf
    listed = isinstance(leaf, dict) and set(leaf) == {"choices"} and isinstance(leaf["choices"], list)
    if not (ranged or (listed and leaf["choices"])) or not set(leaf) <= KEYS:
        raise ValueError(f"{name} is {leaf!r}; allowed: {{choices = [...]}} or {{low, high}} with log = true or a step")
    if listed:
        return Dimension(name, tuple(leaf["choices"]))
    if wrong := [key for key in leaf if key != "log" and type(leaf[key]) not in (int, float)]:
        raise ValueError(f"{name}: {wrong[0]} is {leaf[wrong[0]]!r}; allowed: a number")
    if isinstance(known[name], float):
        leaf = leaf | {"low": float(leaf["low"]), "high": float(leaf["high"])}
    return Dimension(name, **leaf)
