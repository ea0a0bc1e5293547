"""Work for several processes: its order, its errors, and the death of one of them."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.context import SpawnProcess

import pytest

from edge.errors import EdgeError
from edge.workers import mapped
from tests.conftest import ROOT

DEATH = """
import os, signal, sys, time
from edge.errors import EdgeError
from edge.workers import mapped

def work(item):
    if item == 0:
        time.sleep(5)  # until all of it waits
        os.kill(os.getpid(), signal.SIGKILL)
    return item

if __name__ == "__main__":
    try:
        list(mapped(work, range(20_000), 2))
    except EdgeError as error:
        sys.exit(str(error))
"""
LONG = """
import sys, time
from edge.workers import mapped

def work(seconds):
    time.sleep(seconds)

if __name__ == "__main__":
    try:
        for _ in mapped(work, [2, 2, 300, 300, 300], 2):
            print("at work", flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
"""
_begun = 0


def begin(number):
    global _begun  # noqa: PLW0603
    _begun = number


def work(item):
    if item < 0:
        raise ValueError(f"{item} is negative")
    return item * item + _begun


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_results_come_in_the_order_of_the_items(chunk):
    found = list(mapped(work, range(11), 2, start=begin, arguments=(3,), chunk=chunk))
    assert found == [item * item + 3 for item in range(11)]


def test_an_error_of_the_work_comes_with_what_was_before_it():
    results = mapped(work, [2, -1, 3], 2)
    assert next(results) == 4
    with pytest.raises(ValueError, match="-1 is negative"):
        next(results)


def test_whoever_wants_no_more_does_not_wait_for_all():
    results = mapped(time.sleep, [0.0] + [0.5] * 200, 2)  # 50 seconds
    next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 25


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_all_of_them_at_once(tmp_path, times):
    """At a terminal it goes to the workers as well. A second one used to leave them without word, and waited for."""
    script = tmp_path / "long.py"
    script.write_text(LONG)
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        for _ in range(2):
            assert process.stdout.readline() == "at work\n"
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.2)
        process.communicate(timeout=30)  # to the end of all that hold its output, which the workers do
        assert process.returncode in (130, -signal.SIGINT)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.EMFILE, "Too many")])
def test_workers_that_cannot_be_started(monkeypatch, error):
    """A broken pipe must not look as if nobody read the results any more."""

    def start(process):
        raise error

    monkeypatch.setattr(SpawnProcess, "start", start)
    with pytest.raises(EdgeError, match=f"worker processes cannot be started: {error.strerror}"):
        list(mapped(work, [1, 2], 2))


def test_a_worker_that_dies_ends_all_of_them(tmp_path):
    """With much that waits, which Python 3.11's own ``map`` does not survive: the others go on for ever."""
    script = tmp_path / "death.py"
    script.write_text(DEATH)
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True, text=True, timeout=100, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stderr == "a worker process died (too little memory? use fewer processes)\n"
    assert done.returncode == 1


def test_the_error_is_one_of_ours():
    with pytest.raises(EdgeError, match="a worker process died"):
        list(mapped(_die, [signal.SIGKILL], 1))


def _die(number):
    os.kill(os.getpid(), number)
