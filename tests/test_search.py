"""Searching for hyper-parameters: spaces, budgets, going on, pruning."""

import contextlib
import csv
import dataclasses
import json
import sqlite3
import sys
import tomllib

import pytest
import torch
from click.testing import CliRunner
from optuna.trial import TrialState

import train.search
from models import architectures, build
from models.checkpoint import Checkpoint, save_checkpoint
from tests.conftest import run_here, run_module
from tests.test_train import SMALL, folders, write_tone  # noqa: F401  # a fixture
from train.cli.search import command
from train.config import TrainConfig, config_of, read_recipe
from train.manifest import read_manifest
from train.predictions import read_predictions
from train.search import Cost, Search, cost_of, search, write_recipe
from train.settings import flat, replaced
from train.space import GIVEN, SPACES, changed, read_space
from train.trials import best_trial, summary

SPACE = """
learning_rate = {low = 1e-3, high = 1e-2, log = true}
augment.mix = {low = 0, high = 1}
[model]
column_width = {choices = [8, 16]}
blocks = {choices = [[1, 1], [1, 0]]}
"""
BASE = TrainConfig(
    model=SMALL, epochs=2, warm_up=0.5, batch_size=8, views=0, precision="float32", validate_every=1,
    train_folds=(1, 2, 3), validation_folds=(4,), test_fold=5,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    return read_space(path, BASE)


@pytest.fixture
def manifest(folders):  # noqa: F811
    return read_manifest(folders)


@pytest.fixture
def study_of(space, manifest, tmp_path):
    """Search in a folder; the study and the lines that were said."""

    def run(trials, out="out", **task):
        lines = []
        task = Search(**(dict(base=BASE, space=space, trials=trials) | task))
        return search(task, manifest, tmp_path / out, tmp_path / "cache", lines.append, device="cpu"), lines

    return run


@pytest.fixture
def fake_fit(monkeypatch, manifest):
    """Training in no time: ``fake_fit(f)`` reports ``f(number of the run)`` as the record of every epoch."""
    monkeypatch.setattr(
        train.search, "cost_of", lambda config, _: Cost(config.model.get("column_width", 8) * 1000, 100)
    )

    def install(record_of):
        def fit(config, manifest, run, cache, report, **_):
            run.mkdir(parents=True, exist_ok=True)
            record = record_of(fit.runs)
            fit.runs += 1
            for epoch in range(1, config.epochs + 1):
                report({"epoch": epoch, "loss": 1.0} | record)
            right = round(record["accuracy"] * 10)
            clips = [
                {"path": "x", "labels": ["low"], "probs": [0, 1, 0] if i < right else [1, 0, 0]} for i in range(10)
            ]
            page = {"fold": [4], "labels": list(manifest.labels), "multi_label": False, "clips": clips}
            (run / "predictions.json").write_text(json.dumps(page))

        fit.runs = 0
        monkeypatch.setattr(train.search, "fit", fit)
        return fit

    return install


def rows(out):
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# Spaces


def test_a_space_gives_values_of_the_right_type(study_of, fake_fit):
    fake_fit(lambda _: {"accuracy": 0.5})
    study, _ = study_of(4)
    for trial in study.trials:
        assert 1e-3 <= trial.params["learning_rate"] <= 1e-2
        assert isinstance(trial.params["augment.mix"], float)  # its bounds are whole numbers, the setting is not
        assert json.loads(trial.params["model.blocks"]) in ([1, 1], [1, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("learning_rate = ", "search space"),
        ("speed = {low = 1, high = 2}", "speed is no setting; there are architecture, .*learning_rate"),
        ("model.depth = {low = 1, high = 2}", "model.depth is no setting"),
        ("test_fold = {choices = [4, 5]}", "test_fold cannot be searched"),
        ("seed = 3", "seed is 3; allowed: {choices"),
        ("batch_size = {choices = []}", "batch_size is .*allowed"),
        ("batch_size = {choices = [8], low = 1}", "batch_size is .*allowed"),
        ("batch_size = {low = 8, high = 16, steps = 2}", "batch_size is .*allowed"),
        ("batch_size = {low = 16, high = 8}", "low is 16, high is 8; low must be below high"),
        ('batch_size = {low = "8", high = 16}', "low is '8'; allowed: a number"),
        ("learning_rate = {low = 0.0, high = 1.0, log = true}", "log needs low above 0"),
        ("learning_rate = {low = 1e-3, high = inf}", "learning_rate: low is 0.001, high is inf.*; allowed: finite"),
        ("learning_rate = {low = -1e308, high = 1e308}", "low is -1e.308, high is 1e.308.*; allowed: finite numbers"),
        ("learning_rate = {low = 1e-3, high = 1.0, step = nan}", "learning_rate: .*step is nan; allowed: finite"),
        (f"learning_rate = {{low = 0, high = 1{'0' * 400}}}", "search space .*: int too large"),
    ],
)
def test_a_bad_space_is_named(tmp_path, text, message):
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_space(path, BASE)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_spaces_that_come_along_are_of_the_default_recipe(path):
    base = read_recipe("default")
    ends = [
        {d.name: value for d in read_space(path, base).dimensions for value in [(d.choices or (d.low, d.high))[end]]}
        for end in (0, -1)
    ]
    small, large = (cost_of(changed(base, end), 50) for end in ends)
    assert 0 < small.parameters < large.parameters


def test_settings_by_dotted_names():
    settings = {"a": 1, "b": {"c": 2}}
    assert dict(flat(settings)) == {"a": 1, "b.c": 2}
    assert replaced(settings, {"b.c": 3, "b.d.e": 4}) == {"a": 1, "b": {"c": 3, "d": {"e": 4}}}
    assert settings == {"a": 1, "b": {"c": 2}}


def test_another_architecture_has_its_own_sizes():
    other = next(name for name in architectures() if not name.startswith("streaming"))
    assert changed(BASE, {"architecture": other}).model == {}
    assert changed(BASE, {"architecture": "streaming", "learning_rate": 0.5}).model == SMALL


# Searching


def test_a_search_goes_on_to_the_same_trials(study_of, tmp_path):
    study_of(2, out="cut")
    study, lines = study_of(4, out="cut")
    whole, _ = study_of(4, out="whole")
    assert len(lines) == 2  # the first two are not tried again
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 4
    assert [t.params for t in study.trials] == [t.params for t in whole.trials]
    assert [t.values for t in study.trials] == [t.values for t in whole.trials]
    assert len({json.dumps(t.params) for t in study.trials}) == 4
    assert study_of(4, out="cut")[1] == []
    best = best_trial(study)
    assert best.values[0] == max(t.values[0] for t in study.trials)
    table = rows(tmp_path / "cut")
    assert [row["trial"] for row in table] == ["0", "1", "2", "3"]
    assert float(table[best.number]["accuracy"]) == best.values[0]
    recipe = read_recipe(str(tmp_path / "cut" / "best.toml"))
    assert recipe.learning_rate == best.params["learning_rate"]
    run = tmp_path / "cut" / best.user_attrs["run"]
    assert (run / "recipe.toml").read_text() == (tmp_path / "cut" / "best.toml").read_text()
    trained = json.loads((run / "config.json").read_text())
    folds = {"train_folds": (1, 2, 3), "validation_folds": (4,)}
    assert dataclasses.replace(recipe, **folds) == config_of(
        {key: value for key, value in trained.items() if key not in ("data", "digest")}
    )
    assert read_predictions(run / "predictions.json").fold == (4,)  # never 5


def test_any_seed_that_a_run_takes_is_one_of_a_search(study_of, fake_fit):
    fake_fit(lambda _: {"accuracy": 0.5})
    study, _ = study_of(1, base=dataclasses.replace(BASE, seed=2**63 - 1))
    assert study.trials[0].state == TrialState.COMPLETE


def test_the_cost_is_of_the_network_that_would_be_trained():
    small = cost_of(changed(BASE, {"model.column_width": 8, "model.blocks": [1, 0]}), 3)
    large = cost_of(changed(BASE, {"model.column_width": 16, "model.blocks": [1, 1]}), 3)
    network = build("streaming", **SMALL, n_labels=3)
    assert small.macs < large.macs
    assert small.parameters < cost_of(BASE, 3).parameters < large.parameters
    assert cost_of(BASE, 3).parameters == sum(p.numel() for p in network.parameters())


def test_a_trial_over_the_budget_is_not_trained(study_of, fake_fit, tmp_path):
    fit = fake_fit(lambda _: {"accuracy": 0.5})  # one of width 8 costs 8000
    study, lines = study_of(4, max_macs=8000, max_parameters=100)
    pruned = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert [t.params["model.column_width"] for t in pruned] == ["16"] * len(pruned)
    assert (fit.runs, len(study.trials) - len(pruned)) == (4, 4)
    assert len(pruned) > 0
    line = f"trial {pruned[0].number}: over the budget: 16,000 multiply-accumulates, allowed 8,000"
    assert lines[pruned[0].number] == line
    assert rows(tmp_path / "out")[pruned[0].number]["why"] == line.partition(": ")[2]


def test_a_budget_that_nothing_meets_ends_the_search(study_of, fake_fit, monkeypatch, tmp_path):
    fit = fake_fit(lambda _: {"accuracy": 0.5})
    monkeypatch.setattr(train.search, "REFUSED", 3)
    message = "3 networks in a row were not trained, the last: over the budget: 100 parameters, allowed 99; raise"
    with pytest.raises(ValueError, match=message):
        study_of(1, max_parameters=99)
    assert fit.runs == 0
    assert len(rows(tmp_path / "out")) == 3
    assert not (tmp_path / "out" / "best.toml").exists()


def test_an_interrupted_trial_is_taken_up(study_of, fake_fit, monkeypatch):
    fit = fake_fit(lambda _: {"accuracy": 0.5})

    def interrupted(*arguments, **options):
        if fit.runs == 1:
            raise KeyboardInterrupt
        fit(*arguments, **options)

    monkeypatch.setattr(train.search, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study_of(3)
    monkeypatch.setattr(train.search, "fit", fit)
    study, lines = study_of(3)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[2].params == study.trials[1].params
    assert len(lines) == 2
    assert len(study_of(4)[0].trials) == 5  # taken up once, not again


def test_a_killed_trial_is_taken_up(study_of, fake_fit):
    fake_fit(lambda _: {"accuracy": 0.5})
    study, _ = study_of(1)
    study.ask()  # as a killed process leaves it
    study, _ = study_of(2)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_trials_that_fall_behind_or_diverge_are_stopped(study_of, fake_fit):
    fake_fit(lambda run: {"accuracy": 0.9 if run < 6 else 0.1, "loss": float("nan") if run == 7 else 1.0})
    study, lines = study_of(8)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 6 + ["PRUNED"] * 2
    assert lines[6] == "trial 6: stopped in epoch 1 with 10.00%"
    assert lines[7] == "trial 7: diverged: loss nan in epoch 1"
    assert "; best 90.00% in trial " in lines[5]


def test_what_cannot_be_built_is_not_trained(study_of, tmp_path, monkeypatch):
    path = tmp_path / "other.toml"
    path.write_text("frontend.n_mels = {choices = [2]}\naugment.mel_mask_bands = {choices = [1]}")
    monkeypatch.setattr(train.search, "REFUSED", 1)
    with pytest.raises(
        ValueError, match="1 networks in a row were not trained, the last: streaming cannot be built with "
    ):
        study_of(1, space=read_space(path, BASE))
    assert [row["state"] for row in rows(tmp_path / "out")] == ["pruned"]


def test_a_size_that_cannot_be_does_not_end_the_search(study_of, fake_fit, tmp_path, monkeypatch):
    (tmp_path / "sizes.toml").write_text("model.widths = {choices = [[], [0, 8], [8, 8]]}")
    fit = fake_fit(lambda _: {"accuracy": 0.5})
    monkeypatch.setattr(train.search, "cost_of", cost_of)  # the real one
    study, lines = study_of(4, space=read_space(tmp_path / "sizes.toml", BASE))
    why = "allowed: one or more whole numbers, each 1 or more"
    assert len([line for line in lines if line.endswith(why)]) == len(study.trials) - 4 > 0
    assert fit.runs == 4
    with pytest.raises(ValueError, match=r"streaming cannot be built with .*: widths is \(\)"):
        read_space(tmp_path / "sizes.toml", dataclasses.replace(BASE, model={"widths": []}))


def test_cost_as_a_second_objective(study_of, fake_fit, tmp_path):
    fake_fit(lambda run: {"accuracy": (run % 10) / 10})
    study, _ = study_of(8, pareto=True)
    front = study.best_trials
    text = summary(study, tmp_path / "out").splitlines()
    assert len(text) == len(front)
    macs = [t.values[1] for t in sorted(front, key=lambda t: t.values[1])]
    accuracies = [t.values[0] for t in sorted(front, key=lambda t: t.values[1])]
    assert accuracies == sorted(accuracies)  # who costs more, knows more
    assert macs[-1] == best_trial(study).user_attrs["macs"]
    assert all(t.state == TrialState.COMPLETE for t in study.trials)  # none was stopped


def test_time_is_up(study_of, fake_fit, tmp_path):
    fit = fake_fit(lambda _: {"accuracy": 0.5})
    study, lines = study_of(3, timeout=0.0)
    assert (fit.runs, len(study.trials)) == (0, 0)
    assert lines == ["time is up after 0 of 3 trials; the same command goes on"]
    assert summary(study, tmp_path / "out") == "no trial was begun; give a longer --timeout"
    study.ask()  # as a killed process leaves it
    study, _ = study_of(3, timeout=0.0)
    assert summary(study, tmp_path / "out") == f"no trial was trained to its end; {tmp_path}/out/trials.csv says why"
    assert [row["state"] for row in rows(tmp_path / "out")] == ["fail", "waiting"]


def test_a_search_does_not_go_on_with_other_sound(study_of, manifest, tmp_path):
    study_of(1)
    write_tone(manifest.clips[0].path, 300)
    message = r"1 of 30 recordings have changed since .*out was begun, the first: .*\.wav; give another --out, or"
    with pytest.raises(ValueError, match=message):
        study_of(2)


def test_a_database_that_cannot_be_used_is_named(study_of, fake_fit, tmp_path):
    """When a trial has been trained, as where the disk is full by then, and at the start."""
    database = tmp_path / "out" / "study.db"
    remedy = "free space, or, where it is damaged, delete it or give another --out"

    def fill(_):
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("CREATE TRIGGER full BEFORE UPDATE ON trials BEGIN SELECT RAISE(FAIL, 'no space'); END")
        return {"accuracy": 0.5}

    fake_fit(fill)
    with pytest.raises(ValueError, match=rf"study\.db cannot be used: no space; {remedy}"):
        study_of(1)
    database.write_text("no database" * 100)
    with pytest.raises(ValueError, match=rf"study\.db cannot be used: file is not a database; {remedy}"):
        study_of(1)


def test_another_search_is_not_mixed_in(study_of, fake_fit, tmp_path):
    fake_fit(lambda _: {"accuracy": 0.5})
    study_of(1)
    for other in ({"base": dataclasses.replace(BASE, seed=1)}, {"max_macs": 1}, {"pareto": True}):
        with pytest.raises(ValueError, match="out holds a search of other settings or data; give another --out"):
            study_of(2, **other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation_folds": ()}, "give --validation-fold"),
        ({"train_folds": (1, 2, 5)}, "fold 5 is trained on and held out"),
        ({"train_folds": (1, 4)}, "fold 4 is trained on and held out"),
        ({"teachers": ("teacher-wide",)}, "'teacher-wide' is a recipe; train it first"),
    ],
)
def test_a_search_that_would_cheat_or_fail_is_refused(study_of, change, message):
    with pytest.raises(ValueError, match=message):
        study_of(1, base=dataclasses.replace(BASE, **change))


def test_weights_that_know_what_is_held_out_are_refused(study_of, fake_fit, manifest, tmp_path):
    """Given to the search, or chosen by a trial."""
    fake_fit(lambda _: {"accuracy": 0.5})
    weights = checkpoint_of(tmp_path / "all.pt", manifest, (1, 2, 3, 4, 5), None)
    message = r"all\.pt has learnt from fold 4, 5 of data, which is held out here; give other weights"
    for change in ({"init": weights}, {"teachers": (weights,)}):
        with pytest.raises(ValueError, match=message):
            study_of(1, base=dataclasses.replace(BASE, **change))
    assert not (tmp_path / "out").exists()
    fair = checkpoint_of(tmp_path / "fair.pt", manifest, (1, 2, 3), 5)
    (tmp_path / "init.toml").write_text(f'init = {{choices = ["{weights}", "{fair}"]}}')
    study, lines = study_of(3, space=read_space(tmp_path / "init.toml", BASE))
    assert {t.params["init"] for t in study.trials if t.state == TrialState.COMPLETE} == {json.dumps(fair)}
    assert len([line for line in lines if "all.pt has learnt from fold 4, 5" in line]) == len(study.trials) - 3


def checkpoint_of(path, manifest, train_folds, test_fold):
    """A checkpoint that says that it was trained on these folds."""
    model = build("streaming", **SMALL, n_labels=3)
    origin = {"dataset": manifest.name, "digest": manifest.digest(), "train_folds": train_folds}
    origin |= {"test_fold": test_fold, "seed": 0, "epochs": 1, "git_revision": "x"}
    labels = manifest.labels
    save_checkpoint(path, Checkpoint("streaming", SMALL, BASE.frontend, labels, origin, model.state_dict()))
    return str(path)


def test_recipes_are_written_as_they_are_read(tmp_path):
    config = changed(
        BASE,
        {"augment.mix": 0.25, "frontend.n_mels": 32, "teachers": ("a.pt",), "optimiser": "sgd", "microphone": {}},
    )
    write_recipe(config, tmp_path / "r.toml")
    read = read_recipe(str(tmp_path / "r.toml"))
    kept = {key: getattr(config, key) for key in GIVEN if "." not in key}
    assert dataclasses.replace(read, **kept, model=config.model) == config
    assert read.model == json.loads(json.dumps(config.model))
    assert "train_folds" not in tomllib.loads((tmp_path / "r.toml").read_text())


def test_the_command(folders, tmp_path):  # noqa: F811
    space, recipe = tmp_path / "space.toml", tmp_path / "recipe.toml"
    space.write_text(SPACE)
    write_recipe(BASE, recipe)
    options = ("--recipe", recipe, "--validation-fold", 4, "--device", "cpu", "--threads", 1)
    options = (*options, "--cache", tmp_path / "cache", "--out", tmp_path / "out", "--space", space)
    done = run_module("train", "search", folders, *options, "--trials", 1, "--max-mmacs", 1000)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("trial 0: ")
    assert lines[1].startswith(str(tmp_path / "out" / "best.toml"))
    space.write_text("speed = 3")
    failed = run_here("train", "search", folders, *options, code=1)
    assert failed.stdout == ""
    assert "Error: search space" in failed.stderr
    assert "speed is no setting" in failed.stderr


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    for module in ("train.search", "train.space", "train.trials"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    failed = CliRunner().invoke(command, [str(tmp_path), "--validation-fold", "4"])
    assert failed.exit_code == 1
    assert "optuna is not installed; pip install -e '.[train]'" in failed.stderr
