"""``edge-doctor``: what is wrong on this device, and what to do about it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.common import OurCommand, ends_well, log_to_stderr, options, version_option
from edge.cli.number import Finite
from edge.doctor.ready import URL, ask
from edge.errors import EdgeError, SettingsError

if TYPE_CHECKING:
    from edge.doctor.check import Check
    from edge.doctor.subject import Subject

COLOURS = {"ok": "green", "warning": "yellow", "failure": "red", "skipped": "bright_black"}


@click.command(
    cls=OurCommand, context_settings={"auto_envvar_prefix": "EDGE_DOCTOR", "help_option_names": ["-h", "--help"]}
)
@options(
    click.option(
        "--config",
        type=click.Path(readable=False, path_type=Path),  # what is wrong with it is the first check
        envvar="EDGE_LISTEN_CONFIG",
        show_default="none",
        help="The configuration file of edge-listen.",
    ),
    click.option("--device", show_default="that of the configuration", help="Microphone, as edge-listen takes it."),
    click.option("--model", show_default="that of the configuration", help="Model, as edge-listen takes it."),
    click.option(
        "--seconds",
        type=Finite(0.5, 60),
        default=3.0,
        show_default=True,
        help="To record from each microphone.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
    click.option(
        "--bundle",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE.tar.gz",
        help="Also write what support needs, without sound and secrets.",
    ),
    click.option("--force", is_flag=True, help="Replace the bundle that is there."),
    click.option(
        "--ready",
        is_flag=False,
        flag_value=URL,
        metavar="[URL]",
        help=f"Only ask a running edge-listen whether it hears. [default address: {URL}]",
    ),
    version_option,
)
def main(
    config: Path | None,
    device: str | None,
    model: str | None,
    seconds: float,
    as_json: bool,
    bundle: Path | None,
    force: bool,
    ready: str | None,
) -> None:
    """Look at everything that edge-listen needs on this device, and say what is wrong and what to do.

    One line for each check: ok, warning, failure or skipped, what was found, and the remedy. Exit codes: 0 nothing
    failed, there may be warnings; 1 something failed, or with --ready no microphone is heard; 2 usage.
    """
    if ready is not None:
        answer = ask(ready)
        click.echo(json.dumps(answer.document, ensure_ascii=False) if as_json and answer.document else answer.text)
        raise SystemExit(0 if answer.ready else 1)
    log_to_stderr(verbose=False)
    code = 0  # also where nobody reads our output any more
    with ends_well():
        if bundle is not None and bundle.exists() and not force:
            raise SettingsError(f"{bundle} is there already", remedy="name another file, or give --force")
        checks = look(config, device, model, seconds, show=not as_json)
        from edge.doctor.report import document, healthy, summary

        click.echo(json.dumps(document(checks), indent=2, ensure_ascii=False) if as_json else summary(checks))
        if bundle is not None:
            from edge.doctor.bundle import write

            write(bundle, checks, config)
            click.echo(
                f"{bundle} holds this for support: no sound, no events, no secrets; look into it first", err=True
            )
        code = 0 if healthy(checks) else 1
    os._exit(code)  # a check that hangs, in PortAudio or on a dead disk, would hold up the end


def look(config: Path | None, device: str | None, model: str | None, seconds: float, *, show: bool) -> list[Check]:
    """Make all checks; ``show`` prints each as it is found."""
    from edge.doctor.check import examine
    from edge.doctor.steps import all_steps

    first, subject = asked(config, device, model, seconds)
    checks = []

    def told(check: Check) -> None:
        checks.append(check)
        if show:
            _, _, rest = str(check).partition(" ")
            click.echo(click.style(check.status, fg=COLOURS[check.status]) + " " + rest)

    told(first)
    for check in examine(all_steps(seconds, len(subject.microphones) if subject else 0), subject):
        told(check)
    return checks


def asked(config: Path | None, device: str | None, model: str | None, seconds: float) -> tuple[Check, Subject | None]:
    """What edge-listen would do, read by its own code; None where that refuses it: the defaults are not asked for."""
    from edge.doctor.check import failure, ok

    try:
        subject = _subject([] if config is None else ["--config", str(config)], device, seconds)
    except click.UsageError as error:
        what = " ".join(error.format_message().split())
        return failure("configuration", what, "correct it; docs/listen.md has the keys"), None
    except EdgeError as error:
        return failure("configuration", error.what, error.remedy), None
    subject = replace(subject, model=model or subject.model)
    return ok("configuration", f"{config} is valid" if config else "no file: the defaults"), subject


def _subject(arguments: list[str], device: str | None, seconds: float) -> Subject:
    """``device`` takes the place of all sources. Raises UsageError or EdgeError for what edge-listen would refuse."""
    from edge.cli import listen
    from edge.cli.common import one_of, tables_of
    from edge.cli.sinks import asked_sinks
    from edge.cli.sources import rules_of_each
    from edge.doctor.subject import Ear, Place, Subject

    with listen.main.make_context("edge-listen", arguments) as context:
        one_of(context, "input", "device")
        params = {name: value for name, value in context.params.items() if name not in ("config", "list_devices")}
        params["output"] = params["output"] or "text"
        sinks = {name: params.pop(name) for name in listen.SINKS}
        tables = tables_of(context)
        listen.require_one_place(context, tables)
        settings = listen.settings_from(params, tables)
        places = asked_sinks(tables.get("sinks", {}), sinks)
        rules = rules_of_each(settings.sources, settings.event_table, settings.threshold, settings.site)
    only = Ear("", settings.input, settings.device, settings.channel, settings.events, settings.site)
    ears = [
        Ear(source.name, source.input or None, source.device or None, source.channel, events, site)
        for source, (events, site) in zip(settings.sources, rules, strict=True)
    ] or [only]
    if device is not None:
        ears = [Ear(device=device, events=only.events, site=only.site)]
    return Subject(
        ears=tuple(ears),
        model=settings.model,
        provider=settings.provider,
        threads=settings.threads,
        hop=settings.hop,
        places=tuple(Place(p.name, p.kind, p.config, p.spool) for p in places),
        clips=settings.clips.folder or "",
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
