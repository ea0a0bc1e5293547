"""The trials of a search, for people: a line for each, a table, the best one's recipe."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from edge.files import write_text

ATTRIBUTES = ("macs", "parameters", "run", "why")


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The most accurate trial, of those the cheapest; None when none has ended."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(ended, key=lambda trial: (trial.values[0], -trial.user_attrs["macs"]), default=None)


def trial_line(trial: FrozenTrial, study: optuna.Study) -> str:
    """What became of a trial."""
    best = best_trial(study)
    if trial.state != TrialState.COMPLETE or best is None:
        return f"trial {trial.number}: {trial.user_attrs.get('why', trial.state.name.lower())}"
    return f"trial {trial.number}: {_score(trial)}; best {best.values[0]:.2%} in trial {best.number}"


def summary(study: optuna.Study, out: Path) -> str:
    """The best trial, or, where cost is an objective as well, the best of each cost."""
    best = best_trial(study)
    if not study.get_trials(deepcopy=False):
        return "no trial was begun; give a longer --timeout"
    if best is None:
        return f"no trial was trained to its end; {out / 'trials.csv'} says why"
    if len(study.directions) == 1:
        return f"{out / 'best.toml'}: {_score(best)}"
    front = sorted(study.best_trials, key=lambda trial: trial.values[1])
    return "\n".join(f"{out / trial.user_attrs['run'] / 'recipe.toml'}: {_score(trial)}" for trial in front)


def write_results(study: optuna.Study, out: Path) -> None:
    """``trials.csv`` of all trials, and ``best.toml``."""
    trials = study.get_trials(deepcopy=False)
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["trial", "state", "accuracy", *ATTRIBUTES, *names])
    for trial in trials:
        accuracy = trial.values[0] if trial.values else ""
        attributes = [trial.user_attrs.get(key, "") for key in ATTRIBUTES]
        params = [trial.params.get(name, "") for name in names]
        writer.writerow([trial.number, trial.state.name.lower(), accuracy, *attributes, *params])
    write_text(out / "trials.csv", table.getvalue())
    if best := best_trial(study):
        write_text(out / "best.toml", (out / best.user_attrs["run"] / "recipe.toml").read_text(encoding="utf-8"))


def _score(trial: FrozenTrial) -> str:
    macs, parameters = trial.user_attrs["macs"], trial.user_attrs["parameters"]
    return f"{trial.values[0]:.2%}, {macs / 1e6:.1f} MMAC, {parameters:,} parameters"
