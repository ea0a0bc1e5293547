"""Where samples come from: microphone, sound file, raw PCM. One interface: a Source yields Blocks."""

from edge.sources.block import Block, Source

__all__ = ["Block", "Source"]
