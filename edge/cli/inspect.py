"""``edge-inspect``: what a model file says of itself, and whether it keeps it here."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge.cli.common import OurCommand, ends_well, log_to_stderr, options, provider_option, version_option
from edge.config import THIRD_PARTY, ModelSpec
from edge.errors import ContractError


@click.command(
    cls=OurCommand, context_settings={"auto_envvar_prefix": "EDGE_INSPECT", "help_option_names": ["-h", "--help"]}
)
@click.argument("model", required=False, metavar="[FILE|FOLDER|hf://OWNER/NAME]")
@options(
    provider_option,
    click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs: the whole contract."),
    version_option,
)
def main(model: str | None, provider: str, as_json: bool) -> None:
    """Print the contract of a model (the bundled one), and prove it on its golden vectors.

    Exit codes: 0 proven, 2 usage, 3 no model of ours, or not proven here, 6 provider.
    """
    log_to_stderr(verbose=False)
    with ends_well():
        from edge.classifier import Classifier

        classifier = Classifier(model, provider=provider, self_test=False)
        failure = None
        try:
            classifier.self_test()
        except ContractError as error:
            failure = error
        print_it = as_document if as_json else as_table
        click.echo(print_it(classifier.path, classifier.spec, verified=failure is None))
        if failure:
            raise failure


def as_document(path: Path, spec: ModelSpec, *, verified: bool) -> str:
    """JSON, for programs."""
    contract = json.loads(spec.to_json())
    report = {"file": str(path), "bytes": path.stat().st_size, "verified": verified, "contract": contract}
    return json.dumps(report, indent=2, ensure_ascii=False)


def as_table(path: Path, spec: ModelSpec, *, verified: bool) -> str:
    """For people."""
    frontend, origin = spec.frontend, spec.provenance
    channels = "mono" if frontend.channels == 1 else "stereo"
    heard = f"{frontend.sample_rate} Hz {channels}, " + (
        "the samples themselves"
        if frontend.kind == "waveform"
        else f"{frontend.n_mels} mel bands ({frontend.mel_scale}) from {frontend.f_min:g} to {frontend.f_max:g} Hz, "
        f"frames of {frontend.win_length} samples every {frontend.hop_length}"
    )
    folds = ", ".join(map(str, origin.train_folds))
    trained = f"folds {folds}; {origin.epochs} epochs, seed {origin.seed}, revision {origin.git_revision}"
    millions = float(f"{origin.macs / 1e6:.3g}")
    cost = f"{millions:g} million multiply-accumulates a window" if origin.macs else "cost not counted"
    measured = "nothing was held out" if origin.test_fold is None else f"fold {origin.test_fold} was held out"
    measured += "" if origin.accuracy is None else f": {origin.accuracy:.2%} of its clips"
    if origin.architecture == THIRD_PARTY:
        trained = "by others"
        measured = "not here" if origin.accuracy is None else f"by others: {origin.accuracy:.2%} of clips"
    hop = f"every {spec.step_seconds:g} s or a multiple" if spec.streams else "each computed anew"
    least = sorted(spec.thresholds.values())
    unknown = spec.unknown
    rows = {
        "model": f"{spec.name}, {origin.precision}",
        "file": f"{path}, {path.stat().st_size / 1000:.0f} kB",
        "network": f"{origin.architecture}, {cost}",
        "hears": heard,
        "decides": f"on {spec.window_seconds:.2f} s, {hop}",
        "scores": f"{spec.scores}, temperature {spec.temperature:g}",
        "thresholds": f"{least[0]:g} to {least[-1]:g}, of {len(least)} classes" if least else "none of its own",
        "unknown": f"below an energy of {unknown.threshold:g}; {unknown.known_share:.0%} of what it knows is above"
        if unknown
        else "never: every decision is one of its classes",
        "trained on": f"{origin.dataset}, {trained}",
        **({"and on": "; ".join(origin.other_data)} if origin.other_data else {}),
        "measured": measured,
        "licence": spec.licence,
        "golden vectors": "reproduced here" if verified else "NOT reproduced here",
        f"{len(spec.labels)} classes": ", ".join(spec.labels),
    }
    width = max(map(len, rows))
    return "\n".join(
        click.wrap_text(f"{name:{width}}  {value}", 100, subsequent_indent=" " * (width + 2))
        for name, value in rows.items()
    )


if __name__ == "__main__":
    main()
