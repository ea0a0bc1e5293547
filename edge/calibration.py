"""Thresholds for one place: so many false alarms a day, learnt from what is heard there.

While nothing is to be detected, every event would be a false alarm. The highest score of each label in each
``BLOCK_SECONDS`` is kept. Where more is promised than was listened to (one a day, from four hours), the tail of these
maxima is extrapolated: above a high quantile, log-odds of scores fall off exponentially (peaks over threshold, Davison
and Smith 1990). The fall is taken as slow as its standard error allows: little listening means high thresholds. Most
tails end sooner than that, but how much sooner cannot be told from a few hours: fits with an end break the promise. And
a tail begins late, with few blocks: what is seldom heard in a place falls off more slowly than what is heard always, so
that a fit to both breaks the promise as well.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.config import ModelSpec
from edge.decisions import Detector, model_id
from edge.errors import SettingsError
from edge.files import is_there, replacing, require_folder, state_folder, write_json
from edge.listener import Window
from edge.rules import EventConfig, Outcome, outcomes_of
from edge.settings import settings_of

log = logging.getLogger("edge.calibration")

F64 = NDArray[np.float64]

SCHEMA_VERSION = 2  # of the file; 1 was of scores alone, and of two windows that agree
DAY = 86_400.0  # seconds
BLOCK_SECONDS = 30.0  # of which the highest score is kept: longer than the windows that one sound is in
LEAST_SECONDS = 600.0  # twenty blocks: below that there is no tail to speak of
LEAST_TAIL = 5  # blocks that are the tail; of many, the square root of half of them
CAUTION = 2.0  # standard errors by which a tail is taken to fall more slowly than was seen
LEAST_SCORE = 1e-4  # scores below say nothing
HIGHEST = 0.999  # threshold; what would need a higher one is muted


@dataclass(frozen=True)
class Site:
    """What was learnt at a place, for one model."""

    model: str  # see edge.decisions.model_id
    made: str  # when, RFC 3339
    hours: float  # listened to
    max_false_per_day: float  # promised, all labels together
    expected_per_day: float  # by the extrapolated tails
    heard: int  # events that these thresholds would have told of what was listened to
    at_most_per_day: float  # what ``heard`` proves by itself, with 95 % confidence
    thresholds: dict[str, float]  # label → score from which it counts; without those whose usual threshold suffices
    muted: tuple[str, ...]  # labels that cannot keep the promise at any threshold
    manners: dict[str, str]  # class → how it was listened to, see :func:`manners`
    schema_version: int = SCHEMA_VERSION

    def save(self, path: Path) -> None:
        """As JSON; what was there before is kept beside it, for :func:`undo`. Raises OSError."""
        path = _own(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with replacing(_before(path)) as part:
                shutil.copyfile(path, part)
        write_json(path, asdict(self))

    def listened_otherwise(self, now: Mapping[str, str]) -> str:
        """Which of the classes that were listened to are so in another manner ``now``: empty, or an example in words.

        A class that was left out of the calibration was so on purpose.
        """
        others = [name for name, manner in now.items() if name in self.manners and manner != self.manners[name]]
        if not others:
            return ""
        first = others[0]
        more = f", and {len(others) - 1} more" if others[1:] else ""
        return f"{first} {self.manners[first]}; now {now[first]}{more}"

    def applied(self, config: EventConfig) -> EventConfig:
        """``config`` with these thresholds, where it names none itself."""
        return replace(config, calibrated=self.thresholds, muted=self.muted)

    @classmethod
    def load(cls, path: Path) -> Site:
        """Read :meth:`save`. Raises SettingsError."""
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SettingsError(f"{path} is not there", remedy="name another file, or calibrate") from None
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}", remedy="name another file") from None
        except ValueError as error:
            raise SettingsError(f"{path} cannot be read: {error}", remedy="calibrate again, or --undo") from None
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise SettingsError(f"{path} has schema_version {version!r}", remedy="calibrate again, or --undo")
        try:
            return settings_of(cls, data, str(path))
        except SettingsError as error:
            raise SettingsError(error.what, remedy="calibrate again, or --undo") from None


def site_path() -> Path | None:
    """Where ``edge-calibrate`` keeps a site, and ``edge-listen`` finds it; None for a user without a home."""
    folder = state_folder()
    return None if folder is None else folder / "site.json"


def require_place(path: Path) -> None:
    """Raises SettingsError where a site could not be kept in ``path``, or would replace something else."""
    folder = _own(path).parent
    try:
        _require_calibration(path)
        require_folder(folder)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}", remedy="name another --site") from None


def _require_calibration(path: Path) -> None:
    """Raises SettingsError for what is there, and neither empty nor a calibration; OSError."""
    if not path.exists():
        return
    if not path.is_file():
        raise SettingsError(f"{path} is no file", remedy="name another --site")
    if not (content := path.read_bytes()):
        return
    try:
        held = json.loads(content)
    except ValueError:
        held = None
    if not (isinstance(held, dict) and "max_false_per_day" in held):
        raise SettingsError(f"{path} holds something else than a calibration", remedy="name another --site")


class OtherModelError(SettingsError):
    """What was learnt at a place is of another model."""


def calibrated(
    config: EventConfig,
    spec: ModelSpec,
    path: Path | None,
    hop: float | None = None,
    *,
    ignored: type[SettingsError] | tuple[()] = (),
) -> EventConfig:
    """``config`` with the thresholds in ``path``; without one, with those kept on this device for this model, if any.
    Where they were learnt by other rules than those of ``config``, or at another ``hop`` (seconds), that is logged.

    Raises EdgeError for a ``config`` or a ``hop`` that does not fit the model, SettingsError where ``path`` cannot be
    read, and OtherModelError. What is ``ignored`` of these two is logged, as is whatever is wrong with what was kept,
    and nothing is applied.
    """
    kept = path or site_path()
    if kept is None or (path is None and not is_there(kept)):
        return config
    try:
        site = Site.load(kept)
        if site.model != (model := model_id(spec)):
            raise OtherModelError(f"{kept} is of the model {site.model!r}, not {model!r}", remedy="calibrate again")
    except SettingsError as error:
        if path is not None and not isinstance(error, ignored):
            raise
        log.warning("not used: %s", error)
        return config
    log.info("thresholds of %s, learnt in %.2f hours", kept, site.hours)
    if other := site.listened_otherwise(manners(spec, config, hop)):
        log.warning(
            "%s promises nothing here: it was learnt by other rules (%s); calibrate again, by these", kept, other
        )
    return replace(site.applied(config), site=str(kept))


def manners(spec: ModelSpec, config: EventConfig, hop: float | None) -> dict[str, str]:
    """Class → what its evidence depends on, before that is held against a threshold, in words. Raises EdgeError."""
    return {
        spec.labels[place]: f"as {outcome.label} every {spec.hop_seconds(hop):g} s, beginning {rule.beginning:g}, "
        f"confirm {rule.confirm}, smoothing {rule.smoothing:g}"
        for outcome in outcomes_of(spec, config)
        for rule in [outcome.rule]
        for place in outcome.classes
    }


def undo(path: Path) -> bool:
    """Takes the last calibration back: whether there is one before it. Raises SettingsError where there is none."""
    if not is_there(path):
        raise SettingsError(f"{path} is not there", remedy="nothing was calibrated, or it was undone already")
    try:
        _require_calibration(path)
        own = _own(path)
        if _before(own).exists():
            _before(own).replace(own)
            return True
        own.unlink()
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be taken back: {error.strerror}", remedy="allow this user to write there"
        ) from None
    return False


def _own(path: Path) -> Path:
    """The file itself, where ``path`` is a link to it."""
    return Path(os.path.realpath(path))


def _before(path: Path) -> Path:
    return path.with_name(f"{path.stem}.before{path.suffix}")


def require_enough(seconds: float | None) -> None:
    """Raises SettingsError for a time to listen in which too little is heard; None has no end."""
    if seconds is not None and seconds < LEAST_SECONDS:
        raise SettingsError(
            f"{seconds / 60:.1f} minutes are too few to promise anything",
            remedy=f"listen for {LEAST_SECONDS / 60:g} minutes at least; hours are better",
        )


class Calibration:
    """Gathers the evidence for each label while there is nothing to detect: a few numbers for each half minute."""

    def __init__(self, spec: ModelSpec, config: EventConfig, hop: float | None = None) -> None:
        """``hop`` is in seconds; None: the model's default. Raises EdgeError for rules or a hop that do not fit."""
        self._detector = Detector(spec, config)
        self._manners, self._hop_seconds = manners(spec, config, hop), spec.hop_seconds(hop)
        self._model = model_id(spec)
        self._outcomes = self._detector.outcomes
        self._confirm = [o.rule.confirm for o in self._outcomes]
        self._recent: deque[F64] = deque(maxlen=max(self._confirm))
        self._maxima: list[F64] = []  # of finished blocks: [n_outcomes]
        self._block: F64 = np.zeros(len(self._outcomes))
        self._block_seconds = 0.0
        self.seconds = 0.0  # listened to

    def push(self, window: Window) -> None:
        """One more window, a hop after the one before."""
        self._recent.append(self._detector.evidence(window))
        recent = np.array(self._recent)
        for place, confirm in enumerate(self._confirm):  # what counts is the least of as many as must confirm
            if len(recent) >= confirm:
                self._block[place] = max(self._block[place], recent[-confirm:, place].min())
        self.seconds += self._hop_seconds
        self._block_seconds += self._hop_seconds
        if self._block_seconds >= BLOCK_SECONDS:
            self._maxima.append(self._block)
            self._block, self._block_seconds = np.zeros(len(self._outcomes)), 0.0

    def pause(self) -> None:
        """What comes next is another stream, or the same one after a gap."""
        self._detector.close()
        self._recent.clear()

    def site(self, max_false_per_day: float, made: str) -> Site:
        """The thresholds that keep the promise. Raises SettingsError where too little was heard for it."""
        require_enough(self.seconds)
        maxima = np.array(self._maxima)  # [n_blocks, n_outcomes]
        tails = [Tail.of(maxima[:, place]) for place in range(maxima.shape[1])]
        raised = _raised(tails, [o.threshold for o in self._outcomes], max_false_per_day)
        scores = {self._outcomes[place].label: threshold for place, threshold in raised.items()}
        muted = tuple(label for label, threshold in scores.items() if threshold > HIGHEST)
        thresholds = {label: math.ceil(t * 1e4) / 1e4 for label, t in scores.items() if label not in muted}
        now = np.array([_threshold(o, thresholds, muted) for o in self._outcomes])
        heard = int((maxima >= now).sum())
        days = self.seconds / DAY
        return Site(
            model=self._model,
            made=made,
            hours=round(self.seconds / 3600, 3),
            max_false_per_day=max_false_per_day,
            expected_per_day=round(sum(t.per_day(n) for t, n in zip(tails, now.tolist(), strict=True) if n <= 1), 4),
            heard=heard,
            at_most_per_day=round(poisson_bound(heard) / days, 3),
            thresholds=thresholds,
            muted=muted,
            manners=self._manners,
        )


