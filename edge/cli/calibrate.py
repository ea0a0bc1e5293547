"""``edge-calibrate``: thresholds for one place, by how many false alarms a day are allowed."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.cli.common import (
    Interrupts,
    OurCommand,
    channel_option,
    config_option_with,
    ends_well,
    hop_option,
    log_settings,
    log_to_stderr,
    model_option,
    one_of,
    options,
    tables_of,
    tuned_provider_option,
    tuned_threads_option,
    verbose_option,
    version_option,
)
from edge.errors import EdgeError, InputError, SettingsError
from edge.rules import EventConfig, events_of
from edge.sources.block import Outage, Source

if TYPE_CHECKING:
    from edge.calibration import Calibration, Site
    from edge.classifier import Classifier

log = logging.getLogger("edge.calibrate")

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
    hop: float | None  # seconds; None: the model's default
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
    if not 0 < seconds < math.inf:
        raise click.BadParameter(f"{value!r} is no time; allowed: seconds, or as 30m, 4h, 1d", context, parameter)
    return seconds


def budget(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Callback of ``--max-false-per-day``: a number that a promise can be made of."""
    if not 0 < value < math.inf:
        raise click.BadParameter(f"{value:g} is no number of events; allowed: any above 0", context, parameter)
    return value


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
        type=click.Path(exists=True, readable=False, path_type=Path),
        show_default="the microphone",
        help="Recording, or a folder of them; repeatable.",
    ),
    click.option("--device", show_default="the system's", help="Microphone: index, id or a part of its name."),
    channel_option,
    hop_option,
    click.option(
        "--duration", callback=seconds_of, show_default="until it ends, or Ctrl-C", help="Time to listen, as 4h or 30m."
    ),
    click.option(
        "--max-false-per-day",
        type=float,
        callback=budget,
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
    log_settings(context)
    with ends_well():
        from edge.calibration import require_enough, require_place
        from edge.calibration import undo as take_back

        path = where(site)
        if undo:
            print(f"{path}: back to the calibration before" if take_back(path) else f"{path}: removed")
            return
        one_of(context, "input", "device")
        settings |= {name: context.params[name] for name in ("input", "device")}
        asked = Settings(**settings, events=events_of(tables_of(context).get("events", {})))
        require_enough(asked.duration)  # and a place for it: hours of listening are not to be in vain
        require_place(path)
        found = run(asked, interrupts)
        document = json.dumps(dataclasses.asdict(found), indent=2)
        try:
            save(found, path)
        except SettingsError:
            print(document)
            raise
        print(document if as_json else told(found, path, named=site is not None))


def run(settings: Settings, interrupts: Interrupts) -> Site:
    """Listen; the :class:`edge.calibration.Site`. What cannot be read is logged, and left out. Raises EdgeError."""
    from edge.calibration import Calibration
    from edge.classifier import Classifier
    from edge.records import rfc3339
    from edge.tuning import pick

    setup = pick(settings.model, settings.provider, settings.threads)
    classifier = Classifier(setup.model, provider=setup.provider, threads=setup.threads)
    spec = classifier.spec
    calibration, unreadable = Calibration(spec, settings.events, settings.hop), 0
    with suppress(KeyboardInterrupt), interrupts.raised():
        for source in sources(settings):
            try:
                if hear(source, classifier, calibration, settings.hop, settings.duration):
                    break
            except EdgeError as error:
                if not settings.input and not calibration.seconds:
                    raise  # there is no microphone
                log.error("%s", error)
                unreadable += 1
    if unreadable and not calibration.seconds:
        raise InputError(f"{unreadable} recordings could not be read, and no other was", remedy="see above")
    return calibration.site(settings.max_false_per_day, rfc3339(time.time()))


def hear(
    source: Source, classifier: Classifier, calibration: Calibration, hop: float | None, duration: float | None
) -> bool:
    """All of ``source``, or as much as makes ``duration`` seconds in all: whether it did. Raises EdgeError."""
    from edge.listener import Window, attend

    calibration.pause()
    away = False
    with closing(attend(source, classifier, hop)) as told:  # type: ignore[type-var]
        for news in told:
            if isinstance(news, Window):
                away = False
                calibration.push(news)
                progress(calibration.seconds, duration)
                if duration is not None and calibration.seconds >= duration:
                    return True
            elif isinstance(news, Outage) and not away:
                away = True
                calibration.pause()
                log.warning("%s: waiting for it (%s)", news.message, news.remedy)
    return False


def sources(settings: Settings) -> Iterator[Source]:
    """The recordings one after the other, or the microphone. Raises InputError where there is none."""
    from edge.bulk import find_recordings
    from edge.cli.sources import make_source

    if not settings.input:
        yield make_source(None, settings.device, settings.channel, realtime=True)
        return
    for path in find_recordings(settings.input):
        yield make_source(str(path), None, settings.channel, realtime=False)


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


def save(site: Site, path: Path) -> None:
    """Keep it. Raises SettingsError."""
    try:
        site.save(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}", remedy="name another --site") from None


def told(site: Site, path: Path, *, named: bool) -> str:
    """For people: what was set, and how sure it is. ``named``: the user has chosen ``path``."""
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
    option = f" --site {shlex.quote(str(path))}" if named else ""
    last = f"kept in {path}; edge-listen{option} uses it; edge-calibrate{option} --undo takes it back"
    return "\n".join([*lines, last])


def _list(labels: Sequence[str]) -> str:
    return ", ".join(labels) or "none"


if __name__ == "__main__":
    main()
