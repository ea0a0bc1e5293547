"""``python -m train preview DATA``."""

from __future__ import annotations

from pathlib import Path

import click

from edge.errors import EdgeError
from train.bounds import MAX_SEED
from train.cli.data import data_options
from train.cli.runs import BACKGROUNDS, SETTINGS
from train.manifest import Clip, ManifestError, ReadOptions, read_manifest


@click.command(name="preview")
@data_options
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/preview"), show_default=True
)
@click.option(
    "--clip", type=click.Path(dir_okay=False, path_type=Path), help="Recording to show. [default: any of DATA]"
)
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Of the clips and of all draws."
)
@click.option("--recipe", default="default", show_default=True, help="Name in train/recipes/, or a TOML file.")
@SETTINGS
@BACKGROUNDS
def command(
    data: Path,
    options: ReadOptions,
    out: Path,
    clip: Path | None,
    seed: int,
    recipe: str,
    settings: tuple[str, ...],
    backgrounds: tuple[Path, ...],
) -> None:
    """What augmentation and degradation do to a clip of DATA, as pictures and sounds: OUT/index.html."""
    try:
        click.echo(run(data, options, out, clip, seed, recipe, settings, backgrounds))
    except (EdgeError, ManifestError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def run(
    data: Path,
    options: ReadOptions,
    out: Path,
    clip: Path | None,
    seed: int,
    recipe: str,
    settings: tuple[str, ...] = (),
    backgrounds: tuple[Path, ...] = (),
) -> Path:
    """Returns the page. Raises EdgeError, ManifestError, ValueError."""
    import numpy as np
    from soundfile import LibsndfileError

    from train.config import read_recipe
    from train.negatives import recordings
    from train.preview import drawn, examples, write_preview

    config, manifest = read_recipe(recipe, settings), read_manifest(data, options)
    rate, rng = config.frontend.sample_rate, np.random.default_rng(seed)
    clips = drawn(manifest.clips, 3, rate, rng)
    if clip:
        clips[0] = Clip(clip, (), 0)
    if folders := backgrounds or config.backgrounds:
        if not (found := recordings(folders, manifest.labels, faint=True)):
            raise ManifestError(
                f"{', '.join(map(str, folders))} has no recording that is none of the classes; give others"
            )
        (clips[2],) = drawn([Clip(negative.path, (), 0) for negative in found], 1, rate, rng)
    made = list(examples(clips, config, seed, multi_label=manifest.multi_label))
    title = ", ".join([clips[0].path.name, f"recipe {recipe}", *settings, f"seed {seed}"])
    try:
        return write_preview(made, rate, out, title)
    except (OSError, LibsndfileError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{out} cannot be written: {why}; give another --out, or free space") from None
