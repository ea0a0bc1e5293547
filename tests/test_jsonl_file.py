"""JSON Lines in a file: every line whole, rotation, kills, full disks."""

import json
import os
import subprocess

import pytest

from edge.delivery import Delivery
from edge.errors import SinkError
from edge.sinks.jsonl import JsonLinesFile, JsonLinesFileConfig
from tests.receivers import event, ids, wait_until
from tests.test_spool import killed_while_it_prints, mounted


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def open_file(path, **settings):
    return JsonLinesFile(JsonLinesFileConfig(path=str(path), **settings))


def test_lines_are_there_at_once_and_after_a_restart(tmp_path):
    path = tmp_path / "new folder" / "events.jsonl"
    sink = open_file(path)
    sink.write(event(0, label="犬"))
    assert lines(path) == [event(0, label="犬")]
    sink.close()
    sink = open_file(path)
    sink.write(event(1))
    sink.close()
    assert ids(lines(path)) == ["e00000", "e00001"]


def test_it_rotates_by_size_and_keeps_so_many(tmp_path):
    path = tmp_path / "events.jsonl"
    size = len(json.dumps(event(0), ensure_ascii=False)) + 1
    sink = open_file(path, max_bytes=3 * size, keep=2)
    for i in range(10):
        sink.write(event(i))
    sink.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    found = [ids(lines(path.with_name(path.name + suffix))) for suffix in (".2", ".1", "")]
    assert found == [ids(event(i) for i in part) for part in (range(3, 6), range(6, 9), range(9, 10))]
    assert path.with_name("events.jsonl.1").stat().st_size == 3 * size


def test_a_line_longer_than_a_file_is_written(tmp_path):
    sink = open_file(tmp_path / "f", max_bytes=10, keep=1)
    sink.write(event(0))
    sink.write(event(1))
    sink.close()
    assert lines(tmp_path / "f") == [event(1)]
    assert lines(tmp_path / "f.1") == [event(0)]


def test_without_a_limit_it_does_not_rotate(tmp_path):
    sink = open_file(tmp_path / "f", max_bytes=0)
    for i in range(50):
        sink.write(event(i))
    sink.close()
    assert len(lines(tmp_path / "f")) == 50
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_only_the_types_that_are_asked_for(tmp_path):
    delivery = Delivery(open_file(tmp_path / "f", types=("event",)), "file")
    delivery.write({"type": "window"})
    delivery.write(event(0))
    delivery.close()
    assert lines(tmp_path / "f") == [event(0)]


@pytest.mark.parametrize("content", [b'{"half', b"{", b'{\n{"a": 1}\n', b"\0\0\0", b"\n", b'{"a": 1}\n', b""])
def test_a_last_line_that_was_cut_off_is_ended(tmp_path, content):
    path = tmp_path / "f"
    path.write_bytes(content)
    sink = open_file(path)
    sink.write(event(0))
    sink.close()
    expected = content if not content or content.endswith(b"\n") else content + b"\n"
    assert path.read_bytes().startswith(expected)
    assert json.loads(path.read_bytes()[len(expected) :]) == event(0)


WRITER = """
import sys
from edge.sinks.jsonl import JsonLinesFile, JsonLinesFileConfig
from tests.receivers import event

sink = JsonLinesFile(JsonLinesFileConfig(path=sys.argv[1], max_bytes=20_000, keep=50))
for i in range(100_000):
    sink.write(event(i))
    print(i, flush=True)
"""


def test_kill_9_leaves_whole_lines(tmp_path):
    path = tmp_path / "f"
    last = killed_while_it_prints(WRITER, path, lines=150)[-1]
    open_file(path).close()  # the next start
    files = sorted(tmp_path.iterdir(), key=lambda p: -int(p.suffix[1:] or 0))
    texts = [line for file in files for line in file.read_text().splitlines()]
    whole = []
    for i, text in enumerate(texts):
        try:
            whole.append(json.loads(text))
        except ValueError:
            assert i == len(texts) - 1
    assert ids(whole[: last + 1]) == ids(event(i) for i in range(last + 1))
    assert len(whole) - last - 1 in (0, 1)


def test_a_full_disk_leaves_whole_lines_and_loses_nothing(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    with mounted(tmp_path / "disk", "size=64k") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(50_000))
        delivery = Delivery(
            open_file(disk / "f", max_bytes=0), "file", capacity=1000, first_wait=0.01, longest_wait=0.05
        )
        for i in range(100):
            delivery.write(event(i))
        wait_until(lambda: delivery.stats().retries > 2)
        assert "No space left" in delivery.stats().last_error
        written = lines(disk / "f")
        assert 0 < len(written) < 100
        ballast.unlink()
        wait_until(lambda: delivery.stats().delivered == 100)
        delivery.close()
        assert lines(disk / "f") == [event(i) for i in range(100)]


def test_a_disk_that_turns_read_only_and_back(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    folder = tmp_path / "disk"
    with mounted(folder, "size=1m"):
        sink = open_file(folder / "f", max_bytes=1000)
        sink.write(event(0))
        sink.close()  # a disk with a file that is open for writing cannot be made read-only
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        with pytest.raises(SinkError, match="cannot be written: Read-only") as caught:
            sink.write(event(1))
        assert caught.value.retry
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        sink.write(event(99))
        sink.close()
        assert lines(folder / "f")[-1] == event(99)


@pytest.mark.parametrize(
    "content", [b"SQLite format 3\0", b"RIFF\0\0\0\0WAVE", b'{\n  "thresholds"', b"[sinks]\n", b"-", b"\n\n# notes\n"]
)
def test_a_file_of_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(SinkError, match="something else than JSON Lines"):
        open_file(path, max_bytes=10)
    assert path.read_bytes() == content


def test_a_linked_log_rotates_where_the_link_leads_to(tmp_path):
    (tmp_path / "card").mkdir()
    (tmp_path / "log").symlink_to(tmp_path / "card" / "l.jsonl")
    sink = open_file(tmp_path / "log", max_bytes=10)
    for i in range(3):
        sink.write(event(i))
    sink.close()
    assert (tmp_path / "log").is_symlink()
    assert sorted(p.name for p in tmp_path.rglob("l*")) == ["l.jsonl", "l.jsonl.1", "l.jsonl.2", "log"]


@pytest.mark.parametrize("settings", [{"keep": 0}, {"keep": 10**9}, {"max_bytes": -1}])
def test_settings_that_make_no_sense(tmp_path, settings):
    with pytest.raises(SinkError, match=r"use [01] or more"):
        open_file(tmp_path / "f", **settings)


def test_a_path_that_cannot_be_written_is_said_at_the_start(tmp_path):
    with pytest.raises(SinkError, match="cannot be written"):
        open_file(tmp_path)
    with pytest.raises(SinkError, match="cannot be written"):
        open_file("/dev/null/f")
