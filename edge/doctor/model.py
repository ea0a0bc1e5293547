"""The model: whether it keeps its word here, how long a decision takes, and whether the rules fit it."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from time import perf_counter

import numpy as np

from edge.config import ModelSpec
from edge.doctor.check import Check, failure, ok, warning
from edge.doctor.subject import Ear, Subject
from edge.errors import EdgeError, SettingsError

HOPS = 20  # that are timed
BUSY = 0.5  # share of the hop, from which a busy moment makes decisions late


def model(subject: Subject) -> Iterator[Check]:
    """Open it as edge-listen would: that proves its golden vectors. Then time it, and try each source's rules on it."""
    from edge.classifier import Classifier
    from edge.tuning import pick

    setup = pick(subject.model, subject.provider, subject.threads)
    classifier = Classifier(setup.model, provider=setup.provider, threads=setup.threads)
    spec = classifier.spec
    found = f"{spec.name} {spec.provenance.precision} on {classifier.provider}: golden vectors reproduced"
    yield ok("model", found, model=spec.name, precision=spec.provenance.precision, provider=classifier.provider)
    samples = spec.hop_samples(subject.hop)
    yield _timed(_decision_ms(classifier, subject.hop), 1000 * samples / spec.frontend.sample_rate)
    for ear in subject.ears:
        try:
            yield _rules(ear, spec, subject)
        except EdgeError as error:
            yield failure(ear.called("rules"), error.what, error.remedy)


def _rules(ear: Ear, spec: ModelSpec, subject: Subject) -> Check:
    """Raises EdgeError for what ends the start of edge-listen."""
    from edge.calibration import OtherModelError, calibrated
    from edge.decisions import Detector
    from edge.models import UPDATED
    from edge.rules import fitted

    try:
        Detector(spec, calibrated(ear.events, spec, ear.site, subject.hop))
    except SettingsError as error:
        if not UPDATED.match(str(subject.model)):
            raise
        # Over the air other models come, and what is not of this one ends no start.
        Detector(spec, calibrated(fitted(ear.events, spec), spec, ear.site, subject.hop, ignored=OtherModelError))
        return warning(ear.called("rules"), error.what, error.remedy)
    return ok(ear.called("rules"), f"those of events fit its {len(spec.labels)} classes")


def _decision_ms(classifier: object, hop: float | None) -> float:
    """The median of some."""
    from edge.classifier import Classifier

    assert isinstance(classifier, Classifier)
    spec, stream = classifier.spec, classifier.stream(hop)
    shape = (spec.frontend.channels,) if spec.frontend.channels > 1 else ()
    stream.push(np.zeros((spec.window_samples, *shape), np.float32))
    piece = np.zeros((spec.hop_samples(hop), *shape), np.float32)
    times = []
    for _ in range(HOPS):
        started = perf_counter()
        stream.push(piece)
        times.append(1000 * (perf_counter() - started))
    return median(times)


def _timed(took: float, hop: float) -> Check:
    found = f"{took:.1f} ms of the {hop:.0f} ms between two"
    data = {"decision_ms": took, "hop_ms": hop}
    remedy = "use --hop 1, or --model tiny; edge-bench tells more"
    if took > hop:
        return failure("decision", found, remedy, **data)
    return warning("decision", found, remedy, **data) if took > BUSY * hop else ok("decision", found, **data)
