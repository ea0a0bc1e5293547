"""``edge-listen``: live classification of a microphone, a recording or a pipe."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

import edge
from edge.cli.common import (
    channel_option,
    config_option,
    fail,
    log_settings,
    log_to_stderr,
    model_options,
)
from edge.errors import EdgeError

log = logging.getLogger("edge.listen")


@dataclass(frozen=True)
class Settings:
    """What ``edge-listen`` was asked to do."""

    model: Path | None = None  # None: the bundled one
    provider: str = "auto"
    threads: int = 1
    input: str | None = None  # a file, "-" for raw PCM on standard input, None for the microphone
    device: str | None = None
    channel: int | None = None  # None mixes
    realtime: bool = False
    pcm_rate: int | None = None  # Hz, of standard input; None: the model's
    pcm_channels: int = 1
    hop: float = 0.5  # seconds
    threshold: float | None = None  # None: the model's
    top_k: int = 3
    duration: float | None = None  # seconds of stream; None: until it ends
    output: str = "text"  # live, text or jsonl
    verbose: bool = False


@click.command(context_settings={"auto_envvar_prefix": "EDGE_LISTEN", "help_option_names": ["-h", "--help"]})
@config_option
@model_options
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Of the network.")
@click.option("--input", help="Sound file instead of the microphone; - reads raw 16-bit PCM from standard input.")
@click.option("--device", help="Microphone: index, id or a part of its name. [default: the system's]")
@channel_option
@click.option("--list-devices", is_flag=True, help="Show the input devices and exit.")
@click.option("--realtime", is_flag=True, help="Play a file at its own speed instead of as fast as possible.")
@click.option("--pcm-rate", type=click.IntRange(1000, 768000), help="Hz, of standard input. [default: the model's]")
@click.option("--pcm-channels", type=click.IntRange(1, 64), default=1, show_default=True, help="Of standard input.")
@click.option("--hop", type=float, default=0.5, show_default=True, help="Seconds between decisions, or the nearest.")
@click.option(
    "--threshold", type=click.FloatRange(0, 1), help="Score from which a class is named. [default: the model's, or 0.5]"
)
@click.option("--top-k", type=click.IntRange(1), default=3, show_default=True, help="Classes shown of each window.")
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="Stop after so many seconds of sound.")
@click.option(
    "--output",
    type=click.Choice(["live", "text", "jsonl"]),
    help="[default: live on a terminal, text elsewhere]",
)
@click.option("-v", "--verbose", is_flag=True, help="Show the effective settings, and every window as text.")
@click.version_option(edge.__version__, prog_name="edge-listen")
@click.pass_context
def main(context: click.Context, /, config: Path | None, list_devices: bool, **options: Any) -> None:
    """Classify what the microphone hears, continuously.

    Results go to stdout, logs to stderr. Every option can also be set in the environment (EDGE_LISTEN_THRESHOLD=0.7)
    or in a TOML file (--config). Exit codes: 0 ended or interrupted, 2 usage, 3 model, 4 microphone, 5 recording,
    6 provider.
    """
    log_to_stderr(options["verbose"])
    log_settings(context)
    if options["input"] is not None and options["device"] is not None:
        raise click.UsageError("--input and --device exclude each other")
    options["output"] = options["output"] or ("live" if sys.stdout.isatty() else "text")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if list_devices:
            print_devices()
        else:
            run(Settings(**options), [make_sink(options["output"], options["verbose"])])
    except EdgeError as error:
        fail(error)
    except BrokenPipeError:  # the reader of our output has gone, which is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(settings: Settings, sinks: Sequence[Any]) -> None:
    """Listen until the source ends, the duration is over or a signal comes.

    Raises:
        EdgeError: after an error record has gone to the sinks.
    """
    from edge.classifier import Classifier
    from edge.records import error_record

    def send(record: dict[str, Any]) -> None:
        for sink in sinks:
            sink.write(record)

    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(closing(sink))
        try:
            classifier = Classifier(settings.model, provider=settings.provider, threads=settings.threads)
            source = make_source(settings, classifier.spec.frontend.sample_rate)
            classifier.spec.hop_frames(settings.hop)  # refuse an impossible hop before anything is opened
        except EdgeError as error:
            send(error_record(settings.input or settings.device or "microphone", error))
            raise
        _listen(settings, classifier, source, send)


def _listen(settings: Settings, classifier: Any, source: Any, send: Callable[[dict[str, Any]], None]) -> None:
    """Records from start to end. Raises EdgeError after both an error record and the summary."""
    from edge.listener import listen
    from edge.records import Recorder, error_record

    spec = classifier.spec
    hop_seconds = spec.hop_frames(settings.hop) * spec.frontend.hop_length / spec.frontend.sample_rate
    if abs(hop_seconds - settings.hop) > 1e-9:
        log.info("hop of %g s: the nearest that the model can is %g s", settings.hop, hop_seconds)
    recorder = Recorder(source, classifier, hop_seconds=hop_seconds, threshold=settings.threshold, top_k=settings.top_k)
    send(recorder.start())
    reason = "end of input"
    try:
        for window in listen(source, classifier, settings.hop):
            for record in recorder.window(window):
                send(record)
                if record["type"] == "status":
                    _log_status(record)
            if settings.duration is not None and window.offset >= settings.duration:
                reason = "duration"
                break
    except KeyboardInterrupt:
        reason = "interrupted"
    except EdgeError as error:
        send(error_record(source.name, error))
        send(recorder.end("error"))
        raise
    send(recorder.end(reason))


def make_source(settings: Settings, sample_rate: int) -> Any:
    """The source that the settings name, found and checked but not yet running. Raises EdgeError."""
    if settings.input == "-":
        from edge.sources.pcm import PcmStream

        rate = settings.pcm_rate or sample_rate
        return PcmStream(rate, settings.pcm_channels, channel=settings.channel)
    if settings.input is not None:
        from edge.sources.file import SoundFile

        return SoundFile(settings.input, channel=settings.channel, realtime=settings.realtime)
    from edge.sources.microphone import Microphone

    microphone = Microphone(settings.device, channel=settings.channel)
    microphone.open()
    return microphone


def make_sink(output: str, verbose: bool) -> Any:
    """The sink of ``--output``."""
    if output == "jsonl":
        from edge.sinks.jsonl import JsonLines

        return JsonLines(sys.stdout)
    if output == "text":
        from edge.sinks.text import Text

        return Text(sys.stdout, every=verbose)
    from edge.sinks.live import LiveView

    return LiveView()


def print_devices() -> None:
    """The input devices, the default one marked with a star. Raises DeviceError."""
    from edge.sources.devices import input_devices

    devices = input_devices()
    if not devices:
        print("no input devices", file=sys.stderr)
    for d in devices:
        star = "*" if d.is_default else " "
        print(f"{star} {d.index:3}  {d.name}  ({d.channels} channels, {d.default_rate} Hz)  id: {d.id}")


def _log_status(record: dict[str, Any]) -> None:
    """What a person must know of a status, on stderr."""
    from edge.sinks.text import SILENT

    if record["silent"]:
        log.warning(SILENT)
    if record["overflows"] or record["lost_samples"]:
        log.warning(
            "%d overflows, %d samples lost so far: the machine is too busy, or --hop too short",
            record["overflows"],
            record["lost_samples"],
        )


def _interrupt(signum: int, frame: Any) -> NoReturn:
    """SIGTERM ends like Ctrl-C: with a summary."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
