"""What the commands share: configuration files, error lines and exit codes, signals, the model's options."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Lock, Thread, main_thread
from typing import Any, TextIO, TypeVar, cast

import click
from click.core import ParameterSource

import edge
from edge.cli.number import Finite
from edge.config import PROVIDERS
from edge.errors import EdgeError
from edge.secret import is_url, without_password

Command = TypeVar("Command", bound=Callable[..., Any])

NOT_IN_FILES = ("config", "version", "help", "list-devices")
STDERR = 2  # its file descriptor
TABLES = "edge.tables"  # key in a context's meta: the configuration file's tables


def read_config(
    context: click.Context,
    parameter: click.Parameter,
    path: Path | None,
    tables: Sequence[str] = (),
    of: click.Command | None = None,
) -> Path | None:
    """Callback of ``--config``: the file's values become the defaults of the other options; ``tables`` are kept. What
    is an option ``of`` another command alone is passed over.
    """
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}", context, parameter) from None
    known = _options_in_files(context.command)
    passed_over = _options_in_files(of) if of is not None else {}
    defaults: dict[str, Any] = {}
    context.meta[TABLES] = {
        key: values.pop(key) for key in tables if key in values and not (key in known and isinstance(values[key], str))
    }
    for key, value in values.items():
        name = key.replace("_", "-")
        option = known.get(name)
        if option is None and name in passed_over:
            continue
        if option is None:
            allowed = ", ".join(sorted({*known, *passed_over, *(f"[{table}]" for table in tables)}))
            raise click.BadParameter(f"{path}: unknown key {key}; allowed: {allowed}", context, parameter)
        assert option.name is not None
        if option.name in defaults:
            what = f"{path}: {name} is given twice, with - and with _: leave one of them out"
            raise click.BadParameter(what, context, parameter)
        defaults[option.name] = _from_toml(option, value, f"{path}: {key}", context, parameter)
    context.default_map = defaults
    return path


def _options_in_files(command: click.Command) -> dict[str, click.Option]:
    """The options of ``command`` that may stand in its configuration file, by long name."""
    options = {_long_name(p): p for p in command.params if isinstance(p, click.Option)}
    return {name: option for name, option in options.items() if name not in NOT_IN_FILES}


def _long_name(option: click.Option) -> str:
    """The option's long name without its dashes."""
    return max(option.opts, key=len).lstrip("-")


def _from_toml(option: click.Option, value: Any, where: str, context: click.Context, parameter: click.Parameter) -> Any:
    """A TOML value as click takes it from a command line: text, but for flags and repeated options."""
    if option.is_flag:
        if isinstance(value, bool):
            return value
        raise click.BadParameter(f"{where} is {value!r}; allowed: true or false", context, parameter)
    if option.multiple:
        values = value if isinstance(value, list) else [value]
        return [_text(item, where, context, parameter) for item in values]
    return _text(value, where, context, parameter)


def _text(value: Any, where: str, context: click.Context, parameter: click.Parameter) -> str:
    if value == "":
        raise click.BadParameter(f"{where} is empty: give a value, or leave it out", context, parameter)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise click.BadParameter(f"{where} is {value!r}; allowed: text or a number", context, parameter)


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which ``--help`` shows them."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def config_option_with(*tables: str, of: click.Command | None = None) -> Callable[[Command], Command]:
    """``--config`` of a command that also reads these tables of the file: see :func:`tables_of`. ``of``: edge-listen,
    whose file it takes as well.
    """
    more = "".join(f", and a table [{table}]" for table in tables) if of is None else ", or that of edge-listen"
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        callback=partial(read_config, tables=tables, of=of),
        show_default="none",
        help=f"TOML file with any of these options{more}.",
    )


def tables_of(context: click.Context) -> dict[str, Any]:
    """The tables of the configuration file, by name."""
    tables: dict[str, Any] = context.meta.get(TABLES, {})
    return tables


config_option = config_option_with()


def _provider_option(auto: str) -> Callable[[Command], Command]:
    """``--provider``, whose auto means ``auto``."""
    return click.option(
        "--provider",
        type=click.Choice(["auto", *PROVIDERS]),
        default="auto",
        show_default=True,
        help=f"Where the network runs; auto is {auto}.",
    )


