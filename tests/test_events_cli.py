"""``edge-events``: what is found, exported, corrected, drawn and erased, and what is refused."""

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, redirect_stderr, redirect_stdout
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from edge.cli import events as command
from edge.cli.events import main
from edge.cli.events_view import as_row
from edge.history import Filter, erase, find
from edge.sinks.sqlite import SqliteStore
from edge.store import StoreConfig, open_to_read, open_to_write
from tests.conftest import ROOT, run_module
from tests.test_store import event, small_disk, status  # noqa: F401  # a fixture

LOUD = "Grüße, 世界 [bold]:dog:"  # no markup, no emoji
DAY = datetime(2025, 3, 14)


def at(hour, minute=0, day=DAY):
    return (day + timedelta(hours=hour, minutes=minute)).timestamp()


@pytest.fixture(autouse=True)
def _own_stderr(monkeypatch):
    """What is caught here, the command would replace."""
    monkeypatch.setattr(command, "log_to_stderr", lambda verbose: None)


@pytest.fixture
def db(tmp_path):
    """Four events of a day."""
    path = tmp_path / "events.db"
    sink = SqliteStore(StoreConfig(path=str(path), max_days=36_500.0))
    sink.write(event(name="aaaa1111", at=at(7), label="dog", source="USB mic", peak=0.95, seconds=2.0))
    sink.write(event(name="aaaa2222", at=at(7, 30), label="siren", source="USB mic", peak=0.6, seconds=5400.0))
    sink.write(event("begin", name="bbbb3333", at=at(20), label="dog", source="street.flac", peak=0.8))
    sink.write(event(name="cccc4444", at=at(21), label=LOUD, source="street.flac", peak=0.7))
    sink.write(status(at(21)))
    sink.close()
    return path


