"""Where a network listened: its attention over the spectrogram of a recording's first window.

    python examples/attention_map.py runs/mine/checkpoint.pt dog.wav dog.png

Takes checkpoints of the architectures "attention" and "bilstm"; runs from the checkout.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds its own folder alone

from edge.audio import padded
from edge.errors import EdgeError
from edge.features import make_frontend
from edge.sources.file import SoundFile
from models.checkpoint import Checkpoint, load_checkpoint


def attention_map(checkpoint: Checkpoint, recording: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Frames [n_mels, T] of the first channel, the weights of their places [M', T'], and the class that is named.

    Raises ValueError for a network without attention.
    """
    model, frontend = checkpoint.model(), checkpoint.frontend
    if not hasattr(model, "attention"):
        raise ValueError(f"{checkpoint.architecture} has no attention; take a checkpoint of attention or bilstm")
    length = frontend.n_samples(model.window_frames)
    samples = padded(SoundFile(recording).read(frontend.sample_rate, frontend.channels), length)[:length]
    frames = make_frontend(frontend)(samples)
    batch = torch.from_numpy(frames[None].copy())
    with torch.inference_mode():
        weights = model.attention(batch)[0].numpy()
        label = checkpoint.labels[int(model(batch).argmax())]
    return frames[0], np.atleast_2d(weights), label


def draw(frames: np.ndarray, weights: np.ndarray, title: str, path: Path) -> None:
    """The spectrogram in grey, and over it what was listened to in colour."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    extent = (0, frames.shape[1], 0, frames.shape[0])
    axes.imshow(frames, origin="lower", aspect="auto", cmap="gray", extent=extent)
    image = axes.imshow(
        weights, origin="lower", aspect="auto", cmap="inferno", alpha=0.5, extent=extent, interpolation="bilinear"
    )
    axes.set(title=title, xlabel="frame", ylabel="mel band")
    figure.colorbar(image, label="weight")
    figure.savefig(path)
    plt.close(figure)


def main(arguments: Sequence[str]) -> None:
    """Draw it; what goes wrong is one line."""
    if len(arguments) != 3:
        sys.exit(__doc__)
    checkpoint, recording, picture = map(Path, arguments)
    try:
        *drawn, heard = attention_map(load_checkpoint(checkpoint), recording)
        draw(*drawn, f"{recording.name}: {heard}", picture)
    except (EdgeError, OSError, ValueError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
