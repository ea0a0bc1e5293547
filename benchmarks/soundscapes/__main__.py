"""``python -m benchmarks.soundscapes``: events in continuous sound, generated or recorded; see docs/recognition.md."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# One thread for each process; it is read when numpy is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import click

from benchmarks.soundscapes.activity import Activity
from benchmarks.soundscapes.backgrounds import read_backgrounds
from benchmarks.soundscapes.decide import names_of
from benchmarks.soundscapes.figures import Figures, class_table, curve_table, figures, summary
from benchmarks.soundscapes.hear import Heard
from benchmarks.soundscapes.options import (
    CURVE,
    EVENTS,
    FILE,
    FOLDER,
    HALF,
    HOURS,
    LISTENING,
    SITE,
    SOUND,
    STDOUT,
    require_place,
)
from benchmarks.soundscapes.recordings import hear_recordings
from benchmarks.soundscapes.run import Listener, Scenes, hear_all, operating_curve, render_all, score_all
from benchmarks.soundscapes.scene import NEGATIVES, SceneConfig
from benchmarks.soundscapes.site import judged, learnt, site_tables
from edge.classifier import Classifier
from edge.cli import listen
from edge.cli.common import OurGroup, options, tables_of
from edge.cli.sources import rules_of
from edge.config import ModelSpec
from edge.errors import EdgeError, SettingsError
from edge.files import write_json
from edge.rules import EventConfig
from train.cli.evaluate import held_out
from train.manifest import Manifest, ManifestError, ReadOptions, read_manifest
from train.negatives import HALVES

RATE = 16_000  # Hz, of rendered scenes


class Group(OurGroup):
    """Errors of ours are one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """As a click.Group."""
        try:
            return super().invoke(ctx)
        except ManifestError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Recognition of events in continuous sound."""


@main.command()
@options(*EVENTS, *HOURS, *HALF, *SOUND, *LISTENING, *CURVE)
def run(**given: Any) -> None:
    """Held-out clips over backgrounds, by the runtime: F1 of events, false alarms, delays."""
    listener = _listener(given)
    events = _rules(given["config"], listener.spec)
    scenes = _scenes(given, listener)
    _warn_of_strangers(scenes, listener)
    heard = list(hear_all(scenes, listener, given["jobs"]))
    _tell(_report(heard, listener, events, given), given)


@main.command()
@options(*HOURS, *HALF, *SOUND, *LISTENING, *CURVE)
def negatives(**given: Any) -> None:
    """Backgrounds alone, through gains, rooms and mixes: every report is false."""
    listener = _listener(given)
    events = _rules(given["config"], listener.spec)
    if not given["backgrounds"]:
        raise click.UsageError("negatives needs --backgrounds")
    scenes = _scenes(given, listener)
    heard = list(hear_all(scenes, listener, given["jobs"]))
    _tell(_report(heard, listener, events, given), given)


@main.command()
@options(*SITE, *EVENTS, *SOUND, *LISTENING)
def site(**given: Any) -> None:
    """Thresholds of edge-calibrate from some hours of backgrounds: is the promise kept in others, and what is lost?"""
    listener = _listener(given)
    events = _rules(given["config"], listener.spec) or EventConfig()
    scenes = _places(given, listener)
    _warn_of_strangers(scenes["events"], listener)
    heard = {name: hear_all(place, listener, given["jobs"]) for name, place in scenes.items()}
    result = learnt(heard["place"], listener, events, given["max_false_per_day"])
    found = judged(result, heard["test"], heard["events"], listener, events) | _about(given, listener.spec)
    _hand_over(found, site_tables(found), given["json_path"])


@main.command()
@options(*EVENTS, *HOURS, *HALF, *SOUND)
@click.option("--out", type=FOLDER, required=True)
@click.option("--rate", type=click.IntRange(1000, 768_000), default=RATE, show_default=True, help="Hz.")
def render(out: Path, rate: int, **given: Any) -> None:
    """The scenes as WAV files, each with its truth as CSV, to listen to."""
    require_place(out, "--out")
    for path in render_all(_scenes(given, None), rate, out, given["jobs"]):
        click.echo(path)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--truth", type=FILE, help="One list for all. [default: one beside each recording, of its name]")
@options(*LISTENING, *CURVE)
def recordings(paths: tuple[Path, ...], truth: Path | None, **given: Any) -> None:
    """Recordings of others, with lists of onset, offset and label (CSV or TSV)."""
    listener = _listener(given)
    events = _rules(given["config"], listener.spec)
    heard = list(hear_recordings(paths, Classifier(listener.model), given["hop"], truth))
    _tell(_report(heard, listener, events, given), given)


def _listener(given: dict[str, Any]) -> Listener:
    classifier = Classifier(given["model"])
    return Listener(classifier.path, classifier.spec, given["hop"])


def _rules(path: Path | None, spec: ModelSpec) -> EventConfig | None:
    """The detector's rules of a configuration file of edge-listen, read by its own code; None for the defaults.

    Raises SettingsError for what edge-listen would refuse, and for rules of what ``spec`` does not have.
    """
    if path is None:
        return None
    try:
        # Without the environment: EDGE_LISTEN_THRESHOLD is of another listener.
        with listen.main.make_context("edge-listen", ["--config", str(path)], auto_envvar_prefix=None) as context:
            tables, threshold = tables_of(context), context.params["threshold"]
    except click.UsageError as error:
        what = " ".join(error.format_message().split())
        raise SettingsError(what, remedy=f"correct {path}; docs/listen.md has the keys") from None
    if "events" not in tables:
        but = "" if threshold is None else f" but for its threshold, {threshold:g},"
        click.echo(f"warning: {path} has no table [events]:{but} the default rules are measured", err=True)
    rules = rules_of(tables.get("events", {}), threshold)
    names_of(spec, rules)  # so that a class that the model does not have is told before hours of listening
    return rules


def _scenes(given: dict[str, Any], listener: Listener | None) -> Scenes:
    clips = ()
    config = NEGATIVES
    if "data" in given:
        manifest = read_manifest(given["data"], ReadOptions(classes=given["classes"]))
        clips, config = tuple(manifest.in_folds(given["fold"] or _held_out(manifest, listener))), _config(given)
    changes = {key: given[name] for name, key in (("level", "level_dbfs"), ("silence", "silence"))}
    config = replace(config, **{key: value for key, value in changes.items() if value is not None})
    backgrounds = read_backgrounds(given["backgrounds"] or _beside(given.get("data")), given["half"])
    cache = None if given["no_cache"] else given["cache"]
    if cache:
        require_place(cache, "--cache, or give --no-cache")
    return Scenes(config, clips, backgrounds, given["hours"] * 3600, given["seed"], cache)


def _places(given: dict[str, Any], listener: Listener) -> dict[str, Scenes]:
    """Backgrounds to learn from, others to count in, and events over these."""
    folders = given["backgrounds"] or _beside(given["data"])
    if not folders:
        raise click.UsageError("site needs --backgrounds")
    half = next(h for h in HALVES if h != given["half"]) if given["other_half"] else given["half"]
    there = given | {"backgrounds": folders, "half": half}
    alone = {key: value for key, value in there.items() if key != "data"}
    return {
        "place": _scenes(alone | {"half": given["half"]}, listener),
        "test": _scenes(alone | {"hours": given["test_hours"], "seed": given["seed"] + 1}, listener),
        "events": _scenes(there | {"hours": given["scene_hours"]}, listener),
    }


def _config(given: dict[str, Any]) -> SceneConfig:
    activity = Activity(merge_gap=given["merge_gap"], max_event=given["max_event"])
    return SceneConfig(
        snr_db=given["snr"],
        gap=given["gap"],
        overlap=given["overlap"],
        reverberation=given["reverberation"],
        activity=activity,
    )


def _held_out(manifest: Manifest, listener: Listener | None) -> list[int]:
    """The fold that the model has not learnt from, where it is known."""
    if listener and (folds := held_out(manifest, listener.spec.provenance)):
        return folds
    raise click.UsageError(f"which clips of {manifest.name} are held out of a model's training? give --fold")


def _beside(data: Path | None) -> list[Path]:
    """The backgrounds that lie beside a data set."""
    there = [data.absolute().parent / name for name in ("negatives", "noise")] if data else []
    return [folder for folder in there if folder.is_dir()][:1]


def _warn_of_strangers(scenes: Scenes, listener: Listener) -> None:
    strangers = sorted({label for clip in scenes.clips for label in clip.labels} - set(listener.spec.labels))
    if strangers:
        click.echo(f"warning: the model has no class {', '.join(strangers)}: their events count as missed", err=True)


def _report(heard: Sequence[Heard], listener: Listener, events: Any, given: dict[str, Any]) -> Figures:
    found = figures(score_all(heard, listener.spec, events))
    if given["curve"]:
        found["curve"] = operating_curve(heard, listener.spec, events)
    return found | _about(given, listener.spec)


def _about(given: dict[str, Any], spec: ModelSpec) -> Figures:
    """Of which model, and under which conditions."""
    hidden = ("json_path", "cache", "no_cache", "jobs")
    conditions = {key: value for key, value in given.items() if key not in hidden}
    conditions["model"] = given["model"] and Path(given["model"]).name
    return {
        "model": {"name": spec.name, "precision": spec.provenance.precision, "graph_sha256": spec.graph_sha256},
        "conditions": json.loads(json.dumps(conditions, default=lambda path: path.name)),
    }


def _tell(found: Figures, given: dict[str, Any]) -> None:
    tables = [summary(found)]
    if found["by_class"]:
        tables.append(class_table(found))
    if "curve" in found:
        tables.append(curve_table(found["curve"]))
    _hand_over(found, "\n\n".join(tables), given["json_path"])


def _hand_over(found: Figures, tables: str, path: Path | None) -> None:
    """Print ``tables``, and write ``found`` to ``path``; where that is STDOUT, ``found`` is printed instead."""
    if path == STDOUT:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(tables)
    if path:
        try:
            write_json(path, found)
        except OSError as error:
            why = f"{path} cannot be written: {error.strerror}"
            raise EdgeError(why, remedy="free some space, or name another --json") from None


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.soundscapes")
