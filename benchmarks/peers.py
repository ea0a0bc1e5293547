"""What we promise against others, in one interleaved run on one thread.

    python -m benchmarks.peers ../shared/peers/yamnet.tflite ../shared/peers/micro-acdnet-int8-fold4.tflite@20000

Beside our int8 and fp32 files and those of others (which hear 16 kHz, or what stands behind their @) there is the usual
way: librosa's log-mel and the fp32 network, both on the whole window at every decision. It needs the extra [bench].
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

# One thread for all. It is read when numpy is loaded, and librosa brings a numpy, and an OpenBLAS of scipy's.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import click
import numpy as np

from benchmarks.output import require_writable
from edge.bench.fresh import Started, measure_fresh
from edge.bench.machine import conditions
from edge.bench.render import markdown, table
from edge.bench.report import Settings
from edge.bench.run import measure, open_all
from edge.bench.sound import Sound, Turns, sound_of
from edge.bench.subjects import Facts
from edge.bench.theirs import Theirs
from edge.classifier import Classifier
from edge.cli.bench import THEIRS
from edge.cli.number import Finite
from edge.errors import EdgeError
from edge.files import write_json
from edge.models import BUNDLED

ROOT = Path(__file__).parent.parent
SOUND = ROOT / "examples" / "demo.ogg"
FP32 = BUNDLED.with_name("edge-listen.onnx")
HOPS = 20_000  # over which the memory is watched; the later half counts
LEVEL = 1.0  # bytes for each hop more, from which the memory counts as growing


@dataclass(frozen=True)
class Target:
    """A promise, and what was measured."""

    name: str
    least: float | None  # at least so much; None where there is a ``most``
    most: float | None
    measured: float | None  # None: not measured here

    @property
    def met(self) -> bool | None:
        """Whether it is kept; None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured >= self.least if self.least is not None else self.measured <= (self.most or 0)


class LibrosaRecompute:
    """The usual way: the same frames by librosa, the same network in fp32, both on the whole window at every hop."""

    def __init__(self, sound: Sound, hop_seconds: float) -> None:
        try:
            import librosa
        except ImportError:
            raise EdgeError("librosa is not installed", remedy="pip install 'edge-listen[bench]'") from None
        self._melspectrogram = librosa.feature.melspectrogram
        classifier = Classifier(FP32)
        spec = classifier.spec
        self._config = spec.frontend
        self._call = classifier.bind(spec.window_frames)
        rate = self._config.sample_rate
        windows = Turns(sound(rate), round(hop_seconds * rate), spec.window_samples)
        self.name = "librosa-fp32"
        self.facts = Facts(
            file=FP32.name,
            kind="librosa",
            precision="fp32",
            bytes=FP32.stat().st_size,
            sha256=spec.graph_sha256,
            input=f"{spec.window_frames} frames by librosa {librosa.__version__}, whole windows",
            hop_seconds=hop_seconds,
            window_seconds=spec.window_seconds,
            patches=1,
        )
        self.stages = {"window": lambda: self.probs(windows()), "hop": lambda: self.probs(windows())}

    def probs(self, samples: np.ndarray) -> np.ndarray:
        """Probabilities of one window [n_samples]."""
        c = self._config
        power = self._melspectrogram(
            y=samples, sr=c.sample_rate, n_fft=c.n_fft, win_length=c.win_length, hop_length=c.hop_length,
            n_mels=c.n_mels, fmin=c.f_min, fmax=c.f_max, htk=c.mel_scale == "htk",
            norm=None if c.mel_norm == "none" else c.mel_norm,
            center=False, power=2.0,
        )  # fmt: skip
        self._call.frames[0] = ((np.log(power + c.log_floor) - c.log_mean) / c.log_std).T
        return self._call().probs


