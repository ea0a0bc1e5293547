"""``edge-update``: models over the air, for those who publish them and for the devices that take them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.cli.common import Command, OurGroup, ends_well, log_to_stderr, options, version_option
from edge.cli.number import Finite
from edge.settings import settings_of
from edge.update.errors import UpdateError
from edge.update.updates import Found, UpdateConfig, Updates, as_json

if TYPE_CHECKING:
    from edge.update.keys import Keys
    from edge.update.repository import Repository

TABLE = "update"
UNITS = {"h": 1 / 24, "d": 1.0, "w": 7.0, "y": 365.0}  # days
PUBLISHER_ROLES = ("root", "targets", "snapshot", "timestamp")


def days_of(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """Callback of ``--expires``: days, or 12h, 30d, 2w, 1y."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hdwy]?)", value)
    days = float(found[1]) * UNITS[found[2] or "d"] if found else 0.0
    if not 0 < days <= 36_500:
        raise click.BadParameter(f"{value!r} is no time; allowed: 12h, 30d, 2w, 1y", context, parameter)
    return days


def expires_option(default: str) -> Callable[[Command], Command]:
    """``--expires``."""
    return click.option(
        "--expires", default=default, show_default=True, callback=days_of, help="Time that the signature holds."
    )


repository_argument = click.argument("repository", type=click.Path(file_okay=False, path_type=Path))
keys_option = click.option(
    "--keys", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of keys."
)
password_options = options(
    click.option("--password-env", metavar="NAME", help="Environment variable with the password of the keys."),
    click.option("--password-file", metavar="FILE", help="File with it, in its first line."),
)
channel_option = click.option("--channel", default="stable", show_default=True, help="Line of releases.")
release_option = click.option("--release", "number", type=int, show_default="the newest", help="Number of a release.")
json_option = click.option("--json", "as_json_text", is_flag=True, help="Print the result as JSON.")
device_options = options(
    click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help=f"TOML file; its table [{TABLE}].",
    ),
    click.option("--url", help="Repository: https://…, a folder, or what fsspec knows."),
    click.option("--root", metavar="FILE", help="The repository's root.json, as it came with the device."),
    click.option("--state", metavar="FOLDER", help="Where models are kept. [default: of this user]"),
    click.option("--channel", help="Line of releases. [default: stable]"),
    click.option("--device-id", help="For staged roll-outs. [default: that of the system]"),
)


@click.group(
    cls=OurGroup, context_settings={"auto_envvar_prefix": "EDGE_UPDATE", "help_option_names": ["-h", "--help"]}
)
@version_option
@click.option("-v", "--verbose", is_flag=True, help="Say more, on stderr.")
def main(verbose: bool) -> None:
    """Publish models, signed, and take them: fetched, proven, tried in shadow, and back again.

    Exit codes: 0 done, or nothing to do; 2 usage, 3 model, 9 an update that was refused or cannot be had.
    """
    log_to_stderr(verbose)


@main.command()
@device_options
@json_option
def check(as_json_text: bool, **device: Any) -> None:
    """Look at what is published for this device."""
    with ends_well():
        _tell(Updates(config_of(**device)).check(), as_json_text)


@main.command()
@device_options
@click.option("--again", is_flag=True, help="Also what was rejected here before.")
@json_option
def fetch(again: bool, as_json_text: bool, **device: Any) -> None:
    """Fetch what is new, prove it, and make it the candidate."""
    with ends_well():
        _fetch(config_of(**device), again, as_json_text)


@main.command()
@device_options
@json_option
def run(as_json_text: bool, **device: Any) -> None:
    """The same as fetch, for a timer."""
    with ends_well():
        _fetch(config_of(**device), False, as_json_text)


@main.command()
@device_options
@json_option
def status(as_json_text: bool, **device: Any) -> None:
    """Show what this device has, without asking the repository."""
    with ends_well():
        versions = config_of(**device).versions()
        print(json.dumps(as_json(versions), indent=2) if as_json_text else "\n".join(_status(versions)))


