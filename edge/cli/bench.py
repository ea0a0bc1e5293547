"""``edge-bench``: what a decision costs on this machine."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import edge
from edge.cli.common import (
    config_option,
    ends_well,
    log_settings,
    log_to_stderr,
    options,
    provider_option,
    verbose_option,
    version_option,
)

NAMES = {
    "frontend_window": "front end, whole window",
    "network_window": "network, whole window",
    "window": "window recomputed",
    "frontend_hop": "front end, hop",
    "network_hop": "network, hop",
    "hop": "hop, streamed",
}


@click.command(context_settings={"auto_envvar_prefix": "EDGE_BENCH", "help_option_names": ["-h", "--help"]})
@options(
    config_option,
    click.option(
        "--model",
        "models",
        multiple=True,
        type=click.Path(path_type=Path),
        show_default="the bundled int8 and fp32 models",
        help="ONNX file; repeatable.",
    ),
    click.option(
        "--input", "audio", type=click.Path(path_type=Path), show_default="synthesised sound", help="Recording."
    ),
    click.option(
        "--hop",
        type=float,
        show_default="0.5, or a shorter window",
        help="Seconds between decisions, or the nearest.",
    ),
    click.option("--rounds", type=click.IntRange(10), default=200, show_default=True, help="Of each stage."),
    click.option(
        "--seconds", type=click.FloatRange(0), default=10.0, show_default=True, help="Of the paced run; 0 for none."
    ),
    provider_option,
    click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Of the network."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
    verbose_option,
    version_option,
)
@click.pass_context
def main(context: click.Context, /, config: Path | None, as_json: bool, verbose: bool, **settings: Any) -> None:
    """Measure front end, network and whole hop; hot, cold and paced; int8 beside fp32.

    Exit codes: 0 measured, 2 usage, 3 model, 5 recording, 6 provider.
    """
    log_to_stderr(verbose)
    log_settings(context)
    with ends_well():
        report = run(**settings)
        print(json.dumps(report, indent=2) if as_json else table(report))


def run(
    *,
    models: tuple[Path, ...] = (),
    audio: Path | None = None,
    hop: float | None = None,
    rounds: int = 200,
    seconds: float = 10.0,
    provider: str = "auto",
    threads: int = 1,
) -> dict[str, Any]:
    """The benchmark's report: ``machine`` and ``results``, one for each model. Raises EdgeError."""
    from edge.bench import bench, synthetic_audio
    from edge.classifier import Classifier
    from edge.models import BUNDLED
    from edge.sources.file import SoundFile

    paths = models or (BUNDLED, BUNDLED.with_name("edge-listen.onnx"))
    rate = Classifier(paths[0]).spec.frontend.sample_rate
    samples = synthetic_audio(rate) if audio is None else SoundFile(audio).read(rate)
    results = bench(paths, samples, hop=hop, rounds=rounds, paced_seconds=seconds, provider=provider, threads=threads)
    return {
        "version": edge.__version__,
        "machine": machine(),
        "threads": threads,
        "results": [asdict(result) for result in results],
    }


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import numpy as np
    import onnxruntime

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
        model = Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0\n") + f", {model}"
    except OSError:
        pass  # the second file is a single-board computer's; elsewhere the first has said it all
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    m = report["machine"]
    lines = [
        f"{m['cpu']}, {m['cores']} cores, {m['system']}; Python {m['python']}, numpy {m['numpy']}, "
        f"onnxruntime {m['onnxruntime']}, {report['threads']} thread",
        "",
    ]
    for result in report["results"]:
        lines.append(f"{result['name']} {result['precision']}  ({result['path']})")
        lines.append(f"  {'milliseconds':26}{'p50':>10}{'p95':>10}{'p99':>10}")
        for mode in ("hot", "cold", "paced"):
            for stage, p in result[mode].items():
                lines.append(f"  {NAMES[stage] + ', ' + mode:34}{p['p50']:8.3f}{p['p95']:10.3f}{p['p99']:10.3f}")
        lines.append(
            f"  a streamed hop costs {result['hop_over_window']:.0%} of recomputing its window; "
            f"resident memory {result['memory_mb']:.0f} MB"
        )
        lines.append(
            f"  first decision {result['start_ms']:.0f} ms after the imports, {result['process_ms']:.0f} ms after the "
            "start of the process"
        )
        if result["paced"]:
            lines.append(
                f"  one decision every {result['hop_seconds']:g} s takes {result['paced_cpu']:.2%} of one core"
            )
        lines.append("")
    return "\n".join(lines).rstrip()


if __name__ == "__main__":
    main()
