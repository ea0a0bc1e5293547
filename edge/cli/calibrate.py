"""``edge-calibrate``: thresholds for one place, by how many false alarms a day are allowed."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

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
    threshold_option_with,
    tuned_provider_option,
    tuned_threads_option,
    verbose_option,
    version_option,
)
from edge.cli.listen import TABLES, model_of, require_one_place
from edge.cli.listen import main as edge_listen
from edge.errors import EdgeError, InputError, SettingsError
from edge.rules import EventConfig
from edge.secret import is_url
from edge.sources.block import Outage, Source

if TYPE_CHECKING:
    from edge.calibration import Calibration, Site
    from edge.classifier import Classifier
    from edge.cli.sources import SourceConfig

log = logging.getLogger("edge.calibrate")

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Settings:
    """What ``edge-calibrate`` was asked to do; the options hold the defaults."""

    model: str | None
    provider: str
    threads: int | None
    input: tuple[Path | str, ...]  # recordings and folders of them, or one URL; empty: the microphone
    device: str | None
    channel: int | None
    hop: float | None  # seconds; None: the model's default
    duration: float | None  # seconds of sound in all; None: until it ends
    max_false_per_day: float
    events: EventConfig

    @property
    def live(self) -> bool:
        """Whether it is a microphone or a stream: that is waited for when it goes away, and may have no end."""
        return not self.input or isinstance(self.input[0], str)


class PathOrUrl(click.Path):
    """A path, or the URL of a stream."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click."""
        return value if isinstance(value, str) and is_url(value) else super().convert(value, param, ctx)


def sounds(context: click.Context, parameter: click.Parameter, value: tuple[Path | str, ...]) -> tuple[Path | str, ...]:
    """Callback of ``--input``: nothing beside a URL, which may have no end."""
    if len(value) > 1 and any(isinstance(item, str) for item in value):
        raise click.BadParameter("a URL is listened to alone: give one, or recordings", context, parameter)
    return value


def require_sounds(asked: Sequence[Path | str]) -> None:
    """Raises SettingsError for standard input, and for a path that is not there. Of the file of edge-listen, only what
    is listened to counts.
    """
    for item in asked:
        if item == Path("-"):
            raise SettingsError("standard input is for edge-listen alone", remedy="give recordings, a URL or --device")
        if isinstance(item, Path) and not os.path.exists(item):  # noqa: PTH110  (it never raises)
            raise SettingsError(f"{str(item)!r} does not exist", remedy="check the path")


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
    config_option_with(*TABLES, of=edge_listen),
    click.option(
        "--source", metavar="NAME", show_default="the only one", help="Of a file's several [[sources]]: which."
    ),
    model_option,
    tuned_provider_option,
    tuned_threads_option,
    click.option(
        "--input",
        multiple=True,
        type=PathOrUrl(readable=False, path_type=Path),
        metavar="FILE|FOLDER|URL",
        callback=sounds,
        show_default="the microphone",
        help="Recording, or a folder of them; repeatable. Or a stream, by ffmpeg.",
    ),
    click.option("--device", show_default="the system's", help="Microphone: index, id or a part of its name."),
    channel_option,
    hop_option,
    threshold_option_with("the model's, else 0.5"),
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
    undo: bool,
    as_json: bool,
    verbose: bool,
    **_: Any,
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

        one_of(context, "input", "device")
        source = chosen(context)
        path, options = where(context, source)
        if undo:
            print(f"{path}: back to the calibration before" if take_back(path) else f"{path}: removed")
            return
        require_sounds(context.params["input"])
        asked = settings_from(context, source)
        require_enough(asked.duration)  # and a place for it: hours of listening are not to be in vain
        require_place(path)
        warn_of_thresholds(asked.events)
        found = run(asked, interrupts)
        document = json.dumps(dataclasses.asdict(found), indent=2)
        try:
            save(found, path)
        except SettingsError:
            print(document)
            raise
        print(document if as_json else told(found, path, asked.events, *options))


def chosen(context: click.Context) -> SourceConfig | None:
    """The table of [[sources]] that --source names, or the only one; None where there is none, or something else is
    listened to. Raises SettingsError.
    """
    from edge.cli.sources import source_configs

    tables, name = tables_of(context), context.params["source"]
    require_one_place(context, tables)
    elsewhere = context.params["input"] != () or context.params["device"] is not None
    if name is None and (elsewhere or "sources" not in tables):
        return None
    configs = source_configs(tables["sources"]) if "sources" in tables else []
    names = ", ".join(config.name for config in configs) or "none; name a file with tables [[sources]] by --config"
    found = [config for config in configs if name in (None, config.name)]
    if not found:
        raise SettingsError(f"there is no source {name!r}", remedy=f"there are: {names}")
    if len(found) > 1:
        raise SettingsError(f"the file has {len(found)} sources", remedy=f"take one by --source: {names}")
    if len(configs) > 1 and not found[0].site and not named_nearer(context, "site"):
        log.warning("%s has no site of its own: what is learnt there is of all sources without one", found[0].name)
    return found[0]


