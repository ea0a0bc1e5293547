"""``edge-bench``: what a decision costs on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edge.bench.theirs import Theirs, theirs_of
from edge.cli.common import (
    OurGroup,
    config_option,
    ends_well,
    hop_option,
    log_settings,
    log_to_stderr,
    options,
    provider_option,
    verbose_option,
    version_option,
)
from edge.cli.loopback import loopback
from edge.cli.number import Finite

RATE = click.IntRange(1000, 768000)  # Hz


class TheirsType(click.ParamType):  # type: ignore[type-arg]
    """FILE, or FILE@RATE: a file of others, and Hz of the sound that it hears."""

    name = "FILE[@RATE]"

    def convert(self, value: str | Theirs, parameter: click.Parameter | None, context: click.Context | None) -> Theirs:
        """See click."""
        if not isinstance(value, str):
            return value
        path, rate = theirs_of(value)
        return Theirs(path, RATE(rate, parameter, context) if rate else None)


THEIRS = TheirsType()


@click.group(
    cls=OurGroup,
    invoke_without_command=True,
    context_settings={"auto_envvar_prefix": "EDGE_BENCH", "help_option_names": ["-h", "--help"]},
)
@options(
    config_option,
    click.option(
        "--model",
        metavar="FILE|FOLDER|hf://OWNER/NAME",
        multiple=True,
        show_default="the bundled int8 and fp32 models",
        help="ONNX file, model package, or repository of the hub; repeatable.",
    ),
    click.option(
        "--compare",
        multiple=True,
        type=THEIRS,
        show_default="none",
        help="Somebody else's ONNX or TFLite file, and where it hears another rate, @ and Hz; for ratios of the same "
        "run; repeatable.",
    ),
    click.option(
        "--compare-rate",
        type=RATE,
        default=16_000,
        show_default=True,
        help="Hz, of what those hear that have no @RATE.",
    ),
    click.option(
        "--input",
        type=click.Path(path_type=Path),
        show_default="synthesised sound",
        help="Recording, up to 30 s of it.",
    ),
    hop_option,
    click.option("--rounds", type=click.IntRange(10), default=200, show_default=True, help="Of each stage."),
    click.option("--seconds", type=Finite(0), default=10.0, show_default=True, help="Of the paced run; 0 for none."),
    click.option(
        "--hops", type=click.IntRange(10), default=1000, show_default=True, help="Over which the memory is watched."
    ),
    provider_option,
    click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Of the network."),
    click.option(
        "--tune",
        is_flag=True,
        help="Only choose precision, threads and provider, and keep them: edge-listen then uses them.",
    ),
    click.option(
        "--output",
        type=click.Choice(["md", "json", "html"]),
        default="md",
        show_default=True,
        help="Of --tune: md or json.",
    ),
    verbose_option,
    version_option,
)
@click.pass_context
def main(
    context: click.Context, /, config: Path | None, tune: bool, output: str, verbose: bool, **settings: Any
) -> None:
    """Measure front end, network and whole hop; hot, cold and paced; int8 beside fp32, and beside networks of others.

    Exit codes: 0 measured, 2 usage, 3 model, 4 microphone, 5 recording, 6 provider.
    """
    if context.invoked_subcommand:
        return
    log_to_stderr(verbose)
    log_settings(context)
    with ends_well():
        if tune:
            require_used(context)
            click.echo(TUNED[output](choose(settings["model"], settings["input"], settings["hop"])))
        else:
            if output == "html":
                from edge.bench.render import html_packages

                html_packages()  # to be missed before a minute of measuring
            click.echo(printed(run(**settings), output))


main.add_command(loopback)


def require_used(context: click.Context) -> None:
    """Raises click.UsageError for what stands beside ``--tune``, and which it would ignore.

    What the environment or a file says for all runs is no concern of a ``--tune`` on the command line.
    """
    near = {ParameterSource.COMMANDLINE, context.get_parameter_source("tune")}
    named = [p for p in context.command.params if p.name and context.get_parameter_source(p.name) in near]
    unused = [max(p.opts, key=len) for p in named if p.name not in USED_BY_TUNE]
    if unused:
        raise click.UsageError(
            f"--tune does not use {', '.join(unused)}: it measures every provider, on one thread and on two; leave out "
            f"{'it' if len(unused) == 1 else 'them'}"
        )
    if (output := context.params["output"]) not in TUNED:
        raise click.UsageError(f"--tune prints no {output}; allowed: --output {' or '.join(TUNED)}")


def run(*, model: tuple[str, ...] = (), **settings: Any) -> dict[str, Any]:
    """The benchmark's document; ``settings`` are those of :class:`edge.bench.report.Settings`. Raises EdgeError."""
    from edge.bench.report import Settings
    from edge.bench.run import bench
    from edge.models import resolve, variants

    models = tuple(map(resolve, model)) or variants(None)
    return bench(Settings(models=models, **settings)).document()


def choose(models: tuple[str, ...] = (), audio: Path | None = None, hop: float | None = None) -> dict[str, Any]:
    """What was measured for the pick, the pick, what speaks against it, and the file that keeps it.

    Raises EdgeError, click.UsageError.
    """
    from dataclasses import asdict

    from edge.models import variants
    from edge.tuning import best, doubt, keep, require_place, tune

    if len(models) > 1:
        raise click.UsageError("--tune chooses among the files of one --model")
    require_place()
    files = variants(models[0] if models else None)
    candidates = tune(files, recording=audio, hop=hop)
    path = keep(files[0], candidates)
    return {
        "file": str(path),
        "pick": asdict(best(candidates)),
        "doubt": doubt(candidates),
        "candidates": [asdict(c) for c in candidates],
    }


def printed(document: dict[str, Any], output: str) -> str:
    """The document as ``--output`` wants it. Raises EdgeError."""
    if output == "json":
        return json.dumps(document, indent=2)
    from edge.bench.render import html, markdown

    return html(document) if output == "html" else markdown(document)


def tuning_table(tuned: dict[str, Any]) -> str:
    """The candidates for people, and the pick."""
    from edge.bench.render import table

    header = ("file", "provider", "threads", "hop, cold (ms)", "hot", "")
    rows = [
        (c["file"], c["provider"], str(c["threads"]), f"{c['hop_ms']:.3f}", f"{c['hot_ms']:.3f}",
         "the pick" if c == tuned["pick"] else "")
        for c in tuned["candidates"]
    ]  # fmt: skip
    unsure = (
        f"in doubt: {tuned['doubt']}; tune again when the machine has nothing else to do\n" if tuned["doubt"] else ""
    )
    return f"{table(header, rows, text_columns=2)}\n\n{unsure}kept in {tuned['file']}"


TUNED: dict[str, Callable[[dict[str, Any]], str]] = {
    "md": tuning_table,
    "json": lambda tuned: json.dumps(tuned, indent=2),
}
USED_BY_TUNE = ("tune", "model", "input", "hop", "output", "config", "verbose")


if __name__ == "__main__":
    main()
