"""A program for each event: what it is given, how it fails, and that nothing of it is left over."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from edge.delivery import Delivery
from edge.errors import SinkError
from edge.sinks.command import Command, CommandConfig
from tests.receivers import event, wait_until


def python(code, *arguments, **settings):
    return Command(CommandConfig(argv=(sys.executable, "-c", code, *map(str, arguments)), **settings))


def shell(code, *arguments, **settings):
    return Command(CommandConfig(argv=("/bin/sh", "-c", code, "sh", *map(str, arguments)), **settings))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_it_gets_the_event_and_its_environment(tmp_path):
    code = "import json, os, sys; json.dump([json.load(sys.stdin), dict(os.environ)], open(sys.argv[1], 'w'))"
    python(code, tmp_path / "out").write(event(3, phase="end", label="犬; rm -rf $HOME"))
    record, environment = json.loads((tmp_path / "out").read_text())
    assert record == event(3, phase="end", label="犬; rm -rf $HOME")
    ours = {k: v for k, v in environment.items() if k.startswith("EDGE_LISTEN_EVENT_")}
    assert ours == {
        "EDGE_LISTEN_EVENT_ID": "e00003",
        "EDGE_LISTEN_EVENT_PHASE": "end",
        "EDGE_LISTEN_EVENT_LABEL": "犬; rm -rf $HOME",
        "EDGE_LISTEN_EVENT_TIME": record["time"],
        "EDGE_LISTEN_EVENT_PEAK": "0.91",
        "EDGE_LISTEN_EVENT_DURATION": "0.5",
        "EDGE_LISTEN_EVENT_SOURCE": "microphone",
        "EDGE_LISTEN_EVENT_PATH": "",
    }
    assert environment["PATH"] == os.environ["PATH"]


def test_no_shell_reads_the_arguments(tmp_path):
    Command(CommandConfig(argv=("touch", str(tmp_path / "a b; c $HOME")))).write(event(0))
    assert [p.name for p in tmp_path.iterdir()] == ["a b; c $HOME"]


def test_only_events_of_the_phases(tmp_path):
    sink = shell('cat >> "$1"', tmp_path / "out", phases=("begin",))
    for record in ({"type": "status"}, event(0), event(0, phase="end")):
        sink.write(record)
    assert json.loads((tmp_path / "out").read_text()) == event(0)


def test_a_clip_that_is_there_can_be_all_that_it_is_run_for(tmp_path):
    sink = shell('echo "$EDGE_LISTEN_EVENT_PHASE $EDGE_LISTEN_EVENT_PATH" >> "$1"', tmp_path / "out", phases=("clip",))
    news = {"type": "clip", "source": "mic", "id": "e0", "label": "dog", "path": "/a.flac", "reason": None}
    for record in (event(0), event(0, phase="end"), *(news | {"state": s} for s in ("withheld", "written", "pruned"))):
        sink.write(record)
    assert (tmp_path / "out").read_text() == "clip /a.flac\n"
    assert sink.types == {"event", "clip"}
    assert shell("true").types == {"event"}  # what nobody asked for waits in no queue


def test_its_standard_output_does_not_mix_with_ours(capfd):
    shell("echo hello").write(event(0))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("retry", [False, True])
def test_a_failure_names_the_code_and_its_last_words(retry):
    with pytest.raises(SinkError, match=r"exit code 3: no such lamp") as caught:
        shell("echo no such lamp >&2; exit 3", retry=retry).write(event(0))
    assert caught.value.retry is retry


def test_a_failure_is_counted_and_the_next_event_follows(tmp_path):
    delivery = Delivery(shell('[ "$EDGE_LISTEN_EVENT_ID" = e00001 ] && touch "$1"', tmp_path / "out"), "command")
    delivery.write(event(0))
    delivery.write(event(1))
    delivery.close()
    assert (delivery.stats().failed, delivery.stats().delivered) == (1, 1)
    assert (tmp_path / "out").exists()


def test_one_that_does_not_end_is_killed_with_all_that_it_started(tmp_path):
    sink = shell('sleep 60 & echo $! > "$1"; echo $$ >> "$1"; wait', tmp_path / "pids", timeout=0.3)
    start = time.monotonic()
    with pytest.raises(SinkError, match=r"no end after 0.3 s"):
        sink.write(event(0))
    assert time.monotonic() - start < 2
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        wait_until(lambda pid=pid: not alive(pid))


def test_one_that_reads_nothing_and_leaves_a_child_behind_does_not_hold_us_up():
    start = time.monotonic()
    shell("sleep 3 & exit 0").write(event(0))
    assert time.monotonic() - start < 2


def test_closing_kills_the_one_that_runs(tmp_path):
    delivery = Delivery(shell('echo $$ > "$1.part"; mv "$1.part" "$1"; sleep 60', tmp_path / "pid"), "command")
    delivery.write(event(0))
    wait_until((tmp_path / "pid").exists)
    start = time.monotonic()
    delivery.close(timeout=0.5)
    assert time.monotonic() - start < 1.0
    wait_until(lambda: not alive(int((tmp_path / "pid").read_text())))


@pytest.mark.parametrize(
    "settings",
    [{"argv": ()}, {"argv": ("/no/such/program",)}, {"phases": ("start",)}, {"timeout": 0.0}, {"timeout": 1e12}],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(SinkError) as caught:
        Command(CommandConfig(**{"argv": ("true",), **settings}))
    assert not caught.value.retry


def test_a_program_that_cannot_be_executed(tmp_path):
    file = tmp_path / "program"
    file.write_bytes(b"\0\0\0\0")
    file.chmod(0o755)
    with pytest.raises(SinkError, match="cannot be run: Exec format error") as caught:
        Command(CommandConfig(argv=(str(file),))).write(event(0))
    assert not caught.value.retry