@dataclass(frozen=True)
class Tail:
    """The highest scores of blocks: how often one is above a threshold."""

    blocks_per_day: float
    start: float  # log-odds from which on the tail is exponential
    share: float  # of blocks above it
    scale: float  # of the fall, in log-odds
    maxima: F64  # log-odds of all blocks, sorted

    @classmethod
    def of(cls, maxima: F64) -> Tail:
        """Of one label's maxima, as scores."""
        odds = np.sort(_log_odds(maxima))
        k = max(LEAST_TAIL, round(math.sqrt(len(odds) / 2)))  # those above the start
        start = float(odds[-k - 1])
        excess = odds[-k:] - start
        scale = float(excess.mean()) * (1 + CAUTION / math.sqrt(k))
        return cls(DAY / BLOCK_SECONDS, start, k / len(odds), max(scale, 0.05), odds)

    def per_day(self, threshold: float) -> float:
        """Blocks a day whose maximum is at least ``threshold``: as many as were seen, or more by the tail's fit."""
        odds = float(_log_odds(np.array([threshold]))[0])
        seen = float((self.maxima >= odds).mean())
        fit = self.share * math.exp(-(odds - self.start) / self.scale) if odds > self.start else 0.0
        return self.blocks_per_day * max(seen, fit)

    def threshold(self, per_day: float) -> float:
        """The lowest score that at most so many blocks a day reach: above all that was heard, where it is less than one
        in that time.
        """
        share = per_day / self.blocks_per_day
        allowed = int(share * len(self.maxima))  # blocks of those that were heard
        if allowed >= len(self.maxima):
            return LEAST_SCORE
        odds = float(self.maxima[-allowed - 1]) + 1e-6  # a score that reaches its threshold counts
        if share < self.share:
            odds = max(odds, self.start + self.scale * math.log(self.share / share))
        return 1 / (1 + math.exp(-odds))


