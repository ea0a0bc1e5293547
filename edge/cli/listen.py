"""``edge-listen``: live classification of a microphone, a recording or a pipe."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
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
    output_within,
    tables_of,
    threshold_option_with,
    tuned_provider_option,
    tuned_threads_option,
    verbose_option,
    version_option,
)
from edge.cli.number import Finite
from edge.errors import EdgeError, SettingsError
from edge.rules import EventConfig
from edge.secret import is_url, without_password
from edge.settings import settings_of

if TYPE_CHECKING:
    from edge.board import Board
    from edge.cli.sources import SourceConfig
    from edge.clips import ClipsConfig
    from edge.notify import Notifier
    from edge.records import Record
    from edge.session import Session
    from edge.several import Several
    from edge.sinks import Sink


log = logging.getLogger("edge.listen")

ARGUMENTS = "edge.arguments"  # in the context: those of the command line
OUTPUT_SECONDS = 0.5  # that the output may keep us waiting at the end
SINKS = ("log", "db", "mqtt", "home_assistant", "webhook", "exec", "metrics")  # options that ask for one
TABLES = ("events", "sources", "sinks", "clips", "update")  # of the configuration file
SEVERAL = {  # options → the tables that name several of what they name one of
    "input": "[[sources]]",
    "device": "[[sources]]",
    "log": "[[sinks.file]]",
    "db": "[[sinks.store]]",
    "mqtt": "[[sinks.mqtt]]",
    "webhook": "[[sinks.webhook]]",
    "exec": "[[sinks.command]]",
}


@dataclass(frozen=True)
class Settings:
    """What ``edge-listen`` was asked to do; the options hold the defaults."""

    model: str | None  # as edge.models.resolve takes it; None: the bundled one
    provider: str
    threads: int | None  # None, as "auto" of the provider: the pick of edge-bench --tune
    input: str | None  # a file, "-" for raw PCM on standard input, None for the microphone
    device: str | None
    channel: int | None  # None mixes
    realtime: bool
    wait: bool  # for a microphone or a URL that is not there at the start
    pcm_rate: int | None  # Hz, of standard input; None: the model's
    pcm_channels: int
    hop: float | None  # seconds; None: the model's default
    events: EventConfig
    sources: tuple[SourceConfig, ...]  # several, instead of input or device
    event_table: dict[str, Any]  # [events] as it stands in the configuration file, for sources that add to it
    threshold: float | None  # of --threshold, which comes before that of the file
    clips: ClipsConfig
    keep_voices: bool  # in clips
    site: Path | None  # of edge-calibrate; None: where that keeps it, if it is there
    top_k: int
    duration: float | None  # seconds of stream; None: until it ends
    output: str  # live, text or jsonl
    verbose: bool


class Repeatable(OurCommand):
    """Keeps its arguments, so that it can be asked the same again."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """See click."""
        context.meta[ARGUMENTS] = list(args)
        return super().parse_args(context, args)

    def for_several(self, parameter: click.Parameter) -> str:
        """See :class:`OurCommand`."""
        table = SEVERAL.get(parameter.name or "")
        return f"several are tables {table} of a file for --config" if table else super().for_several(parameter)


@click.command(
    cls=Repeatable, context_settings={"auto_envvar_prefix": "EDGE_LISTEN", "help_option_names": ["-h", "--help"]}
)
@options(
    config_option_with(*TABLES),
    model_option,
    tuned_provider_option,
    tuned_threads_option,
    click.option(
        "--input", show_default="the microphone", help="Sound file, or URL by ffmpeg; - reads raw PCM of 16 bits."
    ),
    click.option("--device", show_default="the system's", help="Microphone: index, id or a part of its name."),
    channel_option,
    click.option("--list-devices", is_flag=True, allow_from_autoenv=False, help="Show the input devices and exit."),
    click.option("--realtime", is_flag=True, help="Play a file at its own speed instead of as fast as possible."),
    click.option("--wait", is_flag=True, help="Start without the microphone, or the stream, and wait for it."),
    click.option(
        "--pcm-rate", type=click.IntRange(1000, 768000), show_default="the model's", help="Hz, of standard input."
    ),
    click.option("--pcm-channels", type=click.IntRange(1, 64), default=1, show_default=True, help="Of standard input."),
    hop_option,
    threshold_option_with("what edge-calibrate has found, else the model's, else 0.5"),
    click.option(
        "--site",
        type=click.Path(dir_okay=False, path_type=Path),
        show_default="what edge-calibrate has kept, if anything",
        help="Thresholds of edge-calibrate.",
    ),
    click.option("--top-k", type=click.IntRange(1), default=3, show_default=True, help="Classes shown of each window."),
    click.option(
        "--duration",
        type=Finite(0, min_open=True),
        show_default="until it ends",
        help="Stop after so many seconds of sound.",
    ),
    click.option(
        "--output",
        type=click.Choice(["live", "text", "jsonl", "none"]),
        show_default="live on a terminal, text elsewhere",
        help="How results are shown; text names each event, with -v every window.",
    ),
    click.option("--log", type=click.Path(dir_okay=False), help="File of JSON Lines, rotated."),
    click.option("--db", type=click.Path(dir_okay=False), help="Database of events, which edge-events reads."),
    click.option("--mqtt", metavar="HOST[:PORT]", help="MQTT broker that events are published to."),
    click.option("--home-assistant", metavar="HOST[:PORT]", help="The same for Home Assistant, with its discovery."),
    click.option("--webhook", metavar="URL", help="Where events are posted to, as JSON."),
    click.option("--exec", metavar="COMMAND", help="Program that is run for each event, with its JSON as input."),
    click.option("--metrics", metavar="[ADDRESS:]PORT", help="Serve Prometheus metrics. [default address: 127.0.0.1]"),
    click.option("--clips", type=click.Path(file_okay=False), help="Folder for the sound of events. [default: none]"),
    click.option("--keep-voices", is_flag=True, help="Also keep clips in which somebody speaks."),
    click.option(
        "--privacy",
        type=click.Choice(["default", "ram-only"]),
        default="default",
        show_default=True,
        help="ram-only refuses whatever would store or send sound.",
    ),
    verbose_option,
    version_option,
)
@click.pass_context
def main(context: click.Context, /, config: Path | None, list_devices: bool, **settings: Any) -> None:
    """Classify what the microphone hears, continuously.

    Results go to stdout, logs to stderr. Every option can also be set in the environment (EDGE_LISTEN_THRESHOLD=0.7)
    or in a TOML file (--config). Exit codes: 0 ended or interrupted, 1 the output cannot be written, 2 usage, 3 model,
    4 microphone, 5 recording, 6 provider, 7 a place for records, 8 the database, 9 an update.
    """
    interrupts = Interrupts(partial(renewable, context))
    log_to_stderr(settings["verbose"])
    log_settings(context)
    with ends_well():
        if list_devices:
            print_devices()
            return
        asked: Asked | None = asked_of(context)
        while asked is not None:
            asked = run(context, asked, interrupts)


@dataclass(frozen=True)
class Asked:
    """What the options and the configuration file say together."""

    settings: Settings
    tables: dict[str, Any]  # of the file
    options: dict[str, Any]  # that ask for a sink


def asked_of(context: click.Context) -> Asked:
    """Raises EdgeError, and click's errors."""
    one_of(context, "input", "device")
    options = {name: value for name, value in context.params.items() if name not in ("config", "list_devices")}
    if options["output"] is None:
        options["output"] = "live" if sys.stdout.isatty() else "text"
    sinks = {name: options.pop(name) for name in SINKS}
    tables = tables_of(context)
    require_one_place(context, tables)
    return Asked(settings_from(options, tables), tables, sinks)


