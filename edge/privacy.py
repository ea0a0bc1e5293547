"""What must not leave the device's memory: sound of any kind (ram-only), or clips in which a voice is heard."""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import EdgeError
from edge.voice import threshold, voice_score

if TYPE_CHECKING:
    from edge.listener import Window

F32 = NDArray[np.float32]

RAM_ONLY = "ram-only"
# Options that store or send sound when they have a value; whoever adds one names it here.
SOUND_OPTIONS = ("clips",)
# Of ESC-50 and AudioSet, what may carry words: for VoiceConfig.labels, where a model knows them.
VOICE_LABELS = ("laughing", "crying_baby", "Speech", "Conversation", "Singing", "Whispering", "Shout", "Laughter")
WINDOWS = 2048  # of scores that are remembered: more than the longest clip, at the shortest hop


class PrivacyError(EdgeError):
    """Two wishes that exclude each other: keep no sound, and keep it. The exit code is that of usage."""

    exit_code = 2


def require_ram_only(settings: Mapping[str, Any], sinks: Iterable[object] = ()) -> None:
    """Hold ``--privacy ram-only``: nothing of the sound is stored or sent, not even by a crash.

    ``settings`` are the effective ones, by the names of their options; a sink that would store or send sound has an
    attribute ``sound_option``, the name of the option that asked for it.

    Raises:
        PrivacyError: names the first option that would store or send sound.
    """
    asked = [name for name in settings if name.replace("_", "-") in SOUND_OPTIONS and settings[name]]
    asked += [name for sink in sinks if (name := getattr(sink, "sound_option", None))]
    if asked:
        option = f"--{asked[0].replace('_', '-')}"
        raise PrivacyError(
            f"{option} would keep sound, and --privacy {RAM_ONLY} forbids it", remedy=f"leave one of them out: {option}"
        )
    # A core dump holds the sound that is in memory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@dataclass(frozen=True)
class VoiceConfig:
    """When a clip is withheld."""

    threshold: float | None = None  # score of our detector from which a voice is heard; None: the one it was set to
    labels: tuple[str, ...] = ()  # the model's classes that are voices; see VOICE_LABELS
    label_score: float = 0.2  # score of one of them, in a window that touches the clip, from which a voice is heard

    def __post_init__(self) -> None:
        for name in ("threshold", "label_score"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise EdgeError(
                    f"voice {name} is {value!r}; allowed: 0 to 1", remedy="correct the settings of the clips"
                )


class VoiceFilter:
    """Tells whether a voice is heard in a stretch of sound; in doubt it is.

    Two witnesses: our detector (:mod:`edge.voice`) hears the samples; the model's scores of ``labels`` are remembered
    as the windows come. ``window`` is for the thread that listens, the call for the one that writes clips.
    """

    def __init__(self, config: VoiceConfig) -> None:
        self._config = config
        self._threshold = threshold() if config.threshold is None else config.threshold
        self._heard: deque[tuple[float, float]] = deque(maxlen=WINDOWS)  # onset and offset of windows with a voice

    def window(self, window: Window) -> None:
        """Remember what the model says of voices in ``window``."""
        scores = (window.probs[i] for i, label in enumerate(window.labels) if label in self._config.labels)
        if max(scores, default=0.0) >= self._config.label_score:
            self._heard.append((window.onset, window.offset))

    def __call__(self, samples: F32, sample_rate: int, onset: float, offset: float) -> bool:
        """Whether a voice is heard in [n] or [n, channels], from ``onset`` to ``offset`` in seconds of stream."""
        if any(begin < offset and end > onset for begin, end in tuple(self._heard)):
            return True
        return not voice_score(samples, sample_rate) < self._threshold  # what is no number is a voice
