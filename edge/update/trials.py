"""New models on this device: each candidate listens beside the model in use, and takes over, or not, by its rules."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np

from edge.classifier import Classifier
from edge.config import ModelSpec
from edge.errors import EdgeError
from edge.listener import Successor
from edge.model_file import read_model
from edge.recent import Recent
from edge.records import Record
from edge.shadow import Asked, Observed, Shadow
from edge.sources.block import Block
from edge.update.probation import SECONDS as PROBATION_SECONDS
from edge.update.probation import Probation
from edge.update.rules import ShadowReport, judge
from edge.update.versions import Candidate, Versions

log = logging.getLogger("edge.update")

POLL_SECONDS = 60.0  # between two looks for a candidate
JUDGING_SECONDS = 1.0  # between two looks at one that listens
NOTHING = Observed(0.0, 0, 0, 0, 0, (), (), 0.0, "", "")
LONGEST_WINDOW = 10.0  # seconds that are kept for a successor


@dataclass
class _Trial:
    candidate: Candidate
    shadow: Shadow
    window_samples: int  # of the candidate
    source: str | None = None  # that it follows; None: none yet
    over: bool = False  # its source has ended


class Trials:
    """Looks for candidates, tries them and gives the followers their successor. It is a sink as well: the records of
    the model in use are what a candidate is held against.

    ``asked`` says what a candidate is to do, ``load`` opens it once it is promoted. :meth:`start` begins.
    """

    types = frozenset({"window", "event", "end"})

    def __init__(
        self,
        versions: Versions,
        asked: Callable[[ModelSpec], Asked],
        classifier: Classifier,
        load: Callable[[Path], Classifier],
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._versions, self._asked, self._load = versions, asked, load
        self._probation = Probation(versions)
        self._trusted = monotonic() + PROBATION_SECONDS
        self._poll_seconds = poll_seconds
        self._current, self._path = classifier, classifier.path
        self._followers: list[Follower] = []
        self._trial: _Trial | None = None
        self._put_off: int | None = None  # release that is not tried any more while this program runs
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="trials", daemon=True)

    def start(self) -> None:
        """Begin to look for candidates."""
        self._thread.start()

    def follower(self, source: Callable[[], str], hop: float | None) -> Follower:
        """The succession of one source, whose name ``source`` gives."""
        self._followers.append(Follower(self, source, self._current.spec, hop))
        return self._followers[-1]

    def write(self, record: Record) -> None:
        """A record of the model in use."""
        trial = self._trial
        if trial is None or record["type"] not in self.types or record["source"] != trial.source:
            return
        if record["type"] == "end":
            trial.over = True
        else:
            trial.shadow.told(record)

    def close(self) -> None:
        """A candidate that listens is tried again at the next start."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def trial_of(self, source: str) -> tuple[Shadow, int] | None:
        """The candidate that wants the blocks of ``source``, and its window in samples.

        The first source that asks is the one that it follows.
        """
        trial = self._trial
        if trial is None or trial.source not in (None, source):
            return None
        trial.source = source
        return trial.shadow, trial.window_samples

    def _work(self) -> None:
        while not self._ended.wait(self._poll_seconds if self._trial is None else JUDGING_SECONDS):
            with _logged():
                self._step()
        self._end()

    def _step(self) -> None:
        trial = self._trial
        if self._probation.pending() and monotonic() > self._trusted:
            self._probation.passed()
        if trial is None:
            candidate = self._versions.candidate()
            if candidate is not None and candidate.number != self._put_off:
                self._try(candidate)
            elif self._versions.current() != self._path:
                log.info("another release was chosen by hand")
                self._use(self._versions.current())
            return
        waiting = self._versions.state().candidate
        if waiting is None or waiting.number != trial.candidate.number:
            log.info(
                "release %d is not tried any longer: it was withdrawn, or a newer one has come", trial.candidate.number
            )
            self._end()
            return
        if trial.over:
            log.info("release %d is tried anew: %s, which it followed, has ended", trial.candidate.number, trial.source)
            self._end()
            return
        observed = trial.shadow.observed()
        if observed.ended:
            number = self._put_off = trial.candidate.number
            log.warning(
                "release %d is tried again after the next start: its process ended with %s", number, observed.ended
            )
            self._end()
            return
        report = report_of(observed)
        verdict = judge(trial.candidate.rules, report)
        if verdict.decision == "wait":
            return
        self._end()
        if verdict.decision == "promote":
            self._promote(trial.candidate, report)
        else:
            log.warning("release %s is not used: %s", trial.candidate.number, verdict.reason)
            self._versions.reject(trial.candidate, verdict.reason, report)

    def _try(self, candidate: Candidate) -> None:
        _, spec = read_model(candidate.path)
        if not all(follower.takes(spec) for follower in self._followers):
            reason = "its sample rate, channels, hop or window are not those of the model in use"
            log.warning("release %s is not tried: %s", candidate.number, reason)
            self._versions.reject(candidate, reason, report_of(NOTHING))
            return
        log.info("release %s is tried beside the model in use", candidate.number)
        shadow = Shadow(candidate.path, self._asked(self._current.spec))
        self._trial = _Trial(candidate, shadow, spec.window_samples)

    def _end(self) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.shadow.close()

    def _promote(self, candidate: Candidate, report: ShadowReport) -> None:
        path = self._versions.promote(candidate, report)
        self._probation.begin()
        self._trusted = monotonic() + PROBATION_SECONDS
        log.info("release %s is used from now on", candidate.number)
        self._use(path)

    def _use(self, path: Path) -> None:
        self._path = path
        classifier = self._load(path)
        if not all(follower.takes(classifier.spec) for follower in self._followers):
            log.warning("%s is used after the next start: it hears otherwise than the model in use", path)
            return
        self._current = classifier
        for follower in self._followers:
            follower.offer(classifier)