def renewable(context: click.Context) -> bool:
    """Whether the same arguments ask for what can be, now that files may be others; else it is logged, and all goes on.

    What is open stays so. Therefore what cannot be open twice, such as a port, shows in :func:`renewed` alone.
    """
    from edge.board import Board
    from edge.cli.opening import open_sessions
    from edge.cli.sinks import try_sinks

    with unchanged_by_mistakes():
        asked = asked_again(context)
        try_sinks(asked.tables.get("sinks", {}), asked.options)
        clips = replace(asked.settings.clips, folder="")  # its half written files are those of what is open
        open_sessions(replace(asked.settings, clips=clips), Board())
        return True
    return False


def renewed(context: click.Context, before: Asked) -> Asked:
    """What the same arguments ask for now, where it can be; else ``before``."""
    from edge.board import Board
    from edge.cli.opening import open_sessions

    with unchanged_by_mistakes():
        asked = asked_again(context)
        with closing(Spread(sinks_of(asked, Board()))):  # all of it is made once, to see that it can be
            open_sessions(asked.settings, Board())
        log.info("settings and model are read again")
        return asked
    return before


def asked_again(context: click.Context) -> Asked:
    """As :func:`asked_of`, from the arguments of ``context``, and the configuration file as it is now."""
    return asked_of(context.command.make_context(context.info_name, list(context.meta[ARGUMENTS])))


