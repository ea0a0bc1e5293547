"""A source that goes away and comes back, as a script tells; and ``edge-listen`` with it, in a process of its own."""

import sys
import time

import numpy as np

from edge.sources.block import Block, Outage


def outage(seconds=1.0, reason="missing"):
    return Outage(reason, "'usb' is not there", "plug it in", seconds)


class Away:
    """``script``: seconds of sound (a float), or an Outage, after ``pause`` seconds."""

    name = "usb"

    def __init__(self, *script, signal=None, pause=0.0, realtime=False):
        self.script, self.signal, self.pause, self.realtime = script, signal, pause, realtime

    def blocks(self, sample_rate, length, first=None, channels=1):
        return self._blocks(sample_rate, length, first or length)

    def _blocks(self, rate, length, first):
        position, lost, need = 0, 0, first
        for item in self.script:
            if isinstance(item, Outage):
                lost += rate if position else 0  # they come once a second; a stream that has not begun loses nothing
                time.sleep(self.pause)
                yield item
                continue
            end = position + lost + round(item * rate)
            while position + lost + need <= end:
                position += lost
                samples = np.random.default_rng(position).uniform(-0.1, 0.1, need).astype(np.float32)
                time.sleep(need / rate if self.realtime else 0)
                yield Block(samples, position, time.time() - need / rate, lost, 0, self.signal)
                position, lost, need = position + need, 0, length


def main():
    """``python -m tests.away KIND [options of edge-listen]``."""
    from edge.cli import opening
    from edge.cli.listen import main as command

    kinds = {
        "waiting": lambda: Away(*[outage()] * 1000, pause=1.0),
        "lost": lambda: Away(4.5, *[outage()] * 1000, pause=0.3),
        "hanging": Hanging,
    }
    kind = sys.argv.pop(1)
    opening.the_source = lambda *_: kinds[kind]()
    command()


class Hanging(Away):
    """Gives sound for a while, and then nothing, not even an outage."""

    def blocks(self, *arguments):
        yield from Away(6.0, realtime=True).blocks(*arguments)
        time.sleep(1000)


if __name__ == "__main__":
    main()
