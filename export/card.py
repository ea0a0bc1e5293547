"""The model card: what it is, what it was trained on, how good it is, what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge.config import FrontendConfig, ModelSpec
from export.calibration import PRECISION, Calibration
from export.verify import Parity
from train.evaluate import Report
from train.robustness import Robustness


def model_card(
    spec: ModelSpec,
    reports: Mapping[str, Report],
    robustness: Robustness | None,
    calibration: Calibration | None,
    parities: Sequence[Parity],
    sizes: Mapping[str, int],
    command: str,
) -> str:
    """Markdown. ``reports`` and ``sizes`` (bytes) are by precision, "fp32", "int8" and what else there is."""
    p = spec.provenance
    order = sorted(sizes, key=lambda precision: precision != "int8")  # what a device runs comes first
    held_out = "Nothing" if p.test_fold is None else f"Fold {p.test_fold}"
    lines = [
        f"# {spec.name}",
        "",
        "Written by `python -m export`; do not edit.",
        "",
        f"- **What**: {len(spec.labels)} classes of sound, one decision on {spec.window_seconds:.2f} s, "
        f"as often as every {spec.step_seconds * 1000:.3g} ms.",
        f"- **Network**: `{p.architecture}`, {p.macs / 1e6:.0f} million multiply-accumulates a window; "
        f"{', '.join(f'{k} file {sizes[k] / 1000:.0f} kB' for k in order)}.",
        f"- **Front end**: {_front_end(spec.frontend)}.",
        f"- **Trained on**: {p.dataset}, folds {', '.join(map(str, p.train_folds))}; seed {p.seed}, {p.epochs} epochs, "
        f"revision {p.git_revision}. {held_out} was held out of training.",
        *([f"- **Learnt from as well**: {'; '.join(p.other_data)}."] if p.other_data else []),
        f"- **Licence of the weights**: {spec.licence}.",
        f"- **Made by**: `{command}`",
        "",
        "## Agreement of the artefacts",
        "",
        "| | top-1 agreement | mean difference | largest difference |",
        "|---|---|---|---|",
        *(
            f"| {q.name} | {q.top1_agreement:.1%} | {q.mean_difference:.2g} | {q.max_difference:.2g} |"
            for q in parities
        ),
        "",
    ]
    if reports:
        lines += _recognition(p.test_fold, reports)
    if calibration is not None:
        lines += _calibration(p.test_fold, calibration)
    if robustness is not None:
        lines += [f"## Other microphones, int8 on fold {p.test_fold}", "", *robustness.table(), ""]
    lines += [
        "## Limits",
        "",
        "The classes are all it knows: speech, music and every other sound get the class that they resemble most, or",
        "are called unknown, which is often right where a threshold for it stands above, and never certain. Its",
        "training clips are short, mostly clean recordings; another microphone, a distant source, noise cost accuracy.",
        "It is no safety device: do not let a person's safety depend on it.",
        "",
    ]
    return "\n".join(lines)


def _front_end(f: FrontendConfig) -> str:
    sound = f"{f.sample_rate} Hz, {'two channels' if f.channels == 2 else 'one channel'}"
    if f.kind == "waveform":
        return f"the waveform, {sound}"
    mels = f"{f.n_mels} {f.mel_scale} mel bands from {f.f_min:g} to {f.f_max:g} Hz"
    return f"{sound}, {mels}, frames of {f.win_length} samples every {f.hop_length}"


def _calibration(fold: int | None, c: Calibration) -> list[str]:
    """The section of what the scores mean."""
    least = sorted(c.thresholds.values())
    learnt = "" if c.given else ", learnt on one half of the clips and measured on the other"
    lines = [
        f"## Scores, calibrated on fold {fold}",
        "",
        f"- Temperature {c.temperature:g}{', as given' * c.given}: the expected calibration error of windows is "
        f"{c.error_after:.3f}{learnt}, and {c.error_before:.3f} without.",
    ]
    if least:
        lines.append(
            f"- A class is named from its own threshold on, {least[0]:g} to {least[-1]:g}, the least score with "
            f"{PRECISION:.0%} of its namings right (else the one with the best F1)."
        )
    if c.unknown is not None:
        lines.append(
            f"- A window with an energy below {c.unknown.threshold:g} is unknown; {c.unknown.known_share:.0%} of the "
            "held-out windows of the classes are above."
        )
    return [*lines, ""]


def _cell(text: str) -> str:
    """``text`` in a table, whose columns end at a bar."""
    return text.replace("|", r"\|")


def _recognition(fold: int | None, reports: Mapping[str, Report]) -> list[str]:
    """The section of what was measured."""
    return [
        f"## Recognition on fold {fold}",
        "",
        "Accuracy of clips (mean of their windows) and of single windows, through the runtime.",
        "",
        "| | clips | windows |",
        "|---|---|---|",
        *(
            f"| {k} | {r.accuracy:.2%} of {r.clips} | {r.window_accuracy:.2%} of {r.windows} |"
            for k, r in reports.items()
        ),
        "",
        "| class (int8) | precision | recall | F1 | clips |",
        "|---|---|---|---|---|",
        *(
            f"| {_cell(c.label)} | {c.precision:.2f} | {c.recall:.2f} | {c.f1:.2f} | {c.clips} |"
            for c in reports["int8"].classes
        ),
        "",
    ]
