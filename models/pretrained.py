"""The bundled model's weights, to start training from: ``python -m models.pretrained CHECKPOINT`` replaces them.

A device's file cannot serve: its batch norms are folded into the convolutions. Half precision halves the file, and what
it rounds off is far below what the first step of training changes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models.checkpoint import load_checkpoint, save_checkpoint

BUNDLED = Path(__file__).parent / "assets" / "edge-listen.pt"


def keep(checkpoint: Path, path: Path = BUNDLED) -> None:
    """Write the weights of ``checkpoint`` to ``path`` in half precision. Raises ValueError, OSError."""
    whole = load_checkpoint(checkpoint)
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in whole.state.items()}
    save_checkpoint(path, replace(whole, state=halves))


def main(arguments: Sequence[str]) -> None:
    """What goes wrong is one line."""
    if len(arguments) != 1:
        sys.exit("usage: python -m models.pretrained CHECKPOINT")
    try:
        keep(Path(arguments[0]))
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