@main.command()
@device_options
def apply(**device: Any) -> None:
    """Make the candidate the current model now, without its shadow run."""
    with ends_well():
        versions = config_of(**device).versions()
        if (candidate := versions.candidate()) is None:
            raise UpdateError("usage", "there is no candidate", remedy="edge-update fetch")
        print(f"current: {versions.promote(candidate)}")


@main.command()
@device_options
def rollback(**device: Any) -> None:
    """Go back to the model before; the current one is not fetched again."""
    with ends_well():
        print(f"current: {config_of(**device).versions().rollback()}")


@main.group()
def keys() -> None:
    """Make and rotate the keys that sign."""


@keys.command("new")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@expires_option("10y")
@password_options
def keys_new(folder: Path, expires: float, password_env: str | None, password_file: str | None) -> None:
    """Make keys, and the root.json that devices get."""
    with ends_well():
        opened = _keys(folder, password_env, password_file)
        from edge.update.keys import new

        print(f"{new(opened, expires)}: give it to the devices; the *.pem files are secret")


@keys.command("rotate")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--role", multiple=True, type=click.Choice(PUBLISHER_ROLES), show_default="all", help="Repeatable.")
@expires_option("10y")
@password_options
def keys_rotate(
    folder: Path, role: tuple[str, ...], expires: float, password_env: str | None, password_file: str | None
) -> None:
    """Replace keys; devices follow when the repository has been refreshed."""
    with ends_well():
        opened = _keys(folder, password_env, password_file)
        from edge.update.keys import rotate

        print(f"{rotate(opened, role or PUBLISHER_ROLES, expires)}: now run edge-update refresh")


@main.command()
@repository_argument
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@keys_option
@password_options
@click.option("--version", "version", show_default="today", help="For people.")
@click.option("--percent", type=Finite(0, 100), default=100.0, show_default=True, help="Devices that take it.")
@channel_option
@click.option("--shadow", multiple=True, metavar="KEY=NUMBER", help="Rule of the shadow run; repeatable.")
@expires_option("30d")
def publish(
    repository: Path,
    model: Path,
    keys: Path,
    password_env: str | None,
    password_file: str | None,
    version: str | None,
    percent: float,
    channel: str,
    shadow: tuple[str, ...],
    expires: float,
) -> None:
    """Add a model to a repository, a folder that any web server can serve."""
    with ends_well():
        opened = _repository(repository, keys, password_env, password_file)
        from edge.classifier import Classifier
        from edge.update.release import Release

        proven = Classifier(model)
        draft = Release(
            1, "0" * 64, 1, proven.spec.name, version or str(date.today()), channel, percent, shadow=rules_asked(shadow)
        )
        release = opened.publish(proven.path, draft, days=expires)
        print(f"release {release.number}: {release.name} {release.version}, {percent:g} % of {channel}")


@main.command()
@repository_argument
@keys_option
@password_options
@expires_option("30d")
def refresh(repository: Path, keys: Path, password_env: str | None, password_file: str | None, expires: float) -> None:
    """Sign the timestamp again, before it expires: for a timer."""
    with ends_well():
        opened = _repository(repository, keys, password_env, password_file)
        print(f"holds until {opened.refresh(days=expires).isoformat()}")


@main.command()
@repository_argument
@keys_option
@password_options
@click.option("--percent", type=Finite(0, 100), default=100.0, show_default=True, help="Devices that take it.")
@channel_option
@release_option
@expires_option("30d")
def promote(
    repository: Path,
    keys: Path,
    password_env: str | None,
    password_file: str | None,
    percent: float,
    channel: str,
    number: int | None,
    expires: float,
) -> None:
    """Give a release to more devices."""
    with ends_well():
        opened = _repository(repository, keys, password_env, password_file)
        release = opened.promote(number, percent, channel, days=expires)
        print(f"release {release.number}: {release.percent:g} %")