class Follower:
    """The succession of one source: see :class:`edge.listener.Succession`."""

    def __init__(self, trials: Trials, source: Callable[[], str], spec: ModelSpec, hop: float | None) -> None:
        self._trials, self._source, self._spec, self._hop = trials, source, spec, hop
        frontend = spec.frontend
        kept = max(spec.window_samples, round(LONGEST_WINDOW * frontend.sample_rate))
        self._recent = Recent(kept + spec.hop_samples(hop), frontend.channels)
        self._shadow: Shadow | None = None  # whose windows end where those of the model in use do
        self._offered: Classifier | None = None

    def follow(self, block: Block, since: int | None) -> Successor | None:
        """See :class:`edge.listener.Succession`."""
        self._recent.push(block)
        if since is None:
            self._shadow = None  # the windows of the model in use begin anew: so must those of the candidate
            return None
        self._feed(block, since)
        classifier = self._offered
        if classifier is None:
            return None
        spec = classifier.spec
        samples = self._recent.last(spec.window_samples - spec.hop_samples(self._hop) + since)
        if samples is None:
            return None
        self._offered, self._spec = None, spec
        return Successor(classifier, samples)

    def takes(self, spec: ModelSpec) -> bool:
        """Whether a model of ``spec`` can take over while the source is open."""
        frontend, own = spec.frontend, self._spec.frontend
        return (
            (frontend.sample_rate, frontend.channels) == (own.sample_rate, own.channels)
            and spec.hop_samples(self._hop) == self._spec.hop_samples(self._hop)
            and spec.window_samples <= self._recent.n_samples
        )

    def offer(self, classifier: Classifier) -> None:
        """From another thread: ``classifier`` takes over as soon as enough has been heard."""
        self._offered = classifier

    def _feed(self, block: Block, since: int) -> None:
        trial = self._trials.trial_of(self._source())
        if trial is None:
            return
        shadow, window_samples = trial
        if shadow is self._shadow and block.lost < window_samples:
            shadow.heard(block)
        elif (first := self._recent.last(window_samples + since)) is not None:
            # Its first window ends where the newest one of the model in use does: so do all others. What is said to be
            # lost makes it begin anew, where it has heard something before.
            before = len(first) - len(block.samples)
            adc_time = block.adc_time - before / self._spec.frontend.sample_rate
            shadow.heard(Block(first, block.position - before, adc_time, lost=window_samples))
            self._shadow = shadow


def report_of(observed: Observed) -> ShadowReport:
    """What the rules are applied to."""
    own, current = (_percentiles(busy) for busy in (observed.busy_ms, observed.current_busy_ms))
    return ShadowReport(
        seconds=observed.seconds,
        windows=observed.windows,
        disagreements=observed.disagreements,
        events_current=observed.current_events,
        events_candidate=observed.events,
        latency_p50_current=current[0],
        latency_p95_current=current[1],
        latency_p50_candidate=own[0],
        latency_p95_candidate=own[1],
        memory_mib=observed.memory_growth_mib,
        crashed=observed.failed or None,
    )


def _percentiles(busy: tuple[float, ...]) -> tuple[float, float]:
    if not busy:
        return 0.0, 0.0
    p50, p95 = np.percentile(busy, [50, 95])
    return float(p50), float(p95)


@contextmanager
def _logged() -> Iterator[None]:
    """What goes wrong with an update must not end the thread that looks for the next one."""
    try:
        yield
    except (EdgeError, OSError) as error:
        log.warning("update: %s", error)
