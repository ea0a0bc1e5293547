"""The processor that listening costs, in real time: ``edge-listen`` itself, in a process of its own.

python -m benchmarks.sources examples/demo.ogg --sources 8
python -m benchmarks.sources --device usb
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from edge.cli.number import Finite

LISTEN = [sys.executable, "-m", "edge.cli.listen", "--output", "jsonl", "--config"]


@dataclass(frozen=True)
class Cost:
    """What listening took."""

    start_seconds: float  # of processor: the start of the process, and its first second
    share: float  # of one core, without that
    ended: int  # sources that ended as they should, the fewest of a round
    latencies_ms: tuple[float, ...]  # of all decisions, from the last sample to the decision


def cost(sources: Sequence[tuple[str, str]], seconds: float, rounds: int = 1) -> Cost:
    """Of ``sources``, each ``input`` and a recording, or ``device`` and a microphone: the median of ``rounds``.

    What a process uses in ``seconds`` more than in the first second is shared among them.
    """
    starts, shares, ended, latencies = [], [], [], []
    with TemporaryDirectory() as folder:
        config = Path(folder) / "listen.toml"
        table = '[[sources]]\nname = "{}"\n{} = {}\n'
        config.write_text("".join(table.format(n, kind, json.dumps(name)) for n, (kind, name) in enumerate(sources)))
        for _ in range(rounds):
            start, _ = _listened(config, 1.0)
            used, told = _listened(config, 1.0 + seconds)
            starts.append(start)
            shares.append((used - start) / seconds)
            ended.append(sum(record["type"] == "end" for record in told))
            latencies += [record["latency_ms"] for record in told if record["type"] == "window"]
    return Cost(statistics.median(starts), statistics.median(shares), min(ended), tuple(latencies))


def _listened(config: Path, seconds: float) -> tuple[float, list[Any]]:
    """Processor seconds of a process that listens for ``seconds``, and its records."""
    before = os.times()
    told = subprocess.run([*LISTEN, config, "--duration", str(seconds)], check=False, stdout=subprocess.PIPE)
    if told.returncode:
        raise click.ClickException(f"edge-listen ended with {told.returncode}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, [json.loads(line) for line in told.stdout.splitlines()]


@click.command()
@click.argument("recording", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--sources", type=click.IntRange(min=1), show_default="8", help="That play the recording.")
@click.option("--device", help="A microphone instead: a part of its name.")
@click.option("--seconds", type=Finite(min=1), default=40.0, show_default=True, help="Of each round.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
def main(recording: Path | None, sources: int | None, device: str | None, seconds: float, rounds: int) -> None:
    """The share of a core that it takes to listen to RECORDING as often as that, or to a microphone."""
    if (recording is None) == (device is None) or (device and sources):
        raise click.UsageError("name either a RECORDING, and --sources, or a --device")
    asked = [("input", str(recording.absolute()))] * (sources or 8) if recording else [("device", str(device))]
    found = cost(asked, seconds, rounds)
    if not found.latencies_ms:
        raise click.ClickException(f"no decision was made in {seconds:g} seconds")
    made, worst = len(found.latencies_ms), max(found.latencies_ms)
    click.echo(f"{len(asked)} sources: {found.share:.2%} of a core, {made} decisions, {worst:.0f} ms at worst")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.sources")