provider_option = _provider_option("the CPU, which wins for a network this small")
tuned_provider_option = _provider_option("what edge-bench --tune has found, else the CPU")
tuned_threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 64),
    show_default="1, or what edge-bench --tune has found",
    help="Of the network.",
)
hop_option = click.option(
    "--hop", type=float, show_default="0.5, or a shorter window", help="Seconds between decisions, or the nearest."
)


def threshold_option_with(show_default: str) -> Callable[[Command], Command]:
    """``--threshold``, whose default is described so."""
    return click.option(
        "--threshold", type=Finite(0, 1), show_default=show_default, help="Score from which a class is named."
    )


model_option = click.option(
    "--model",  # text: as a path, hf:// would lose a slash
    metavar="FILE|FOLDER|hf://OWNER/NAME",
    show_default="the bundled one: int8, or what edge-bench --tune has found",
    help="ONNX file, model package, or repository of the hub; tiny: bundled as well, for a Pi Zero.",
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show the effective settings, on stderr.")
# A container's EDGE_LISTEN_VERSION=1.2 is its author's own, and no option.
version_option = click.version_option(edge.__version__, allow_from_autoenv=False)


def channel_value(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    """Callback of ``--channel``: a number from 0, or None for a mix."""
    if value == "mix":
        return None
    if value.isdecimal():
        return int(value)
    raise click.BadParameter(f"{value!r} is neither a channel, counted from 0, nor 'mix'", context, parameter)


channel_option = click.option(
    "--channel",
    default="mix",
    show_default=True,
    callback=channel_value,
    help="Channel to listen to, counted from 0, or mix; of a mix, a stereo model hears both channels.",
)


def one_of(context: click.Context, first: str, second: str) -> None:
    """Of two options that exclude each other, drop the one from further away: file, environment, command line. Of one
    that is repeatable, nothing is left.

    Raises:
        click.UsageError: when both come from the same place.
    """
    if context.params[first] in (None, ()) or context.params[second] in (None, ()):
        return
    places = [ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP]
    ranks = {}
    for name in (first, second):
        source = context.get_parameter_source(name)
        ranks[name] = places.index(source) if source in places else len(places)
    if ranks[first] == ranks[second]:
        raise click.UsageError(f"--{first} and --{second} exclude each other")
    far = max(ranks, key=lambda name: ranks[name])
    context.params[far] = () if isinstance(context.params[far], tuple) else None


def log_settings(context: click.Context) -> None:
    """The effective settings, and where each comes from."""
    log = logging.getLogger("edge.settings")
    for option in context.command.params:
        name = option.name
        if name not in context.params:
            continue
        value, source = context.params[name], context.get_parameter_source(name)
        if value is None or value == ():
            value = getattr(option, "show_default", None) or "none"
        if name == "channel" and context.params[name] is None:
            value = "mix"
        elif isinstance(value, tuple | str):
            values = value if isinstance(value, tuple) else (value,)
            value = ", ".join(_shown(str(item), path=name != "webhook") for item in values)
        place = {"DEFAULT_MAP": "file", "COMMANDLINE": "command line"}.get(source.name if source else "")
        place = place or (source.name.lower() if source else "default")
        log.info("%s = %s (%s)", name.replace("_", "-"), value, place)


def _shown(text: str, *, path: bool) -> str:
    """A setting without its password; ``path`` is whether that of a URL may be shown."""
    return without_password(text, path=path) if is_url(text) else text


class Interrupts:
    """Ctrl-C and SIGTERM: noted while things are set up, raised as KeyboardInterrupt while listening.

    Raised in the middle of an import, they would leave it half done and end in a traceback. The second one is always
    raised: somebody insists.

    SIGHUP is raised alike, and asks for a new beginning: see :meth:`again`. At a terminal it means, as ever, that the
    terminal is gone.
    """

    def __init__(self, judge: Callable[[], bool] = lambda: True) -> None:
        """``judge`` says whether a new beginning can be. It is asked in a thread of its own, and all goes on meanwhile:
        SIGHUP is raised after it has said so.
        """
        self.noted = self.raising = self.hung_up = False
        self._judge, self._judging = judge, Lock()
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._handle)
        served = sys.stdin is None or not sys.stdin.isatty()
        if served and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(signal.SIGHUP, self._hang_up)

    def again(self) -> bool:
        """Whether a SIGHUP has come since the last call, and nothing that asks for the end."""
        hung_up, self.hung_up = self.hung_up, False
        return hung_up and not self.noted

    def _handle(self, signum: int, frame: Any) -> None:
        insists, self.noted = self.noted, True
        if self.raising or insists:
            self.raising = False
            raise KeyboardInterrupt

    def _hang_up(self, signum: int, frame: Any) -> None:
        if not self.hung_up:
            Thread(target=self._judged, name="judge", daemon=True).start()
        elif self.raising:
            self.raising = False
            raise KeyboardInterrupt

    def _judged(self) -> None:
        with self._judging:  # what came in between is judged once more
            if self.hung_up or not self._judge():
                return
            self.hung_up = True
        signal.pthread_kill(cast(int, main_thread().ident), signal.SIGHUP)  # which may be waiting, and must hear of it

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Within, a signal is raised; one that came before is raised at once."""
        self.raising = True
        try:
            if self.noted or self.hung_up:
                raise KeyboardInterrupt
            yield
        finally:
            self.raising = False


@contextmanager
def output_within(seconds: float) -> Iterator[None]:
    """Within, an output that does not take what is written for so long counts as one whose reader has gone: it raises
    BrokenPipeError.
    """

    def give_up(signum: int, frame: Any) -> None:
        raise BrokenPipeError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class OurCommand(click.Command):
    """A command that ends well also where click itself prints, as its help, and that passes over nothing it is given:
    neither all but the last of several values, nor an empty one.
    """

    def main(self, *arguments: Any, **options: Any) -> Any:
        """See click."""
        _open_streams()
        with ends_well():
            return super().main(*arguments, **options)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """See click."""
        if args and not context.resilient_parsing:
            values, _, given = self.make_parser(context).parse_args(args=list(args))
            for parameter in dict.fromkeys(given):
                if _takes_one(parameter) and given.count(parameter) > 1:
                    raise click.UsageError(
                        f"{parameter.opts[0]} is given twice: {self.for_several(parameter)}", context
                    )
                _require_content(context, parameter, values.get(parameter.name or ""))
        return super().parse_args(context, args)

    def for_several(self, parameter: click.Parameter) -> str:
        """What to do instead of giving ``parameter`` twice."""
        return "it takes one value"


def _takes_one(parameter: click.Parameter) -> bool:
    """Whether another value would take the place of the one before. A flag says the same twice."""
    return isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag or parameter.count)


def _require_content(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Raises BadParameter for an empty text, which mostly is a shell's variable that is not set: it would count as not
    asked for, or as the folder that one is in. Where it is the default, it means something.
    """
    if "" in (value if isinstance(value, list | tuple) else [value]) and parameter.default != "":
        raise click.BadParameter("it is empty: give a value, or leave it out", context, parameter)


class OurGroup(OurCommand, click.Group):
    """The same of commands."""

    command_class = OurCommand
    group_class = type  # the same


def _open_streams() -> None:
    """Closed, they count as /dev/null: else the next file that is opened takes the place of one, and what is printed.

    Standard input stays missing for whoever is asked to read it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


@contextmanager
def ends_well() -> Iterator[None]:
    """What a user meets in one line, and the documented exit code: our errors, and those of the output."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text in this terminal's encoding
    try:
        try:
            yield
        finally:  # here, and not when Python ends, which would say it in its own words
            _flush()
    except EdgeError as error:
        _say(str(error))
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:  # the reader of our output has gone, which is its right
        _forget(sys.stdout)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG):
            raise
        _forget(sys.stdout)
        _say(f"the output cannot be written: {error.strerror} (free some space)")
        raise SystemExit(1) from None


def _flush() -> None:
    """Raises OSError where the results are not taken; a log that is not is no reason to fail."""
    try:
        sys.stderr.flush()
    except OSError:
        _forget(sys.stderr)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget(sys.stdout)


def _say(error: str) -> None:
    """On stderr, where that takes it."""
    try:
        print(f"error: {error}", file=sys.stderr, flush=True)
    except OSError:
        _forget(sys.stderr)


def _forget(stream: TextIO) -> None:
    """Whatever is still buffered would fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def log_to_stderr(verbose: bool) -> None:
    """Logs go to stderr: stdout is for results. Unless ``verbose``, what C libraries write there is dropped."""
    if not verbose:
        _silence_native_stderr()
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s", stream=sys.stderr)


def _silence_native_stderr() -> None:
    """PortAudio writes debugging lines to file descriptor 2 when a device goes away, mpg123 when a file is cut."""
    ours = os.fdopen(os.dup(STDERR), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)
    sys.stderr = ours
