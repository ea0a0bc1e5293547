"""A report's document for people: Markdown, and one HTML page with plots that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge.errors import EdgeError

TEMPLATE = Path(__file__).with_name("report.html.jinja")

STAGE_NAMES = {
    "frontend_window": "front end, whole window",
    "network_window": "network, whole window",
    "window": "whole window",
    "frontend_hop": "front end, hop",
    "network_hop": "network, hop",
    "hop": "hop",
}
RATIO_NAMES = {"hot": "hop, hot", "cold": "hop, cold", "paced_cpu": "CPU, paced", "window": "whole window"}
PERCENTILES = ("p50", "p95", "p99", "worst")
COLOURS = {"hot": "#0072B2", "cold": "#56B4E9", "paced": "#D55E00"}  # Okabe and Ito 2008
GREY = "#999999"

Row = Sequence[str]


def markdown(document: dict[str, Any]) -> str:
    """Tables, aligned for a terminal as well."""
    parts = [f"# {document['reference']} on {document['machine']['cpu']}", *facts(document)]
    for name, result in document["results"].items():
        parts += [f"## {name}", *sentences(result), table(*latencies(result), text_columns=2)]
    if document["ratios"]:
        parts += [f"## How many times cheaper {document['reference']} is", table(*ratios(document), text_columns=1)]
    return "\n\n".join(parts)


def html(document: dict[str, Any]) -> str:
    """The page. Raises EdgeError where its packages are not installed."""
    jinja2, figure_class = html_packages()
    figures = {"hop_times": _hop_times}
    if document["ratios"]:
        figures["ratios"] = _ratios
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page: str = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        document=document,
        facts=facts(document),
        results={name: (sentences(result), latencies(result)) for name, result in document["results"].items()},
        ratios=ratios(document),
        pictures={name: _data_uri(draw, document, figure_class) for name, draw in figures.items()},
    )
    return page


def html_packages() -> tuple[Any, Any]:
    """jinja2, and matplotlib's Figure. Raises EdgeError where they are not installed."""
    try:
        import jinja2
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EdgeError(
            f"the HTML page needs {error.name}, which is not installed", remedy="pip install 'edge-listen[bench]'"
        ) from None
    return jinja2, Figure


def facts(document: dict[str, Any]) -> list[str]:
    """What was measured on and how, a sentence each."""
    m, how, state = document["machine"], document["settings"], document["conditions"]
    after = state["after"]
    threads = f"{how['threads']} thread{'s' if how['threads'] > 1 else ''}"
    lines = [
        f"{m['cores']} cores, {m['system']}, 8-bit instructions: {', '.join(m['int8_instructions']) or 'none known'}; "
        f"Python {m['python']}, numpy {m['numpy']}, onnxruntime {m['onnxruntime']}; edge-listen {document['version']}, "
        f"{document['date']}.",
        f"{how['rounds']} interleaved rounds on {threads}, provider {how['provider']}, {how['sound']} sound.",
    ]
    if after["temperatures"]:
        hottest = max(after["temperatures"], key=lambda zone: after["temperatures"][zone])
        was = state["before"]["temperatures"].get(hottest)
        lines.append(
            f"Hottest: {hottest}, {after['temperatures'][hottest]:.0f} °C"
            + ("." if was is None else f", {was:.0f} °C before.")
        )
    if after["frequencies_mhz"]:
        governors = ", ".join(after["governors"]) or "unknown"
        most = after["most_mhz"] or "unknown"
        lines.append(f"{max(after['frequencies_mhz'])} MHz of {most}, governor {governors}.")
    if state["throttled"]:
        lines.append(f"**Slowed down**: {state['throttled']}.")
    elif after["throttle_count"] is not None or after["firmware"] is not None:
        lines.append("No throttling during the run.")
    else:
        lines.append("Whether the processor was throttled, the system does not tell.")
    return lines


