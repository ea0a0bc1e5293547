"""The process in which a candidate listens beside the model that is in use: blocks on stdin, records on stdout.

A process of its own, because a model that crashes, hangs or leaks must not take the listener with it. Started by
:mod:`edge.shadow`.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge.bench.machine import resident_bytes
from edge.calibration import calibrated
from edge.classifier import Classifier
from edge.errors import ContractError, EdgeError, InputError, SettingsError
from edge.rules import events_of
from edge.session import Plan, Session
from edge.sources.block import Block
from edge.update.prove import REFUSED

F32 = NDArray[np.float32]

HEADER = struct.Struct("<qdqi")  # of a block: position, time, samples lost before it, samples
NICENESS = 10  # the model in use comes first
TOLD = ("start", "window", "event", "error")  # records that the parent wants


def packed(block: Block) -> bytes:
    """A block as the child reads it."""
    return HEADER.pack(block.position, block.adc_time, block.lost, len(block.samples)) + block.samples.tobytes()


class Pipe:
    """The blocks that the parent sends, as a source: of the length that it chose."""

    name = "shadow"

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def blocks(self, sample_rate: int, length: int, first: int | None = None, channels: int = 1) -> Iterator[Block]:
        """See :class:`edge.sources.block.Source`."""
        while len(header := self._file.read(HEADER.size)) == HEADER.size:
            position, adc_time, lost, n = HEADER.unpack(header)
            data = self._file.read(4 * n * channels)
            if len(data) < 4 * n * channels:
                return
            samples: F32 = np.frombuffer(data, np.float32)
            yield Block(samples if channels == 1 else samples.reshape(n, channels), position, adc_time, lost)


def main() -> None:
    """The first line of stdin says what to do, as JSON; blocks follow."""
    with suppress(OSError):  # a sandbox may forbid it
        os.nice(NICENESS)
    asked = json.loads(sys.stdin.buffer.readline())
    try:
        classifier = Classifier(Path(asked["model"]), provider=asked["provider"], threads=asked["threads"])
        spec = classifier.spec
        if (found := [spec.frontend.sample_rate, spec.frontend.channels]) != asked["sound"]:
            raise InputError(f"the model hears {found}, and not {asked['sound']}", remedy="see edge.shadow")
        site = asked["site"] and Path(asked["site"])
        events = calibrated(events_of(asked["events"]), spec, site, asked["hop"], ignored=SettingsError)
        session = Session(Pipe(sys.stdin.buffer), classifier, Plan(events, asked["hop"], top_k=1))
        for record in session.records():
            if record["type"] in TOLD:
                print(json.dumps(record | {"resident_mib": resident_bytes() / 2**20}), flush=True)
    except EdgeError as error:
        print(error, file=sys.stderr)
        # A provider that is not there just now, for one, is no fault of the model.
        sys.exit(REFUSED if isinstance(error, ContractError | SettingsError | InputError) else error.exit_code)


if __name__ == "__main__":
    main()