def invoke(*arguments, given=""):
    """The command in this process: exit code (or exception), stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.stdin", io.StringIO(given))
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            return SimpleNamespace(code=end.code, stdout=out.getvalue(), stderr=err.getvalue())
    raise AssertionError("click always exits")


def ask(db, name, *arguments, code=0, given=""):
    done = invoke(name, "--db", db, *arguments, given=given)
    assert done.code == code, done
    return done


def ids(db, *arguments):
    return [row["id"][:4] for row in json.loads(ask(db, "list", "--output", "json", *arguments).stdout)]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ((), ["aaaa", "aaaa", "bbbb", "cccc"]),
        (("--limit", "2"), ["bbbb", "cccc"]),
        (("--label", "dog"), ["aaaa", "bbbb"]),
        (("--source", "usb"), ["aaaa", "aaaa"]),
        (("--min-score", "0.8"), ["aaaa", "bbbb"]),
        (("--since", "2025-03-14T20:00"), ["bbbb", "cccc"]),
        (("--until", "2025-03-14T20:00"), ["aaaa", "aaaa"]),
        (("--since", "2025-03-14T07:30", "--until", "2025-03-15", "--label", LOUD), ["cccc"]),
        (("--since", "today"), []),
        (("--until", "2h"), ["aaaa", "aaaa", "bbbb", "cccc"]),
        (("--label", "' OR 1=1 --"), []),
    ],
)
def test_filters(db, arguments, found):
    assert ids(db, *arguments) == found


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("2h", 7200), ("1.5h", 5400), ("7d", 604_800), ("1w", 604_800), ("90s", 90), ("now", 0)],
)
def test_an_age_is_a_time(text, seconds):
    assert abs(time.time() - seconds - command.moment(text)) < 5


def test_times_of_the_clock():
    convert = command.moment
    assert convert("2025-03-14T07:00:00Z") == 1_741_935_600.0
    assert convert("2025-03-14") == at(0)
    assert convert("today") - convert("yesterday") in (82_800, 86_400, 90_000)


@pytest.mark.parametrize("text", ["tomorrow", "2x", " ", "2025-13-01", "-2h"])
def test_what_is_no_time_is_refused(db, text):
    assert "is no time; allowed" in ask(db, "list", "--since", text, code=2).stderr


def test_what_is_no_day_is_refused(db):
    assert "is no day; allowed" in ask(db, "day", "2025-02-30", code=2).stderr


def test_the_table_is_for_people(db):
    lines = ask(db, "list").stdout.splitlines()
    assert len(lines) == 5
    assert "2025-03-14 07:00:00" in lines[1]
    assert "no end" in lines[3]
    assert LOUD in lines[4]  # as it is


def test_csv_and_json_say_the_same(db):
    table = list(csv.DictReader(ask(db, "list", "--output", "csv").stdout.splitlines()))
    records = json.loads(ask(db, "list", "--output", "json").stdout)
    assert [row["id"] for row in table] == [row["id"] for row in records]
    assert [row["label"] for row in table] == [row["label"] for row in records]
    assert records[0]["duration"] == 2.0
    assert records[2]["offset_time"] is None
    assert table[2]["offset_time"] == ""


@pytest.mark.parametrize("name", ["out.csv", "out.json", "out.jsonl"])
def test_export_holds_every_event(db, tmp_path, name):
    file = tmp_path / name
    ask(db, "export", file)
    with closing(open_to_read(db)) as connection:
        stored = [as_row(e) for e in find(connection, Filter())]
    if "json" in name:
        text = file.read_text()
        read = json.loads(text) if name.endswith("json") else [json.loads(line) for line in text.splitlines()]
        assert [{**row, "classes": tuple(row["classes"])} for row in read] == stored
    else:
        read = list(csv.DictReader(file.read_text().splitlines()))
        assert [(r["id"], float(r["peak"]), r["label"]) for r in read] == [
            (s["id"], s["peak"], s["label"]) for s in stored
        ]
    assert "bbbb3333" not in (ask(db, "export", file, "--label", "siren"), file.read_text())[1]


def test_export_is_whole_or_not_there(db, tmp_path, monkeypatch):
    file = tmp_path / "out.csv"
    file.write_text("before")
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("UPDATE events SET classes = 'no JSON' WHERE id = 'cccc4444'")
        connection.commit()
    with pytest.raises(json.JSONDecodeError):
        invoke("export", "--db", db, file)
    assert file.read_text() == "before"
    assert "cannot be written" in ask(db, "export", tmp_path / "no" / "out.csv", code=1).stderr
    assert "--format csv" in ask(db, "export", tmp_path / "out.txt", code=2).stderr
    assert sorted(p.name for p in tmp_path.iterdir() if "out" in p.name) == ["out.csv"]


def test_an_export_of_no_event_is_valid(db):
    assert [ask(db, "export", "-", "--format", kind, "--until", "2000-01-01").stdout for kind in ("json", "jsonl")] == [
        "[]\n",
        "",
    ]


def test_export_does_not_replace_the_database(db):
    before = db.read_bytes()
    assert "is the database itself" in ask(db, "export", db, "--format", "csv", code=2).stderr
    assert db.read_bytes() == before


def test_export_to_stdout(db, tmp_path):
    ask(db, "export", tmp_path / "out.jsonl")
    assert ask(db, "export", "-", "--format", "jsonl").stdout == (tmp_path / "out.jsonl").read_text()
    assert "--format csv" in ask(db, "export", "-", code=2).stderr


def test_the_last_correction_holds(db):
    ask(db, "correct", "aaaa1", "cat")
    ask(db, "correct", "aaaa1111", "nothing", "--note", "the door, not a dog")
    row = json.loads(ask(db, "list", "--limit", "9", "--output", "json").stdout)[0]
    assert (row["label"], row["corrected"], row["note"]) == ("dog", "nothing", "the door, not a dog")
    ask(db, "correct", "bbbb", "cat")
    assert ids(db, "--label", "cat") == ["bbbb"]
    assert ids(db, "--label", "dog") == ["aaaa", "bbbb"]
    assert "nothing (was dog)" in ask(db, "list").stdout


@pytest.mark.parametrize(
    ("name", "says"), [("aaaa", "more than one"), ("ffff", "no event"), ("bbb", "a part"), ("%", "no ev")]
)
def test_which_event_must_be_clear(db, name, says):
    assert says in ask(db, "correct", name, "cat", code=8).stderr


def test_stats_by_what_was_reported(db):
    ask(db, "correct", "aaaa1111", "cat")
    ask(db, "correct", "bbbb3333", "dog")  # a confirmation is no mistake
    rows = {row["label"]: row for row in json.loads(ask(db, "stats", "--output", "json").stdout)}
    assert rows["dog"] == {"label": "dog", "events": 2, "mean_score": 0.875, "hours": 0.0006, "wrong": 1}
    assert rows["siren"]["hours"] == 1.5
    assert "siren" in ask(db, "stats").stdout
    assert ask(db, "stats", "--output", "csv", "--label", "siren").stdout.splitlines()[1] == "siren,1,0.6,1.5,0"


def test_a_day_in_the_terminal(db):
    ask(db, "correct", "cccc", "nothing")
    lines = ask(db, "day", "2025-03-14").stdout.splitlines()
    rows = {line.split()[0]: line for line in lines[2:]}
    assert set(rows) == {"dog", "siren"}
    start = rows["siren"].index("·")
    heard = [hour for hour in range(24) if rows["siren"][start + 2 * hour] != "·"]
    assert heard == [7, 8, 9] or heard == [7, 8]  # 07:30 to 09:00
    assert "nothing was heard" in ask(db, "day", "2025-03-13").stdout
    assert max(map(len, lines)) <= 80


def test_a_night_is_drawn_on_both_days(tmp_path):
    path = tmp_path / "events.db"
    sink = SqliteStore(StoreConfig(path=str(path), max_days=36_500.0))
    sink.write(event(at=at(23, 30), seconds=3600.0))
    sink.close()
    assert "1 events" in ask(path, "day", "2025-03-14").stdout
    assert "1 events" in ask(path, "day", "2025-03-15").stdout
    assert "nothing" in ask(path, "day", "2025-03-16").stdout


def test_a_day_as_a_picture(db, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "day.png"
    ask(db, "correct", "cccc", "$\\nomath$")
    assert ask(db, "day", "2025-03-14", "--out", out).stdout == ""
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "siren" in ask(db, "day", "2025-03-14", "--out", out, "--output", "text").stdout
    ask(db, "day", "2025-03-13", "--out", out)  # nothing was heard
    assert "cannot be written" in ask(db, "day", "--out", tmp_path / "no" / "day.png", code=1).stderr


@pytest.mark.parametrize("name", ["day.pdf", "day.svg", "day.xyz"])
def test_a_picture_of_another_kind_is_refused(db, tmp_path, name):
    refused = ask(db, "day", "2025-03-14", "--out", tmp_path / name, code=2)
    assert f"{name}' is no PNG file; allowed: a name that ends with .png" in refused.stderr
    assert (refused.stdout, list(tmp_path.glob("day.*"))) == ("", [])


def test_a_picture_without_its_extra(db, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'edge-listen[plot]'" in ask(db, "day", "--out", tmp_path / "day.png", code=1).stderr


def test_erase_asks(db):
    assert "Erase 4 events" in ask(db, "erase", "--all", code=1, given="n\n").stderr
    ask(db, "erase", "--all", code=1, given="")
    assert len(ids(db)) == 4
    assert "erased 4 events" in ask(db, "erase", "--all", given="y\n").stdout
    assert ids(db) == []


@pytest.mark.parametrize("arguments", [(), ("--all", "--label", "dog"), ("--all", "--before", "now")])
def test_erase_wants_to_know_what(db, arguments):
    assert "say what to erase" in ask(db, "erase", "--yes", *arguments, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (("--label", "dog"), ["aaaa", "cccc"]),
        (("--before", "2025-03-14T20:00"), ["bbbb", "cccc"]),
        (("--before", "2025-03-14T20:00", "--label", "dog"), ["aaaa", "bbbb", "cccc"]),
    ],
)
def test_erase_takes_what_was_named(db, arguments, left):
    ask(db, "erase", "--yes", *arguments)
    assert ids(db) == left


def test_after_erase_nothing_remains(db, tmp_path):
    secret = "a secret that a person noted"
    clip, stranger = tmp_path / "2025-03-14" / "070000.000Z_dog_aaaa.flac", tmp_path / "letter.txt"
    clip.parent.mkdir()
    clip.write_bytes(b"fLaC")
    stranger.write_text("mine")
    sink = SqliteStore(StoreConfig(path=str(db), max_days=36_500.0))  # a listener, which goes on
    sink.write(event(name="dddd5555", at=at(22), label="dog", clip=str(clip)))
    sink.write(event(name="dddd6666", at=at(22), label="dog", clip=str(stranger)))
    ask(db, "correct", "dddd5", "cat", "--note", secret)
    everything = lambda: b"".join(p.read_bytes() for p in tmp_path.glob("events.db*"))  # noqa: E731
    assert secret.encode() in everything()
    assert "erased 6 events and 1 clips" in ask(db, "erase", "--all", "--yes").stdout
    for word in (secret, "dddd5555", "siren", "USB mic", LOUD):
        assert word.encode() not in everything()
    assert not clip.parent.exists()
    assert stranger.read_text() == "mine"  # no clip: not ours to delete
    with closing(open_to_read(db)) as connection:
        assert connection.execute("SELECT count(*) FROM health").fetchone() == (0,)
    sink.write(event(name="eeee7777", at=at(23)))
    sink.close()
    assert ids(db) == ["eeee"]


def test_what_is_erased_is_overwritten_though_the_disk_is_too_full_to_rewrite(small_disk):  # noqa: F811
    path = small_disk / "events.db"
    sink = SqliteStore(StoreConfig(path=str(path), max_days=36_500.0))
    for i in range(200):
        model = "short" if 90 < i < 110 else "m" * 3000  # the row shares its page with others, which stay
        sink.write(event(name=f"{i}", at=at(7), label="secret" if i == 100 else "dog", model=model))
    sink.close()
    (small_disk / "ballast").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - 250_000))
    assert b"secret" in path.read_bytes()
    stderr = ask(path, "erase", "--label", "secret", "--yes", code=8).stderr
    assert "erased, but not made smaller" in stderr
    assert b"secret" not in path.read_bytes()
    assert len(ids(path, "--limit", "999")) == 199


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (("--all",), []),
        (("--before", "2025-03-14T00:00Z"), ["070000.000Z_cat_bbbb.flac"]),
        (("--label", "dog"), ["070000.000Z_cat_bbbb.flac", "070000.000Z_dog_aaaa.flac"]),
    ],
)
def test_clips_of_forgotten_events_go_with_their_folder_named(db, tmp_path, arguments, left):
    folder = tmp_path / "clips"
    for name in (
        "2025-03-13/070000.000Z_dog_aaaa.flac",
        "2025-03-14/070000.000Z_cat_bbbb.flac",
        "2025-03-14/mine.flac",
        "2025-03-13/080000.000Z_dog_cccc.flac.17.part",  # of a power cut
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    ask(db, "erase", "--yes", "--clips", folder, *arguments)
    assert sorted(p.name for p in folder.rglob("*.flac")) == [*left, "mine.flac"]
    assert bool(list(folder.rglob("*.part"))) == ("--label" in arguments)


def test_a_folder_of_clips_that_is_not_there_is_no_folder_without_clips(db, tmp_path):
    assert "clipz' does not exist" in ask(db, "erase", "--yes", "--all", "--clips", tmp_path / "clipz", code=2).stderr
    assert ids(db)


def test_erase_says_so_while_a_reader_keeps_the_log(db):
    with closing(open_to_read(db)) as reader, closing(open_to_write(db, busy_seconds=0.1)) as connection:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()
        with pytest.raises(Exception, match="erased, but") as caught:
            erase(connection, db, Filter(), everything=True)
        assert caught.value.exit_code == 8
    assert ids(db) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["day", "0001-01-01"], "'0001-01-01' is no day; allowed: 2025-11-25, today, yesterday"),
        (["day", "9999-12-31"], "'9999-12-31' is no day; allowed: 2025-11-25, today, yesterday"),
        (["list", "--limit", str(10**30)], f"{10**30} is not in the range 1<=x<=1000000000"),
        (["correct", "aaaa1111", " "], "' ' is no label; allowed: what it was, or nothing"),
    ],
)
def test_values_that_cannot_be(db, arguments, says):
    assert says in ask(db, *arguments, code=2).stderr


def test_the_ends_of_the_calendar(db):
    for day in ("0001-01-02", "9999-12-30"):
        assert "nothing was heard" in ask(db, "day", day).stdout


def test_what_is_no_text_is_looked_for_as_it_is_stored(db):
    assert ids(db, "--label", "\udcff") == ids(db, "--source", "\udcff") == []
    ask(db, "correct", "aaaa1111", "\udcff", "--note", "\udcff")
    assert ids(db, "--label", "\udcff") == ["aaaa"]
    assert "is the id of" in ask(db, "correct", "\udcff" * 4, "dog", code=8).stderr


def test_an_empty_file_stays_one(tmp_path):
    path = tmp_path / "x.db"
    path.touch()
    for arguments in (["list"], ["erase", "--all", "--yes"], ["correct", "aaaa", "cat"], ["stats"], ["day"]):
        assert f"{path} is empty, and no database" in ask(path, *arguments, code=8).stderr
    assert [(file, file.stat().st_size) for file in tmp_path.iterdir()] == [(path, 0)]


def test_a_missing_database_is_not_created(tmp_path):
    for arguments in (["list"], ["erase", "--all", "--yes"], ["correct", "aaaa", "cat"], ["stats"], ["day"]):
        assert "there is no database" in ask(tmp_path / "x.db", *arguments, code=8).stderr
    assert list(tmp_path.iterdir()) == []


def test_refusals_are_one_line_with_their_exit_code(tmp_path, db):
    text = tmp_path / "text.db"
    text.write_text("hello" * 1000)
    later = tmp_path / "later.db"
    SqliteStore(StoreConfig(path=str(later))).close()
    with closing(sqlite3.connect(later)) as connection:
        connection.execute("PRAGMA user_version = 7")
    for path, says in ((text, "is not a database"), (later, "upgrade edge-listen")):
        stderr = run_module("edge.cli.events", "list", "--db", path, code=8).stderr
        assert says in stderr
        assert len(stderr.splitlines()) == 1
    with closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert len(run_module("edge.cli.events", "list", "--db", db).stdout.splitlines()) == 5


@pytest.fixture
def nobody():
    """Another user, or this one where that is not root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission(db, nobody):
    if os.geteuid() != 65534:
        db.chmod(0)
    for arguments in (["list"], ["correct", "bbbb", "cat"], ["erase", "--all", "--yes"]):
        stderr = ask(db, *arguments, code=8).stderr
        assert "Permission denied (name a file that you may read and write)" in stderr


def test_what_can_only_be_read_is_listed_and_not_changed(small_disk, db):  # noqa: F811
    path = small_disk / "events.db"
    path.write_bytes(db.read_bytes())
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert len(ids(path)) == 4
    assert "Read-only file system" in ask(path, "correct", "bbbb", "cat", code=8).stderr


def test_the_database_may_come_from_the_environment(db, monkeypatch):
    monkeypatch.setenv("EDGE_LISTEN_DB", str(db))
    assert "siren" in invoke("list").stdout


def test_starting_takes_no_numpy():
    heavy = "{'numpy', 'onnxruntime', 'rich', 'matplotlib'}"
    code = f"import sys, edge.cli.events; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