@click.command()
@click.argument("peers", nargs=-1, required=True, type=THEIRS, metavar="FILE[@RATE]...")
@click.option("--device", help="Microphone for the memory with a microphone open. [default: not measured]")
@click.option("--input", "recording", type=click.Path(path_type=Path), default=SOUND, show_default="examples/demo.ogg")
@click.option("--rounds", type=click.IntRange(10), default=200, show_default=True)
@click.option("--seconds", type=Finite(1), default=20.0, show_default=True, help="Of each, paced.")
@click.option("--hops", type=click.IntRange(10), default=HOPS, show_default=True, help="Over which memory is watched.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write everything to this file.")
@click.option("--check", is_flag=True, help="End with 1 where a target is missed.")
def main(
    peers: tuple[Theirs, ...],
    device: str | None,
    recording: Path,
    rounds: int,
    seconds: float,
    hops: int,
    out: Path | None,
    check: bool,
) -> None:
    """Measure our files beside those of others, which hear RATE (16000 Hz); the targets are of the first, YAMNet."""
    if out:
        require_writable(out)
    settings = Settings((BUNDLED, FP32), peers, input=recording, rounds=rounds, seconds=seconds, hops=hops)
    try:
        document, found = run(settings, device)
    except EdgeError as error:
        raise click.ClickException(str(error)) from None
    click.echo(markdown(document))
    click.echo("\n## Targets\n\n" + targets_table(found))
    if out:
        kept = {"command": "python -m benchmarks.peers", "revision": revision(), "run": document}
        write_json(out, kept | {"targets": [asdict(t) | {"met": t.met} for t in found]})
    if check and any(t.met is False for t in found):
        sys.exit(1)


def run(settings: Settings, device: str | None) -> tuple[dict[str, Any], list[Target]]:
    """The benchmark's document, and the targets. Raises EdgeError."""
    before = conditions()
    subjects, fresh = open_all(settings)
    subjects.append(LibrosaRecompute(sound_of(settings.input), subjects[0].facts.hop_seconds))
    starts = [partial(measure_fresh, f if n == 0 else replace(f, hops=0)) for n, f in enumerate(fresh)]
    memory = None if device is None else memory_with_microphone(device)  # first: a wrong name would lose the rest
    document = measure(subjects, settings, [*starts, none], before).document()
    return document, targets(document, subjects[2].name, memory)


def none() -> Started | None:
    """The usual way is no file: nothing to start."""


def targets(document: Mapping[str, Any], peer: str, memory_mb: float | None) -> list[Target]:
    """The promises, with what ``document`` has of ``peer`` (YAMNet)."""
    ratios, results = document["ratios"], document["results"]
    int8, fp32 = list(results.values())[:2]
    trunk = fp32["hot"]["network_window"]["p50"] / int8["hot"]["network_window"]["p50"]

    def rows() -> Iterator[tuple[str, float | None, float | None, float | None]]:
        yield f"hop against {peer}, hot", 12, None, ratios[peer]["hot"]
        yield f"hop against {peer}, cold", 5, None, ratios[peer]["cold"]
        yield f"CPU against {peer}, paced", 4, None, ratios[peer]["paced_cpu"]
        yield f"whole window against {peer}'s {results[peer]['patches']} patches", 20, None, ratios[peer]["window"]
        yield "hop against librosa and fp32, recomputed", 20, None, ratios["librosa-fp32"]["hot"]
        yield "hop against our own window, recomputed", 5, None, round(1 / int8["hop_over_window"], 3)
        yield "int8 against fp32, network of a window", 2.8, None, round(trunk, 3)
        yield "resident with the microphone open, MB", None, 95, memory_mb
        yield "start to first decision on a file, ms", None, 250, int8["start_ms"]
        yield "memory slope, bytes a hop", None, LEVEL, int8["memory_slope"]

    return [Target(*row) for row in rows()]


def targets_table(found: list[Target]) -> str:
    """In Markdown."""
    verdicts = {True: "met", False: "missed", None: "not measured"}
    rows = [
        (
            t.name,
            f"≥ {t.least:g}" if t.least is not None else f"≤ {t.most:g}",
            "–" if t.measured is None else f"{t.measured:.2f}",
            verdicts[t.met],
        )
        for t in found
    ]
    return table(("", "target", "measured", ""), rows, text_columns=1)


def memory_with_microphone(device: str) -> float:
    """Millions of bytes resident in a process of edge-listen at its third decision on a microphone.

    Raises EdgeError where that does not hear anything.
    """
    command = [sys.executable, "-m", "edge.cli.listen", "--device", device, "--output", "jsonl", "--duration", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        windows = 0
        for line in process.stdout:
            windows += json.loads(line)["type"] == "window"
            if windows == 3:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()[1])
                process.terminate()
                return round(pages * os.sysconf("SC_PAGESIZE") / 1e6, 1)
    raise EdgeError(f"{device!r} cannot be listened to", remedy="see edge-listen --list-devices")


def revision() -> str | None:
    """Of the checkout, with a + where it was changed; None without git."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None


if __name__ == "__main__":
    main()