def _raised(tails: Sequence[Tail], usual: Sequence[float], budget: float) -> dict[int, float]:
    """Thresholds by their place, of those whose usual one does not suffice to keep all within ``budget`` events a day.

    One above ``HIGHEST`` is of a label to be muted: it spends nothing, and what it would have had is the others'.
    """
    rates = [tail.per_day(threshold) for tail, threshold in zip(tails, usual, strict=True)]
    muted: dict[int, float] = {}
    while True:
        each = allowance([rate for place, rate in enumerate(rates) if place not in muted], budget)
        left = [place for place, rate in enumerate(rates) if rate > each and place not in muted]
        raised = {place: tails[place].threshold(each) for place in left}
        worst = max(raised, key=raised.__getitem__, default=None)
        if worst is None or raised[worst] <= HIGHEST:
            return raised | muted
        muted[worst] = raised[worst]


def allowance(rates: Iterable[float], budget: float) -> float:
    """What each label may have, so that all together have ``budget``: those that need less leave it to the others."""
    rates = sorted(rates)
    for place, rate in enumerate(rates):
        if rate * (len(rates) - place) >= budget:
            return budget / (len(rates) - place)
        budget -= rate
    return math.inf


def poisson_bound(count: int) -> float:
    """The mean that ``count`` or fewer have a probability of 5 % under."""
    low, high = 0.0, count + 10 * math.sqrt(count + 1) + 10
    for _ in range(60):
        mean = (low + high) / 2
        below = sum(math.exp(-mean + n * math.log(mean) - math.lgamma(n + 1)) for n in range(count + 1)) if mean else 1
        low, high = (mean, high) if below > 0.05 else (low, mean)
    return high


def _log_odds(scores: F64) -> F64:
    clipped = np.clip(scores, LEAST_SCORE, 1 - 1e-7)
    odds: F64 = np.log(clipped) - np.log1p(-clipped)
    return odds


def _threshold(outcome: Outcome, thresholds: dict[str, float], muted: tuple[str, ...]) -> float:
    return math.inf if outcome.label in muted else thresholds.get(outcome.label, outcome.threshold)
