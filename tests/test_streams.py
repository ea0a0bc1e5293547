"""Standard streams that are closed, or whose disk is full: a line at most, and an exit code that says what was done."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

COMMANDS = ("bench", "calibrate", "classify", "doctor", "events", "inspect", "listen", "update")
FULL = "error: the output cannot be written: No space left on device (free some space)\n"


def ended(command, redirection):
    """Exit code, stdout and stderr of a command line with a redirection as the shell has them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m edge.cli.{command} {redirection}"],
        capture_output=True, text=True, cwd=ROOT, timeout=100, env=environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    path = tmp_path_factory.mktemp("streams") / "events.db"
    assert ended(f"listen --input examples/demo.ogg --output none --db {path}", "") == (0, "", "")
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_on_a_full_disk(command):
    assert ended(f"{command} --help", ">/dev/full") == (1, "", FULL)


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&-"])
@pytest.mark.parametrize(
    "command",
    [
        "listen --input examples/demo.ogg",
        "listen --input examples/demo.ogg --output jsonl",
        "classify examples/demo.ogg --output csv",
        "events list --db {db}",
        "events list --db {db} --output csv",
        "inspect",
    ],
)
def test_closed_they_take_everything(command, redirection, db):
    code, out, err = ended(command.format(db=db), redirection)
    assert (code, err) == (0, "")
    assert bool(out) == (redirection[:3] != ">&-")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "2>/dev/full", ">/dev/full"])
def test_the_code_of_an_error_stays(redirection):
    code, out, err = ended("listen --input no.wav", redirection)
    assert (code, out) == (5, "")
    assert err == ("" if redirection[0] == "2" else "error: no.wav does not exist (check the path)\n")


def test_what_is_buffered_to_the_end_is_missed_as_well(db):
    assert ended(f"events list --db {db} --output csv", ">/dev/full") == (1, "", FULL)


def test_nothing_that_is_opened_takes_the_place_of_a_closed_one(db):
    """The database would have become standard output, had nothing been there before it."""
    before = db.read_bytes()
    assert ended(f"listen --input examples/demo.ogg --output jsonl --db {db}", "<&- >&- 2>&-") == (0, "", "")
    assert db.read_bytes()[:16] == before[:16]
    assert ended(f"events list --db {db} --limit 1", "")[0] == 0
