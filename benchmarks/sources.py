"""The processor that several sources cost, in real time: ``edge-listen`` itself, in a process of its own.

python -m benchmarks.sources examples/demo.ogg --sources 8
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

LISTEN = [sys.executable, "-m", "edge.cli.listen", "--output", "jsonl", "--config"]


@dataclass(frozen=True)
class Cost:
    """What listening took."""

    start_seconds: float  # of processor: the start of the process, and its first second
    share: float  # of one core, without that
    ended: int  # sources that ended as they should, the fewest of a round
    latencies_ms: tuple[float, ...]  # of all decisions, from the last sample to the decision


def cost(recording: Path, sources: int, seconds: float, rounds: int = 1) -> Cost:
    """Of as many ``sources``, each of which plays ``recording``: the median of ``rounds``.

    What a process uses in ``seconds`` more than in the first second is shared among them.
    """
    starts, shares, ended, latencies = [], [], [], []
    with TemporaryDirectory() as folder:
        config = Path(folder) / "listen.toml"
        table = "[[sources]]\nname = {}\ninput = {}\n"
        config.write_text("".join(table.format(json.dumps(str(n)), json.dumps(str(recording))) for n in range(sources)))
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
    told = subprocess.run([*LISTEN, config, "--duration", str(seconds)], stdout=subprocess.PIPE, check=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, [json.loads(line) for line in told.stdout.splitlines()]


@click.command()
@click.argument("recording", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--sources", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=1), default=40.0, show_default=True, help="Of each round.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
def main(recording: Path, sources: int, seconds: float, rounds: int) -> None:
    """The share of a core that it takes to listen to RECORDING as often as that."""
    found = cost(recording.absolute(), sources, seconds, rounds)
    worst = max(found.latencies_ms)
    click.echo(
        f"{sources} sources: {found.share:.1%} of a core, {len(found.latencies_ms)} decisions, {worst:.0f} ms at worst"
    )


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.sources")
