"""The folder of versions: killed at any instant, on a disk that fails, it holds the old model or the new one."""

import errno
import json
import os
import subprocess
import sys

import pytest

from edge.models import resolve
from edge.update.errors import UpdateError
from edge.update.rules import ShadowReport
from edge.update.versions import STATE, Candidate
from tests.conftest import ROOT
from tests.update_world import (
    DEEDS,
    FALLBACK,
    MODELS_SEEN,
    STATES_SEEN,
    World,
    bytes_of,
    content,
    copy_of,
    disk_fails,
    failing,
    in_memory,
    prepared,
    whole,
)

KILLS = int(os.environ.get("EDGE_LISTEN_KILLS", "60"))  # instants; the record was made with 500


@pytest.fixture
def tmp_path():
    with in_memory() as folder:
        yield folder


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def helper(*arguments):
    command = [sys.executable, "-m", "tests.update_world", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_new_device_runs_the_bundled_model(world, caplog):
    assert world.current() == FALLBACK
    assert world.versions().candidate() is None
    assert not caplog.records
    assert not world.state.exists()


def test_from_release_to_candidate_to_current_and_back(world):
    world.publish(1)
    assert world.fetch().news
    assert world.current() == FALLBACK
    candidate = world.versions().candidate()
    assert (candidate.number, candidate.path.read_bytes()) == (1, content(1))
    world.versions().promote(candidate, ShadowReport(windows=7))
    assert world.current() == content(1)
    assert world.versions().state().report["windows"] == 7
    assert world.versions().promote(candidate) == world.versions().current()  # once more
    assert not world.fetch().news
    assert world.versions().rollback() == world.fallback
    assert "rolled back by hand" in world.fetch().told
    with pytest.raises(UpdateError, match="bundled model runs"):
        world.versions().rollback()


def test_what_was_rejected_is_not_fetched_again_but_the_next_one_is(world):
    world.publish(1)
    world.fetch()
    candidate = world.versions().candidate()
    world.versions().reject(candidate, "it disagrees", ShadowReport(windows=9, disagreements=9))
    world.versions().reject(candidate, "once more")
    (rejected,) = world.versions().state().rejected
    assert (rejected.reason, rejected.report["disagreements"]) == ("it disagrees", 9)
    assert not world.fetch().news
    assert world.versions().candidate() is None
    assert not list((world.state / "models").iterdir())
    with pytest.raises(UpdateError, match="not the candidate any more"):
        world.versions().promote(candidate)
    world.publish(2)
    assert world.adopt().news
    assert world.current() == content(2)


def test_the_last_three_are_kept(world):
    for number in range(1, 6):
        world.publish(number)
        world.adopt()
    state = world.versions().state()
    assert [release.number for release in (state.current, *state.former)] == [5, 4, 3]
    assert len(list((world.state / "models").iterdir())) == 3
    assert [world.versions().rollback().read_bytes() for _ in range(3)] == [content(4), content(3), FALLBACK]


def test_a_damaged_file_is_not_run(world, caplog):
    for number in (1, 2):
        world.publish(number)
        world.adopt()
    for number, expected in ((2, content(1)), (1, FALLBACK)):
        path = world.state / "models" / world.versions().current().name
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        caplog.clear()
        assert world.current() == expected
        assert "release 2 is damaged or gone" in caplog.text, number
    assert world.fetch().news  # the current one is had again
    assert world.current() == content(2)


def test_a_damaged_candidate_is_none(world, caplog):
    world.publish(1)
    world.fetch()
    candidate = world.versions().candidate()
    candidate.path.write_bytes(b"")
    assert world.versions().candidate() is None
    with pytest.raises(UpdateError, match="damaged: the file of release 1"):
        world.versions().promote(candidate)
    assert world.fetch().news
    assert world.versions().candidate() == candidate


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema_version": 99}', "\x00" * 500, "[" * 100_000])
def test_a_broken_state_is_begun_anew(world, caplog, text):
    world.publish(1)
    world.adopt()
    (world.state / STATE).write_text(text)
    assert world.current() == FALLBACK
    assert "the state of updates cannot be read" in caplog.text
    assert world.adopt().news
    assert world.current() == content(1)


def test_a_candidate_of_another_time_is_not_promoted(world):
    world.publish(1)
    world.fetch()
    old = world.versions().candidate()
    world.publish(2)
    world.fetch()
    with pytest.raises(UpdateError, match="release 1 is not the candidate any more"):
        world.versions().promote(old)
    assert isinstance(world.versions().candidate(), Candidate)
    assert world.versions().candidate().number == 2


def test_the_name_of_the_current_model(world, monkeypatch):
    world.publish(1)
    world.adopt()
    assert resolve(f"update:{world.state}").read_bytes() == content(1)
    monkeypatch.setenv("XDG_STATE_HOME", str(world.folder))
    assert resolve("update") == resolve(None)
    assert resolve("updates.onnx").name == "updates.onnx"


@pytest.mark.parametrize(
    "ever_after", [pytest.param(False, id="once"), pytest.param(True, id="from then on", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("deed", DEEDS)
def test_the_disk_fails_at_every_call(tmp_path, deed, ever_after):
    before, after, _, do = DEEDS[deed]
    template, code = prepared(tmp_path / "template", deed), errno.ENOSPC if ever_after else errno.EIO
    for at in range(1, 200):
        world, refusal = copy_of(template, tmp_path / str(at)), None
        with failing(at, disk_fails(code), ever_after=ever_after) as count:
            try:
                do(world)
            except UpdateError as error:
                refusal = error.refusal
        assert refusal in (None, "disk"), at
        if (world.state / STATE).exists():
            whole(world, (bytes_of(before), bytes_of(after)))
        if count[0] < at:
            break
    assert at > 5
    assert refusal is None
    assert world.current() == bytes_of(after)


@pytest.mark.slow
def test_a_crash_at_every_call(tmp_path):
    counts = helper("crash", tmp_path)
    assert counts.keys() == DEEDS.keys()
    assert min(counts.values()) > 5


@pytest.mark.slow
def test_killed_at_random_instants(tmp_path):
    """An updater and a listener at the same time; half a minute."""
    seen = helper("kill", KILLS, 1, tmp_path)
    assert seen["kills"] >= 2 * KILLS
    assert seen["models seen"] >= MODELS_SEEN
    assert seen["states seen"] >= STATES_SEEN
