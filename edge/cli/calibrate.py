"""``edge-calibrate``: thresholds for one place, by how many false alarms a day are allowed."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edge.cli.common import (
    Interrupts,
    OurCommand,
    channel_option,
    config_option_with,
    ends_well,
    log_to_stderr,
    model_option,
    options,
    tables_of,
    tuned_provider_option,
    tuned_threads_option,
    verbose_option,
    version_option,
)
from edge.errors import SettingsError
from edge.rules import EventConfig, events_of

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Settings:
    """What ``edge-calibrate`` was asked to do; the options hold the defaults."""

    model: str | None
    provider: str
    threads: int | None
    input: tuple[Path, ...]  # recordings and folders of them; empty: the microphone
    device: str | None
    channel: int | None
    duration: float | None  # seconds of sound in all; None: until it ends
    max_false_per_day: float
    events: EventConfig


def seconds_of(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Callback of ``--duration``: seconds, or 30m, 4h, 1d."""
    if value is None:
        return None
    number, unit = (value[:-1], value[-1]) if value[-1:] in UNITS else (value, "s")
    try:
        seconds = float(number) * UNITS[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise click.BadParameter(f"{value!r} is no time; allowed: seconds, or as 30m, 4h, 1d", context, parameter)
    return seconds


@click.command(
    cls=OurCommand, context_settings={"auto_envvar_prefix": "EDGE_CALIBRATE", "help_option_names": ["-h", "--help"]}
)
@options(
    config_option_with("events"),
    model_option,
    tuned_provider_option,
    tuned_threads_option,
    click.option(
        "--input",
        multiple=True,
        type=click.Path(exists=True, path_type=Path),
        show_default="the microphone",
        help="Recording, or a folder of them; repeatable.",
    ),
    click.option("--device", show_default="the system's", help="Microphone: index, id or a part of its name."),
    channel_option,
    click.option(
        "--duration", callback=seconds_of, show_default="until it ends, or Ctrl-C", help="Time to listen, as 4h or 30m."
    ),
    click.option(
        "--max-false-per-day",
        type=click.FloatRange(0, min_open=True),
        default=1.0,
        show_default=True,
        help="False alarms that are allowed, of all labels together.",
    ),
    click.option(
        "--site",
        type=click.Path(dir_okay=False, path_type=Path),
        show_default="where edge-listen finds it by itself",
        help="File that the thresholds go to.",
    ),
    click.option("--undo", is_flag=True, allow_from_autoenv=False, help="Take the last calibration back, and exit."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    verbose_option,
    version_option,
)
@click.pass_context
def main(
    context: click.Context,
    /,
    config: Path | None,
    site: Path | None,
    undo: bool,
    as_json: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Listen to a place where nothing is to be detected, and set thresholds so that it stays quiet.

    Whatever is heard meanwhile counts as a false alarm. Ctrl-C ends the listening early and uses what was heard.
    Exit codes are those of edge-listen.
    """
    interrupts = Interrupts()
    log_to_stderr(verbose)
    with ends_well():
        from edge.calibration import undo as take_back

        path = where(site)
        if undo:
            print(f"{path}: back to the calibration before" if take_back(path) else f"{path}: removed")
            return
        asked = Settings(**settings, events=events_of(tables_of(context).get("events", {})))
        if asked.input and asked.device:
            raise click.UsageError("--input and --device exclude each other")
        found = run(asked, interrupts)
        save(found, path)
        print(json.dumps(dataclasses.asdict(found), indent=2) if as_json else told(found, path))


def run(settings: Settings, interrupts: Interrupts) -> Any:
    """Listen; the :class:`edge.calibration.Site`. Raises EdgeError."""
    from edge.calibration import Calibration
    from edge.classifier import Classifier
    from edge.listener import listen
    from edge.records import rfc3339
    from edge.tuning import pick

    setup = pick(settings.model, settings.provider, settings.threads)
    classifier = Classifier(setup.model, provider=setup.provider, threads=setup.threads)
    spec = classifier.spec
    calibration = Calibration(spec, settings.events)
    hop_seconds = spec.hop_samples() / spec.frontend.sample_rate
    try:
        with interrupts.raised():
            for source in sources(settings):
                with closing(listen(source, classifier)) as windows:  # type: ignore[type-var]
                    for window in windows:
                        calibration.push(window, hop_seconds)
                        progress(calibration.seconds, settings.duration)
                        if settings.duration is not None and calibration.seconds >= settings.duration:
                            return calibration.site(settings.max_false_per_day, rfc3339(time.time()))
    except KeyboardInterrupt:
        pass
    return calibration.site(settings.max_false_per_day, rfc3339(time.time()))


def sources(settings: Settings) -> Iterator[Any]:
    """The recordings one after the other, or the microphone."""
    if settings.input:
        from edge.bulk import find_recordings
        from edge.sources.file import SoundFile

        yield from (SoundFile(path, channel=settings.channel) for path in find_recordings(settings.input))
    else:
        from edge.sources.microphone import Microphone

        yield Microphone(settings.device, channel=settings.channel)


def progress(seconds: float, wanted: float | None) -> None:
    """On a terminal, how long it has listened."""
    if sys.stderr.isatty():
        of = f" of {wanted / 60:.0f}" if wanted else ""
        print(f"\r{seconds / 60:.1f}{of} minutes heard", end="", file=sys.stderr, flush=True)


def where(site: Path | None) -> Path:
    """The file of the site. Raises SettingsError where there is no home to keep it in."""
    from edge.calibration import site_path

    path = site or site_path()
    if path is None:
        raise SettingsError("there is no home folder to keep the thresholds in", remedy="name a file with --site")
    return path


def save(site: Any, path: Path) -> None:
    """Keep it. Raises SettingsError."""
    try:
        site.save(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}", remedy="name another --site") from None


def told(site: Any, path: Path) -> str:
    """For people: what was set, and how sure it is."""
    raised = ", ".join(f"{label} {score:.3g}" for label, score in sorted(site.thresholds.items()))
    lines = [
        f"listened for {site.hours:.2f} hours; thresholds for {site.max_false_per_day:g} false alarms a day:",
        f"  raised: {raised or 'none, those of the model suffice'}",
        f"  muted, because no threshold suffices: {_list(site.muted)}",
        f"  expected, by the tails of the scores: {site.expected_per_day:.2g} a day",
        f"  proven by counting alone: {site.heard} would have been told; with 95 % confidence at most "
        f"{site.at_most_per_day:.2g} a day",
    ]
    if site.at_most_per_day > site.max_false_per_day:
        days = 3 / site.max_false_per_day
        lines.append(
            f"  counting alone proves {site.max_false_per_day:g} a day after {days:.2g} quiet days of listening"
        )
    return "\n".join([*lines, f"kept in {path}; edge-listen uses it; edge-calibrate --undo takes it back"])


def _list(labels: Sequence[str]) -> str:
    return ", ".join(labels) or "none"


if __name__ == "__main__":
    main()
