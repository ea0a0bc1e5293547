"""Search for hyper-parameters with Optuna, the network's size among them, under a budget of cost."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import tomli_w
import torch
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from models.cost import count_macs
from train.config import TrainConfig
from train.fingerprints import check_same_sound, write_fingerprints
from train.folder import same_run
from train.loop import fit, make_model
from train.manifest import Manifest, ManifestError
from train.metrics import metrics_of
from train.predictions import read_predictions
from train.run import check, recipes_before
from train.space import GIVEN, Space, changed
from train.trials import trial_line, write_results, write_text

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
STARTUP = 5  # trials that are never pruned: the others are compared with them
REFUSED = 100  # networks in a row that are not trained, for their cost, until the search gives up


@dataclass(frozen=True)
class Cost:
    """What a network costs."""

    macs: int  # multiply-accumulates of one window
    parameters: int


@dataclass(frozen=True)
class Search:
    """What is searched, and how far. All but ``trials`` and ``timeout`` must stay the same when a search goes on."""

    base: TrainConfig  # what the space does not change
    space: Space
    trials: int  # that are trained, to the end or until they fall behind
    max_macs: int | None = None  # of one window
    max_parameters: int | None = None
    pareto: bool = False  # accuracy and MACs are both objectives; nothing is pruned by accuracy then
    timeout: float | None = None  # seconds; the trial that runs meanwhile ends

    def identity(self, manifest: Manifest) -> dict[str, Any]:
        """What must stay the same, as JSON has it."""
        values = dataclasses.asdict(self)
        del values["trials"], values["timeout"]
        identity: dict[str, Any] = json.loads(json.dumps(values | {"digest": manifest.digest()}))
        return identity


def search(
    task: Search, manifest: Manifest, out: Path, cache: Path | None, say: Callable[[str], None], *, device: str = "auto"
) -> optuna.Study:
    """Try ``task.trials`` configurations, or go on where a search in ``out`` stopped; ``say`` gets a line for each.

    A trial trains on the training folds and is judged on the validation folds; nothing looks at the test fold. Writes
    ``study.db``, ``trials.csv``, ``best.toml`` and a folder for each configuration under ``runs/``.

    Raises:
        ManifestError, ValueError: as :func:`train.run.check`; without a validation fold, when ``out`` holds another
            search, or a ``study.db`` that cannot be used, or when hardly anything in the space is within the budget.
    """
    _check(task.base)
    check(task.base, manifest)
    with _stored(out / "study.db"):
        study = _open(task, manifest, out)
        objective, started = Objective(task, manifest, out, cache, device), time.monotonic()
        while (done := len(trained(study))) < task.trials:
            if task.timeout is not None and time.monotonic() - started > task.timeout:
                write_results(study, out)  # those of trials that were interrupted are not there yet
                say(f"time is up after {done} of {task.trials} trials; the same command goes on")
                break
            ended = study.get_trials(deepcopy=False, states=FINISHED)
            _check_refused(ended)
            # A seed for each trial: a search that goes on draws what it would have drawn.
            seed = (task.base.seed * 1_000_003 + len(ended)) % 2**32  # numpy takes no other
            study.sampler = optuna.samplers.TPESampler(seed=seed)
            study.optimize(objective, n_trials=1)
            write_results(study, out)
            say(trial_line(study.get_trials(deepcopy=False)[-1], study))
    return study


def trained(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were trained and have ended."""
    return [t for t in study.get_trials(deepcopy=False, states=FINISHED) if "run" in t.user_attrs]


def cost_of(config: TrainConfig, n_labels: int) -> Cost:
    """The cost of a configuration's network. Raises ValueError for one that cannot be built."""
    frontend, model = config.frontend, make_model(config, n_labels)
    try:
        macs = count_macs(model, torch.zeros(1, frontend.channels, frontend.n_mels, model.window_frames))
    except RuntimeError as error:  # sizes that do not fit together: torch's words
        raise ValueError(
            f"{config.architecture} cannot run with {config.model}: {str(error).partition(chr(10))[0]}"
        ) from None
    return Cost(macs, sum(p.numel() for p in model.parameters()))


def write_recipe(config: TrainConfig, path: Path) -> None:
    """The inverse of :func:`train.config.read_recipe`, without the folds, which belong to a data set."""
    default, values = dataclasses.asdict(TrainConfig()), dataclasses.asdict(config)
    text = tomli_w.dumps(_differing(values, default))
    write_text(path, f"# Fields of train.config.TrainConfig that differ from its defaults.\n{text}")


