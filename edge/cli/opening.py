"""What the settings of edge-listen ask for, opened: model, sources, sessions, and what tries new models."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.board import Board
from edge.classifier import Classifier
from edge.cli.sources import make_source, sessions_of, with_rules
from edge.config import ModelSpec
from edge.models import updated_folder
from edge.privacy import VOICE_LABELS, VoiceConfig
from edge.session import Plan, Session
from edge.several import Several
from edge.tuning import pick

if TYPE_CHECKING:
    from edge.cli.listen import Settings
    from edge.update.trials import Trials


def open_sessions(settings: Settings, board: Board) -> tuple[Session | Several, Trials | None]:
    """What is listened to: one source, or several; ``board`` shows how it goes. With a model of edge-update, what tries
    its candidates as well. Raises EdgeError.
    """
    setup = pick(settings.model, settings.provider, settings.threads)
    classifier = Classifier(setup.model, provider=setup.provider, threads=setup.threads)
    voices = None if settings.keep_voices else VoiceConfig(labels=VOICE_LABELS)
    plan = Plan(
        settings.events, settings.hop, settings.top_k, settings.duration, settings.clips, voices=voices, board=board
    )
    folder = updated_folder(settings.model)
    trials = None if folder is None else trials_of(folder, settings, classifier)
    if trials is not None:
        plan = replace(plan, succession=partial(trials.follower, hop=settings.hop))
    if settings.sources:
        rules = settings.event_table, settings.threshold, settings.site
        return Several(sessions_of(settings.sources, *rules, classifier, plan, wait=settings.wait), board), trials
    plan = with_rules(plan, settings.events, settings.site, classifier.spec)
    source = the_source(settings, classifier.spec.frontend.sample_rate)
    return Session(source, classifier, plan), trials


def on_probation(model: str | None) -> AbstractContextManager[None]:
    """While the program runs with ``model``: one of edge-update that does not stay up is taken back at a start."""
    folder = updated_folder(model)
    if folder is None:
        return nullcontext()
    from edge.update.probation import Probation
    from edge.update.versions import Versions

    return Probation(Versions(folder)).counted()


def trials_of(folder: Path, settings: Settings, classifier: Classifier) -> Trials:
    """What tries the candidates in ``folder`` beside ``classifier``, and gives its successors."""
    from edge.shadow import Asked
    from edge.update.trials import Trials
    from edge.update.versions import Versions

    rules = settings.event_table | ({} if settings.threshold is None else {"threshold": settings.threshold})
    threads = settings.threads or 1

    def task(spec: ModelSpec) -> Asked:
        frontend = spec.frontend
        return Asked(
            hop=settings.hop,
            channels=frontend.channels,
            sample_rate=frontend.sample_rate,
            hop_seconds=spec.hop_seconds(settings.hop),
            events=rules,
            site=settings.site,
            provider=settings.provider,
            threads=threads,
        )

    def load(path: Path) -> Classifier:
        return Classifier(path, provider=settings.provider, threads=threads)

    return Trials(Versions(folder), task, classifier, load)


def the_source(settings: Settings, sample_rate: int) -> Any:
    """The only source, not yet open. Raises EdgeError."""
    if settings.input == "-":
        from edge.sources.pcm import PcmStream

        rate = settings.pcm_rate or sample_rate
        return PcmStream(rate, settings.pcm_channels, channel=settings.channel)
    how = {"realtime": settings.realtime, "wait": settings.wait}
    return make_source(settings.input, settings.device, settings.channel, **how)
