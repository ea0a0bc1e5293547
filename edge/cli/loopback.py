"""``edge-bench loopback``: from sound to decision."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.cli.common import (
    OurCommand,
    config_option,
    ends_well,
    hop_option,
    log_settings,
    log_to_stderr,
    model_option,
    options,
    tuned_provider_option,
    tuned_threads_option,
    verbose_option,
)

if TYPE_CHECKING:
    from edge.bench.loopback import Loopback

PARTS = {
    "driver_ms": "from output to input",
    "waiting_ms": "waiting for its hop",
    "compute_ms": "front end and network",
    "total_ms": "sound to decision",
    "named_ms": "sound to another class",
}


@click.command(cls=OurCommand)
@options(
    config_option,
    click.option("--output-device", show_default="the system's", help="Loudspeaker: index, or a part of its name."),
    click.option("--device", show_default="the system's", help="Microphone: index, id or a part of its name."),
    click.option("--clip", type=click.Path(path_type=Path), show_default="a chirp", help="Sound file to play."),
    click.option("--repeats", type=click.IntRange(1), default=10, show_default=True, help="How often."),
    hop_option,
    model_option,
    tuned_provider_option,
    tuned_threads_option,
    click.option("--output", type=click.Choice(["md", "json"]), default="md", show_default=True),
    verbose_option,
)
@click.pass_context
def loopback(context: click.Context, /, config: Path | None, output: str, verbose: bool, **settings: Any) -> None:
    """Play a sound through a loudspeaker, and measure until the microphone's decision on it.

    Exit codes: 0 measured, 2 usage, 3 model, 4 a device, or nothing was heard, 5 clip, 6 provider.
    """
    log_to_stderr(verbose)
    log_settings(context)
    with ends_well():
        from edge.bench.loopback import measure_loopback

        measured = measure_loopback(**settings)
        click.echo(json.dumps(asdict(measured) | summary(measured), indent=2) if output == "json" else shown(measured))


def summary(measured: Loopback) -> dict[str, dict[str, float]]:
    """Median and worst of each part, milliseconds; parts that no trial has are left out."""
    import numpy as np

    found = {part: [v for t in measured.trials if (v := getattr(t, part)) is not None] for part in PARTS}
    return {
        part: {"p50": round(float(np.median(values)), 2), "worst": max(values)}
        for part, values in found.items()
        if values
    }


def shown(measured: Loopback) -> str:
    """For people."""
    from edge.bench.render import table

    rows = [
        (PARTS[part], f"{values['p50']:.1f}", f"{values['worst']:.1f}") for part, values in summary(measured).items()
    ]
    return (
        f"{measured.sound} from {measured.output!r} to {measured.microphone!r}, a decision every "
        f"{measured.hop_seconds:g} s: {len(measured.trials)} of {measured.repeats} heard; resident memory "
        f"{measured.memory_mb:.0f} MB\n\n{table(('milliseconds', 'p50', 'worst'), rows, text_columns=1)}"
    )