def sentences(result: dict[str, Any]) -> list[str]:
    """What the table of latencies does not say of a result."""
    patches = f", {result['patches']} calls for {result['window_seconds']:.2f} s" if result["patches"] > 1 else ""
    lines = [f"{result['file']}, {result['bytes'] / 1000:.0f} kB: {result['input']}{patches}."]
    if result["paced"]:
        misses = result["deadline_misses"]
        lines.append(
            f"One decision every {result['hop_seconds']:g} s takes {result['paced_cpu']:.2%} of one core; "
            f"{misses or 'no'} of {result['paced_decisions']} came after the next was due."
        )
    lines.append(f"A hop costs {result['hop_over_window']:.0%} of a whole window.")
    if result["start_ms"] is not None:
        lines.append(
            f"First decision {result['start_ms']:.0f} ms after the imports, {result['process_ms']:.0f} ms after the "
            f"start of the process; resident memory {result['memory_mb']:.0f} MB, "
            f"{result['memory_slope']:+.1f} bytes a hop."
        )
    return lines


def latencies(result: dict[str, Any]) -> tuple[Row, list[Row]]:
    """Header and rows: stage, mode, and milliseconds."""
    rows: list[Row] = []
    for mode in ("hot", "cold"):
        for stage, latency in result[mode].items():
            rows.append((STAGE_NAMES.get(stage, stage), mode, *_milliseconds(latency)))
    if result["paced"]:
        rows.append((STAGE_NAMES["hop"], "paced", *_milliseconds(result["paced"])))
    return ("milliseconds", "", *PERCENTILES), rows


def ratios(document: dict[str, Any]) -> tuple[Row, list[Row]]:
    """Header and rows: a peer, and the ratios."""
    rows: list[Row] = [
        (name, *("–" if values[key] is None else f"{values[key]:.2f}" for key in RATIO_NAMES))
        for name, values in document["ratios"].items()
    ]
    return ("than", *RATIO_NAMES.values()), rows


def table(header: Row, rows: Sequence[Row], text_columns: int) -> str:
    """Of Markdown; the first ``text_columns`` are aligned left, the others right."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width if i < text_columns else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = [
        [
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        for row in (header, *rows)
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))


def _milliseconds(latency: dict[str, float]) -> list[str]:
    return [f"{latency[key]:.3f}" for key in PERCENTILES]


def _hop_times(document: dict[str, Any], figure: Any) -> None:
    """The hop of each subject by mode: a disc at the median, a line to p99, a point at the worst."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax = figure.subplots()
    names = list(document["results"])
    modes = [mode for mode in COLOURS if mode != "paced" or any(r["paced"] for r in document["results"].values())]
    height = 0.8 / len(modes)
    for number, mode in enumerate(modes):
        measured = [(i, _hop(document["results"][name], mode)) for i, name in enumerate(names)]
        there = [(i + (number + 0.5) * height - 0.4, latency) for i, latency in measured if latency]
        at = [y for y, _ in there]
        ax.hlines(at, [x["p50"] for _, x in there], [x["p99"] for _, x in there], GREY)
        ax.plot([x["worst"] for _, x in there], at, ".", color=GREY, markersize=4)
        ax.plot([x["p50"] for _, x in there], at, "o", color=COLOURS[mode], label=mode)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("milliseconds a hop (disc: median; line: to p99; point: worst)")
    ax.grid(axis="x", alpha=0.3)
    ax.legend()


def _ratios(document: dict[str, Any], figure: Any) -> None:
    """How many times cheaper the reference is: a group of bars for each peer."""
    ax = figure.subplots()
    header, names = list(RATIO_NAMES), list(document["ratios"])
    height = 0.8 / len(header)
    for number, key in enumerate(header):
        values = [document["ratios"][name][key] or 0 for name in names]
        bars = ax.barh([i + (number + 0.5) * height - 0.4 for i in range(len(names))], values, height * 0.9)
        ax.bar_label(bars, [f"{RATIO_NAMES[key]}: {value:.1f}" if value else "" for value in values], padding=3)
    ax.axvline(1, color=GREY)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.margins(x=0.25)
    ax.set_xlabel(f"times cheaper: {document['reference']}")


def _hop(result: dict[str, Any], mode: str) -> dict[str, float] | None:
    latency: dict[str, float] | None = result["paced"] if mode == "paced" else result[mode]["hop"]
    return latency


def _data_uri(draw: Callable[[dict[str, Any], Any], None], document: dict[str, Any], figure_class: Any) -> str:
    """The picture, as an address that holds it."""
    figure = figure_class(figsize=(9, 1.2 + 1.1 * len(document["results"])), layout="constrained")
    draw(document, figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