@main.command()
@repository_argument
@keys_option
@password_options
@channel_option
@release_option
@expires_option("30d")
def withdraw(
    repository: Path,
    keys: Path,
    password_env: str | None,
    password_file: str | None,
    channel: str,
    number: int | None,
    expires: float,
) -> None:
    """Take a release back: the one before it is published again, for every device."""
    with ends_well():
        opened = _repository(repository, keys, password_env, password_file)
        release = opened.withdraw(number, channel, days=expires)
        print(f"release {release.number}: {release.name} {release.version}, in place of {release.withdraws[0]}")


@main.command()
@repository_argument
@keys_option
@json_option
def releases(repository: Path, keys: Path, as_json_text: bool) -> None:
    """Show what is published."""
    with ends_well():
        found = _repository(repository, keys, None, None).releases()
        if as_json_text:
            print(json.dumps([asdict(release) for release in found], indent=2))
        for r in () if as_json_text else found:
            print(f"{r.number:4}  {r.channel}  {r.percent:g} %  {r.name} {r.version}  {r.published}")


def config_of(config: Path | None, **named: str | None) -> UpdateConfig:
    """The table [update] of the file, if any, and what options name. The file's other tables are of other commands.

    Raises SettingsError and UpdateError.
    """
    table: Any = {}
    if config is not None:
        try:
            table = tomllib.loads(config.read_text(encoding="utf-8")).get(TABLE, {})
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UpdateError("usage", f"{config}: {error}", remedy="correct the configuration") from None
    found = settings_of(UpdateConfig, table, TABLE)
    given: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    return replace(found, **given)


def rules_asked(pairs: tuple[str, ...]) -> dict[str, float]:
    """``--shadow KEY=NUMBER …``. Raises SettingsError for what is no rule."""
    from edge.update.rules import rules_of

    asked: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        try:
            asked[key] = float(text) if "." in text or "e" in text else int(text)
        except ValueError:
            raise UpdateError("usage", f"--shadow {pair!r}", remedy="write KEY=NUMBER, as seconds=600") from None
    rules_of(asked)
    return asked


def _fetch(config: UpdateConfig, again: bool, as_json_text: bool) -> None:
    updates = Updates(config)
    if again:
        updates.versions.forget_rejections()
    found = updates.fetch()
    _tell(found, as_json_text)
    if found.news and not as_json_text:
        print("\n".join(_status(updates.versions)))


def _tell(found: Found, as_json_text: bool) -> None:
    print(json.dumps(asdict(found)) if as_json_text else found.told)


def _status(versions: Any) -> Iterator[str]:
    state = versions.state()
    current = state.current
    told = f"release {current.number} ({current.name} {current.version}), since {state.since}" if current else "bundled"
    yield f"current    {told}: {versions.current()}"
    for release in filter(None, [state.candidate]):
        yield f"candidate  release {release.number} ({release.name} {release.version})"
    for release in state.former:
        yield f"kept       release {release.number} ({release.name} {release.version})"
    for entry in state.rejected:
        yield f"rejected   release {entry.number}, {entry.time}: {entry.reason}"


def _keys(folder: Path, password_env: str | None, password_file: str | None) -> Keys:
    from edge.errors import SinkError
    from edge.extras import need
    from edge.secret import read_secret

    need("tuf", "update", partial(UpdateError, "usage"))
    from edge.update.keys import Keys

    try:
        return Keys(folder, read_secret(password_env, password_file, "the password of the keys"))
    except SinkError as error:
        raise UpdateError("usage", error.what, remedy=error.remedy) from None


def _repository(folder: Path, keys: Path, password_env: str | None, password_file: str | None) -> Repository:
    opened = _keys(keys, password_env, password_file)
    from edge.update.repository import Repository

    return Repository(folder, opened)


if __name__ == "__main__":
    main()