@contextmanager
def unchanged_by_mistakes() -> Iterator[None]:
    """Within, what cannot be is logged, and ends what is within."""
    try:
        yield
    except (EdgeError, click.ClickException) as error:
        why = error.format_message() if isinstance(error, click.ClickException) else error
        log.error("nothing is changed: %s", why)


def require_one_place(context: click.Context, tables: dict[str, Any]) -> None:
    """Raises SettingsError for a file that names one source beside its table of several."""
    for name in ("input", "device"):
        in_file = context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP
        if "sources" in tables and in_file and context.params[name] not in (None, ()):
            raise SettingsError(f"the file has {name} beside [[sources]]", remedy="leave one of them out")


def settings_from(options: dict[str, Any], tables: dict[str, Any]) -> Settings:
    """The settings that the options and the tables of the configuration file make together. Raises EdgeError."""
    from edge.cli.sources import rules_of, source_configs
    from edge.clips import ClipsConfig
    from edge.privacy import RAM_ONLY, require_ram_only

    threshold, privacy, folder = (options.pop(name) for name in ("threshold", "privacy", "clips"))
    table = tables.get("events", {})
    events = rules_of(table, threshold)
    clips = settings_of(ClipsConfig, tables.get("clips", {}), "clips")
    clips = replace(clips, folder=folder or clips.folder)
    if privacy == RAM_ONLY:
        require_ram_only({"clips": clips.folder})
    options["model"] = model_of(options["model"], tables)
    one = options["input"] is not None or options["device"] is not None  # it comes before [[sources]]
    configs = [] if one or "sources" not in tables else source_configs(tables["sources"])
    channel, realtime = options["channel"], options["realtime"]
    sources = tuple(
        replace(c, channel=channel if c.channel is None else c.channel, realtime=c.realtime or realtime)
        for c in configs
    )
    if sources and options["output"] == "live":
        options["output"] = "text"  # the live view shows one source
    return Settings(**options, events=events, sources=sources, event_table=table, threshold=threshold, clips=clips)


def model_of(model: str | None, tables: dict[str, Any]) -> str | None:
    """``--model``; of edge-update, in the folder that the table [update] names. Raises EdgeError."""
    if "update" not in tables:
        return model
    from edge.update.updates import UpdateConfig

    update = settings_of(UpdateConfig, tables["update"], "update")
    return f"update:{update.versions().folder}" if model == "update" else model


def run(context: click.Context, asked: Asked, interrupts: Interrupts) -> Asked | None:
    """Listen until the source ends, the duration is over or a signal comes; what to go on with after SIGHUP.

    Raises:
        EdgeError: after an error record has gone to the sinks.
        OSError: the output cannot be written; the other sinks have all records, also those of the end.
    """
    from edge.board import Board
    from edge.notify import Notifier

    board = Board()
    with Notifier(board) as notifier:  # to the end of the reading: the watchdog waits for that as well
        if not listened(asked, board, notifier, interrupts):
            return None
        following = renewed(context, asked)
    return None if interrupts.noted else following


