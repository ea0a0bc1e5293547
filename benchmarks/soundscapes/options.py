"""What the commands can be told, and what of it is refused before hours are listened to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmarks.soundscapes.activity import FRAME, Activity
from benchmarks.soundscapes.scene import SceneConfig
from edge.bulk import SUFFIXES
from edge.cli.number import Finite
from edge.errors import SettingsError
from edge.files import require_file, require_folder
from train.negatives import HALVES

CACHE = Path(".cache/soundscapes")
STDOUT = Path("-")
YEAR = 8760  # hours
LOUDEST_DB = 200.0  # either way: beyond all sound, and far from where its power is too large for a number


class Span(click.ParamType):
    """A number of dB, or two with a comma between: at least, at most."""

    name = "number[,number]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, float]:
        """As a range."""
        if isinstance(value, tuple):
            return value
        try:
            low, high = [float(part) for part in value.split(",")] * (1 if "," in value else 2)
        except ValueError:
            self.fail(f"{value!r} is not one number, or two with a comma between", param, ctx)
        for number in (low, high):
            if not abs(number) <= LOUDEST_DB:
                self.fail(f"{number:g} is not in the range {-LOUDEST_DB:g}<=x<={LOUDEST_DB:g} (dB)", param, ctx)
        if low > high:
            self.fail(f"{value!r}: the first must not be above the second", param, ctx)
        return low, high


def require_place(folder: Path, option: str) -> None:
    """Makes ``folder``. Raises SettingsError where nothing can be written to it."""
    try:
        require_folder(folder)
    except OSError as error:
        raise _unwritable(folder, error, option) from None


def _unwritable(path: Path, error: OSError, option: str) -> SettingsError:
    return SettingsError(f"{path} cannot be written: {error.strerror}", remedy=f"name another {option}")


def _json_place(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Callback of ``--json``: hours of listening are not to be lost at its end."""
    if path is None or path == STDOUT:
        return path
    if path.suffix.lower() in SUFFIXES:  # of ``recordings --json a.wav`` it would be overwritten
        what = f"{path} has the name of a recording; give another FILE, or none: then put --json last"
        raise click.BadParameter(what, context, parameter)
    try:
        require_file(path)
    except OSError as error:
        raise _unwritable(path, error, "--json") from None
    return path


FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
SHARE = Finite(0, 1)
POSITIVE = Finite(min=0, min_open=True)
SOME_HOURS = Finite(min=0, max=YEAR, min_open=True)
SECONDS = Finite(min=0)

HALF = (click.option("--half", type=click.Choice(HALVES), help="Of the backgrounds' sources. [default: all]"),)
HOURS = (click.option("--hours", type=SOME_HOURS, default=1.0, show_default=True),)
SOUND = (
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option("--backgrounds", type=FOLDER, multiple=True, help="Folders of recordings. [default: negatives, or else"
                 " noise, beside --data; pink noise where there are none; without --data needed]"),
    click.option("--level", type=Span(), help="dBFS of a background (RMS). [default: -55,-35; of negatives -55,-15]"),
    click.option("--silence", type=SHARE, help="Share of stretches without a background."),
    click.option("--cache", type=FOLDER, default=CACHE, show_default=True),
    click.option("--no-cache", is_flag=True, help="Keep nothing, and decode and hear everything again."),
    click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes."),
)  # fmt: skip
EVENTS = (
    click.option("--data", type=click.Path(path_type=Path), required=True, help="A labelled data set of clips."),
    click.option("--fold", type=int, multiple=True, help="Its held-out clips. [default: the model's test fold]"),
    click.option("--class", "classes", multiple=True, help="Only clips of these classes."),
    click.option("--snr", type=Span(), default="10", show_default=True, help="dB, where a sound is active."),
    click.option("--gap", type=SECONDS, default=SceneConfig.gap, show_default=True,
                 help="Mean seconds between sounds, beyond one."),
    click.option("--overlap", type=SHARE, default=SceneConfig.overlap, show_default=True,
                 help="Share of sounds that begin in the one before."),
    click.option("--reverberation", type=SHARE, default=SceneConfig.reverberation, show_default=True,
                 help="Share of sounds in a room."),
    click.option("--merge-gap", type=SECONDS, default=Activity.merge_gap, show_default=True,
                 help="Seconds; a shorter pause does not end an event."),
    click.option("--max-event", type=Finite(min=FRAME), default=Activity.max_event,
                 show_default=True, help="Seconds; a longer one is cut."),
)  # fmt: skip
LISTENING = (
    click.option("--model", help="As of edge-listen. [default: the bundled one]"),
    click.option("--hop", type=POSITIVE, help="Seconds between decisions."),
    click.option("--config", type=FILE, help="TOML whose table [events] has the detector's rules."),
    click.option(
        "--json",
        "json_path",
        type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
        is_flag=False,
        flag_value=str(STDOUT),
        callback=_json_place,
        metavar="[FILE]",
        help="Print all figures as JSON instead of tables; with FILE, also write them there.",
    ),
)
CURVE = (click.option("--curve", is_flag=True, help="Also F1 and false alarms over a scale on the thresholds."),)
SITE = (
    click.option("--hours", type=SOME_HOURS, default=4.0, show_default=True, help="Listened to."),
    click.option("--test-hours", type=SOME_HOURS, default=20.0, show_default=True, help="In which events are counted."),
    click.option("--scene-hours", type=SOME_HOURS, default=4.0, show_default=True, help="For the cost in recognition."),
    click.option("--max-false-per-day", type=POSITIVE, default=1.0, show_default=True, help="As of edge-calibrate."),
    click.option("--half", type=click.Choice(HALVES), default="report", show_default=True,
                 help="Of the backgrounds' sources."),
    click.option("--other-half", is_flag=True, help="Count in the other half: another place, which has no promise."),
)  # fmt: skip
