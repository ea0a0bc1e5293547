"""The configuration of a run, and recipes: the same in TOML."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.config import FrontendConfig
from train.augment import AugmentConfig

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class TrainConfig:
    """One run. With the data set it decides the weights."""

    architecture: str = "streaming"
    model: dict[str, Any] = field(default_factory=dict)  # fields of the architecture's configuration
    frontend: FrontendConfig = FrontendConfig()
    augment: AugmentConfig = AugmentConfig()
    train_folds: tuple[int, ...] = (1, 2, 3, 4)
    validation_folds: tuple[int, ...] = ()  # looked at while training; empty: none
    test_fold: int | None = 5  # never looked at; recorded, so that others can test on it
    epochs: int = 300
    batch_size: int = 64
    learning_rate: float = 3e-3  # peak of the one-cycle schedule
    weight_decay: float = 0.02
    warm_up: float = 0.15  # share of the run in which the learning rate rises
    average: float = 0.04  # share of the run over which the weights are averaged, exponentially
    label_smoothing: float = 0.0
    teachers: tuple[str, ...] = ()  # checkpoints whose mean opinion is learnt beside the labels (Hinton 2015)
    distil: float = 0.6  # share of the teachers in the loss
    distil_temperature: float = 2.0  # softens both sides
    bfloat16: bool = True  # autocast; the weights stay float32
    seed: int = 0
    validate_every: int = 10  # epochs
    checkpoint_every: int = 5  # epochs


def read_recipe(name: str) -> TrainConfig:
    """The configuration in a TOML file. Raises ValueError for what it does not know."""
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ValueError(f"there is no recipe {name!r}; there are {there}, or give a TOML file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        values["frontend"] = FrontendConfig(**values.get("frontend", {}))
        augment = {k: tuple(v) if isinstance(v, list) else v for k, v in values.get("augment", {}).items()}
        values["augment"] = AugmentConfig(**augment)
        return TrainConfig(**values)
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise ValueError(f"recipe {path}: {error}") from None
