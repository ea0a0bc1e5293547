"""A session that is broken off between the records of one window; and a name that no receiver could take."""

import json
import os

import pytest

from edge.board import Board
from edge.errors import InputError
from edge.rules import EventConfig, Rule
from edge.session import Plan, Session
from edge.sources.file import SoundFile


def test_what_was_decided_and_not_told_is_told_at_the_end(classifier, demo):
    """Wherever a reader stops: each event that has begun ends, and none ends that has not begun."""
    plan = Plan(EventConfig(Rule(threshold=0.2, confirm=1, max_duration=2.0)), duration=25)  # several in one window
    whole = list(Session(SoundFile(demo), classifier, plan).records())
    places = [n for n, record in enumerate(whole) if record["type"] in ("window", "event")]
    assert any(whole[n]["type"] == whole[n + 1]["type"] == "event" for n in places[:-1])
    for place in places[::5] + [n for n in places if whole[n]["type"] == "event"]:
        session, told = Session(SoundFile(demo), classifier, plan), []
        records = session.records()
        told += [next(records) for _ in range(place + 1)]
        records.close()
        told += session.interrupted()
        events = [(r["id"], r["phase"]) for r in told if r["type"] == "event"]
        begun = [key for key, phase in events if phase == "begin"]
        assert sorted(begun) == sorted(key for key, phase in events if phase == "end")
        assert len(set(events)) == len(events)
        assert told[-1]["reason"] == "interrupted"


def test_what_is_said_of_a_name_that_is_no_text_can_be_written(classifier, tmp_path):
    """As records, for /healthz, and in systemd's status."""
    board = Board()
    session = Session(SoundFile(tmp_path / os.fsdecode(b"caf\xe9.wav")), classifier, Plan(board=board))
    records = session.records()
    told = [next(records), next(records)]
    with pytest.raises(InputError, match="does not exist"):
        next(records)
    shown = f"{tmp_path}/caf\\udce9.wav"
    assert [(record["type"], record["source"]) for record in told] == [("error", shown), ("health", shown)]
    assert all(record["message"].startswith(f"{shown} does not exist") for record in told)
    assert board.sources().keys() == {shown}
    json.dumps([*told, board.document(), board.sentence()], ensure_ascii=False).encode()