def settings_from(context: click.Context, source: SourceConfig | None) -> Settings:
    """What the options and the configuration file ask for; of a ``source``, what its table says comes first, but for
    --input and --device. Raises EdgeError.
    """
    from edge.cli.sources import rules_of

    tables = tables_of(context)
    asked = {field.name: context.params[field.name] for field in dataclasses.fields(Settings) if field.name != "events"}
    asked["model"] = model_of(asked["model"], tables)
    more: dict[str, Any] = {}
    if source is not None:
        more = source.events
        if asked["input"] == () and asked["device"] is None:
            asked["input"] = (source.input if is_url(source.input) else Path(source.input),) if source.input else ()
            asked["device"] = source.device or None
        asked["channel"] = asked["channel"] if source.channel is None else source.channel
    where = "events" if source is None else f"events of {source.name}"
    return Settings(**asked, events=rules_of(tables.get("events", {}), context.params["threshold"], more, where))


def named_nearer(context: click.Context, name: str) -> bool:
    """Whether an option is given on the command line or in the environment, and not by a file."""
    return context.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def warn_of_thresholds(events: EventConfig) -> None:
    """Of the user's own thresholds, which come before those that will be learnt."""
    labels = [label for label, rule in events.labels.items() if rule.threshold is not None]
    if events.rule.threshold is not None or labels:
        whose = "all labels" if events.rule.threshold is not None else ", ".join(labels)
        log.warning(
            "the thresholds that you name for %s come before those that are learnt: where they are too low, the "
            "promise does not hold",
            whose,
        )


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
                if settings.live and not calibration.seconds:
                    raise  # it is not there
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
    """The recordings one after the other, or the microphone or stream. Raises InputError where there is none."""
    from edge.bulk import find_recordings
    from edge.cli.sources import make_source

    if settings.live:
        url = str(settings.input[0]) if settings.input else None
        yield make_source(url, settings.device, settings.channel, realtime=True)
        return
    for path in find_recordings(map(Path, settings.input)):
        yield make_source(str(path), None, settings.channel, realtime=False)


def progress(seconds: float, wanted: float | None) -> None:
    """On a terminal, how long it has listened."""
    if sys.stderr.isatty():
        of = f" of {wanted / 60:.0f}" if wanted else ""
        print(f"\r{seconds / 60:.1f}{of} minutes heard", end="", file=sys.stderr, flush=True)


def where(context: click.Context, source: SourceConfig | None) -> tuple[Path, tuple[str, str]]:
    """The file of the site, and the options by which edge-listen and edge-calibrate find it again. Raises SettingsError
    where there is no home to keep it in.
    """
    from edge.calibration import site_path

    site: Path | None = context.params["site"]
    if site is not None and named_nearer(context, "site"):
        option = f" --site {shlex.quote(str(site))}"
        return site, (option, option)
    kept = Path(source.site) if source is not None and source.site else site
    if kept is not None:  # the file says so
        option = f" --config {shlex.quote(str(context.params['config']))}"
        name = context.params["source"]
        return kept, (option, option + (f" --source {shlex.quote(name)}" if name else ""))
    path = site_path()
    if path is None:
        raise SettingsError("there is no home folder to keep the thresholds in", remedy="name a file with --site")
    return path, ("", "")


def save(site: Site, path: Path) -> None:
    """Keep it. Raises SettingsError."""
    try:
        site.save(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}", remedy="name another --site") from None


def told(site: Site, path: Path, events: EventConfig, listen: str, calibrate: str) -> str:
    """For people: what was set, and how sure it is. ``listen`` and ``calibrate`` are the options by which the commands
    find ``path``.
    """
    raised = ", ".join(f"{label} {score:.3g}" for label, score in sorted(site.thresholds.items()))
    lines = [
        f"listened for {site.hours:.2f} hours; thresholds for {site.max_false_per_day:g} false alarms a day:",
        f"  raised: {raised or 'none, those of the model suffice'}",
        f"  muted, because no threshold suffices: {_list(site.muted)}",
        f"  expected, by the tails of the scores: {site.expected_per_day:.2g} a day",
        f"  proven by counting alone: {site.heard} would have been told; with 95 % confidence at most "
        f"{site.at_most_per_day:.2g} a day",
    ]
    own = [label for label in sorted(site.thresholds) if events.labels.get(label, events.rule).threshold is not None]
    if own:
        lines.append(f"  not used while you name a lower threshold, with which the promise does not hold: {_list(own)}")
    if site.at_most_per_day > site.max_false_per_day:
        days = 3 / site.max_false_per_day
        lines.append(
            f"  counting alone proves {site.max_false_per_day:g} a day after {days:.2g} quiet days of listening"
        )
    last = f"kept in {path}; edge-listen{listen} uses it; edge-calibrate{calibrate} --undo takes it back"
    return "\n".join([*lines, last])


def _list(labels: Sequence[str]) -> str:
    return ", ".join(labels) or "none"


if __name__ == "__main__":
    main()