def listened(asked: Asked, board: Board, notifier: Notifier, interrupts: Interrupts) -> bool:
    """Listen; whether SIGHUP has ended it. Raises as :func:`run`."""
    from edge.notify import RELOAD, RELOAD_SECONDS

    board.promise(RELOAD, RELOAD_SECONDS)
    with assembled(asked, board) as (listening, records, spread):
        board.leave(RELOAD)
        try:
            follow(listening, records, spread, interrupts)
        finally:
            if listening.patient:
                with suppress(KeyboardInterrupt), interrupts.raised():
                    spread.wait(to_end=True)
            again = interrupts.again()
            if again:
                notifier.reloading()
            else:
                notifier.stopping()
    return again


@contextmanager
def assembled(asked: Asked, board: Board) -> Iterator[tuple[Session | Several, Iterator[Record], Spread]]:
    """What listens, its records, and where they go; all of it is closed in the end. Raises EdgeError."""
    from edge.cli.sinks import asked_sinks, terminal_sinks, warn_of_labels
    from edge.records import error_record

    settings = asked.settings
    # The terminal comes last: what it does not take, all others have.
    spread = Spread([*sinks_of(asked, board), *terminal_sinks(settings.output, settings.verbose)])
    with closing(spread), ExitStack() as stack:
        from edge.cli.opening import on_probation, open_sessions

        try:
            stack.enter_context(on_probation(settings.model))
            listening, trials = open_sessions(settings, board)
            warn_of_labels(asked_sinks(asked.tables.get("sinks", {}), asked.options), listening.labels)
        except EdgeError as error:
            name = settings.input or settings.device or "microphone"
            spread.write(error_record(without_password(name) if is_url(name) else name, error))
            raise
        if trials is not None:
            spread.add(trials)
            trials.start()
            stack.enter_context(closing(trials))
        records = stack.enter_context(closing(listening.records()))
        yield listening, records, spread


def sinks_of(asked: Asked, board: Board) -> list[Sink]:
    """All but those of the terminal. Raises EdgeError."""
    from edge.cli.sinks import make_sinks

    clips, several = asked.settings.clips, len(asked.settings.sources) > 1
    folders = [Path(clips.folder)] if clips.folder else []
    return make_sinks(asked.tables.get("sinks", {}), asked.options, board=board, several=several, folders=folders)


def follow(listening: Session | Several, records: Iterator[Record], spread: Spread, interrupts: Interrupts) -> None:
    """Pass ``records`` on, to their end or a signal. Raises EdgeError and OSError."""
    failure: OSError | None = None
    try:
        with interrupts.raised():
            for record in records:
                spread.write(record)
                if listening.patient and record["type"] != "end":
                    spread.wait()
        return
    except KeyboardInterrupt:
        pass
    except OSError as error:
        failure = error
    for record in listening.interrupted():
        try:
            with output_within(OUTPUT_SECONDS):
                spread.write(record)
        except OSError as error:
            failure = error
    if failure is not None:
        raise failure


class Spread:
    """All sinks as one. One that fails gets nothing more; the others do."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks, self._working = tuple(sinks), list(sinks)

    def add(self, sink: Sink) -> None:
        """One more, before the others; it is not closed with them."""
        self._working.insert(0, sink)

    def write(self, record: Record) -> None:
        """To each in turn. Raises OSError: the output is not taken."""
        for sink in tuple(self._working):
            try:
                sink.write(record)
            except OSError:
                self._working.remove(sink)
                raise

    def wait(self, *, to_end: bool = False) -> None:
        """Until those that take their time can take more, or, ``to_end``, have all."""
        from edge.cli.sinks import Deliveries

        for sink in self._sinks:
            if isinstance(sink, Deliveries):
                sink.wait(to_end=to_end)

    def close(self) -> None:
        """Close each, the last one first."""
        with ExitStack() as stack:
            for sink in self._sinks:
                stack.enter_context(closing(sink))


def print_devices() -> None:
    """The input devices, the default one marked with a star. Raises DeviceError."""
    from edge.sources.devices import input_devices

    devices = input_devices()
    if not devices:
        print("no input devices", file=sys.stderr)
    for d in devices:
        star = "*" if d.is_default else " "
        print(f"{star} {d.index:3}  {d.name}  ({d.channels} channels, {d.default_rate} Hz)  id: {d.id}")


if __name__ == "__main__":
    main()