class Objective:
    """A trial → its accuracy, or, for a Pareto front, accuracy and MACs."""

    def __init__(self, task: Search, manifest: Manifest, out: Path, cache: Path | None, device: str) -> None:
        self.task, self.manifest, self.out, self.cache, self.device = task, manifest, out, cache, device

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, int]:
        """Raises TrialPruned for what is over the budget, cannot be built, diverges, or falls behind."""
        task = self.task
        try:
            config = changed(task.base, task.space.suggest(trial))
            check(config, self.manifest)
            cost = cost_of(config, len(self.manifest.labels))
        except (ManifestError, ValueError) as error:
            raise _prune(trial, str(error)) from None
        for name, value in dataclasses.asdict(cost).items():
            trial.set_user_attr(name, value)
        for value, allowed, what in (
            (cost.macs, task.max_macs, "multiply-accumulates"),
            (cost.parameters, task.max_parameters, "parameters"),
        ):
            if allowed is not None and value > allowed:
                raise _prune(trial, f"over the budget: {value:,} {what}, allowed {allowed:,}")
        run = self.out / "runs" / _digest(config)  # by content: what was tried before is not trained again
        trial.set_user_attr("run", str(run.relative_to(self.out)))
        accuracy = self._train(trial, config, run)
        write_recipe(config, run / "recipe.toml")
        return (accuracy, cost.macs) if task.pareto else accuracy

    def _train(self, trial: optuna.Trial, config: TrainConfig, run: Path) -> float:
        """The accuracy on the validation folds."""

        def report(record: dict[str, Any]) -> None:
            if not math.isfinite(record["loss"]):
                raise _prune(trial, f"diverged: loss {record['loss']} in epoch {record['epoch']}")
            if "accuracy" in record and not self.task.pareto:  # Optuna stops no trial of several objectives
                trial.report(record["accuracy"], record["epoch"])
                if trial.should_prune():
                    raise _prune(trial, f"stopped in epoch {record['epoch']} with {record['accuracy']:.2%}")

        fit(config, self.manifest, run, self.cache, report, device=self.device)
        held_out = read_predictions(run / "predictions.json")
        if set(held_out.fold) != set(config.validation_folds):
            raise RuntimeError(f"{run} was judged on fold {held_out.fold} instead of {config.validation_folds}")
        return metrics_of(held_out.targets, held_out.probs, held_out.labels, multi_label=held_out.multi_label).accuracy


@contextmanager
def _stored(path: Path) -> Iterator[None]:
    """Raises ValueError where the database ``path`` cannot be read or written."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ or error  # Optuna's own words are of what a caller may have done wrong
        why = getattr(cause, "orig", None) or cause
        raise ValueError(
            f"{path} cannot be used: {why}; free space, or, where it is damaged, delete it or give another --out"
        ) from None


def _prune(trial: optuna.Trial, why: str) -> optuna.TrialPruned:
    trial.set_user_attr("why", why)
    return optuna.TrialPruned(why)


def _check(base: TrainConfig) -> None:
    if not base.validation_folds:
        raise ValueError("a search is judged on a validation fold; give --validation-fold")
    if held_out := set(base.train_folds) & {*base.validation_folds, base.test_fold}:
        raise ValueError(f"fold {', '.join(map(str, held_out))} is trained on and held out; give another fold")
    if recipes := recipes_before(base):
        raise ValueError(f"{recipes[0]!r} is a recipe; train it first, and name its checkpoint.pt instead")


def _check_refused(ended: list[FrozenTrial]) -> None:
    """Raises ValueError when the last trials were all too expensive to train."""
    last = ended[-REFUSED:]
    if len(last) == REFUSED and not any("run" in trial.user_attrs for trial in last):
        raise ValueError(
            f"{REFUSED} networks in a row were not trained, the last: {last[-1].user_attrs['why']}; "
            "raise the budget, or give another space"
        )


def _same_search(before: dict[str, Any], now: dict[str, Any]) -> bool:
    return same_run(before["base"], now["base"]) and before | {"base": None} == now | {"base": None}


def _open(task: Search, manifest: Manifest, out: Path) -> optuna.Study:
    """The study in ``out``, new or going on. Raises ValueError for one of another search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failed trial is raised, not told
    out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{out.resolve()}/study.db",
        study_name="search",
        load_if_exists=True,
        directions=["maximize", "minimize"] if task.pareto else ["maximize"],
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=task.base.epochs // 4),
    )
    identity = task.identity(manifest)
    if not _same_search(study.user_attrs.get("identity", identity), identity):
        raise ValueError(f"{out} holds a search of other settings or data; give another --out, or delete it")
    if any(out.glob("runs/*/history.jsonl")):
        check_same_sound(out, manifest.clips)
    else:  # nothing is learnt yet
        write_fingerprints(out, manifest.clips)
    study.set_user_attr("identity", identity)
    _take_up(study)
    return study


def _take_up(study: optuna.Study) -> None:
    """Queue the trials that were interrupted: their runs go on."""
    retried = {trial.user_attrs.get("retry_of") for trial in study.get_trials(deepcopy=False)}
    for trial in study.get_trials(states=(TrialState.RUNNING, TrialState.FAIL)):
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        if trial.number not in retried:
            study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})


def _digest(config: TrainConfig) -> str:
    return hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode()).hexdigest()[:12]


def _differing(values: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """What ``values`` has and ``default`` has not, for TOML."""
    differing: dict[str, Any] = {}
    for key, value in values.items():
        if key in GIVEN or (key in default and value == default[key]):
            continue
        differing[key] = _differing(value, default.get(key, {})) if isinstance(value, dict) else value
    return differing
