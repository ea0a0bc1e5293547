"""Clips of events: what is in them, their bounds, and disks that are full, slow or gone."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge import clip_folder, clips
from edge.clip_folder import ClipFolder, NoRoom, clip_path, safe
from edge.clips import ClipRecorder, ClipsConfig
from edge.config import build
from edge.errors import EdgeError
from edge.events import Event
from edge.history import Filter, find
from edge.records import event_record
from edge.rules import EventConfig, Rule
from edge.session import Plan, Session
from edge.sinks.sqlite import SqliteStore
from edge.sources.file import SoundFile
from edge.store import StoreConfig, open_to_read
from tests.conftest import ROOT
from tests.receivers import wait_until
from tests.test_listen import BASE, listen
from tests.test_store import small_disk  # noqa: F401  # a fixture

RATE = 1000  # Hz: small and quick
NOON = datetime(2025, 3, 14, 12, tzinfo=timezone.utc).timestamp()


def event(onset, offset=None, *, name="0123456789abcdef", label="dog", start=NOON):
    return Event(
        id=name, phase="begin" if offset is None else "end", label=label, classes=(label,), onset=onset, offset=offset,
        onset_time=start + onset, offset_time=None if offset is None else start + offset, peak=0.9, mean=0.8,
        level_dbfs=-20.0, model="m", latency_ms=1.0,
    )  # fmt: skip


class Rig:
    """A recorder, its news, and a stream whose sample at position p is p / 32768."""

    def __init__(self, folder, *, channels=1, voice=None, clock=lambda: NOON, rate=RATE, patient=False, **config):
        self.news, self.position, self.channels, self.rate = [], 0, channels, rate
        made = ClipsConfig(folder=str(folder), **{"min_free_bytes": 0, "max_days": 36_500.0, **config})
        self.recorder = ClipRecorder(
            made, rate, channels, source="mic", voice=voice, news=self.news.append, clock=clock, patient=patient
        )  # fmt: skip

    def listen(self, seconds, block=0.1):
        end = self.position + round(seconds * self.rate)
        while self.position < end:
            n = min(round(block * self.rate), end - self.position)
            ramp = ((self.position + np.arange(n)) % 32768 / 32768).astype(np.float32)
            self.recorder.push(ramp if self.channels == 1 else np.stack([ramp, -ramp], axis=1), self.position)
            self.position += n

    @property
    def counts(self):
        return Counter(news["state"] for news in list(self.news))

    def told(self, state, n=1, seconds=10.0):
        """The first ``n`` news of this kind, as soon as they are there."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = [news for news in list(self.news) if news["state"] == state]
            if len(found) >= n:
                return found
            time.sleep(0.005)
        raise AssertionError(f"{n} x {state} did not come: {self.news}")

    def clip(self, onset, offset, wait=True, **more):
        """An event of the stream, told 0.2 s late, and the file of its sound."""
        self.listen(onset + 0.2 - self.position / self.rate)
        path = self.recorder.begin(event(onset, **more))
        self.listen(offset + 0.2 - self.position / self.rate)
        self.recorder.end(event(onset, offset, **more))
        before = sum(news["state"] == "written" for news in self.news)
        self.listen(3.0)
        if wait:
            self.told("written", before + 1)
        return path


@pytest.fixture
def rig(tmp_path):
    made = []

    def make(**config):
        made.append(Rig(tmp_path / "clips", **config))
        return made[-1]

    yield make
    for one in made:
        one.recorder.close(0.1)


def first_and_count(path):
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    return int(samples[0] if samples.ndim == 1 else samples[0, 0]), len(samples)


def test_it_holds_what_was_before_and_after(rig, tmp_path):
    r = rig(pre_roll=3.0, post_roll=2.0)
    path = r.clip(10.0, 11.5)
    assert path == tmp_path / "clips" / "2025-03-14" / "120010.000Z_dog_01234567.flac"
    assert first_and_count(path) == (7000, 6500)
    samples, _ = soundfile.read(path, dtype="int16")
    assert np.array_equal(samples, np.arange(7000, 13500))
    assert soundfile.info(path).subtype == "PCM_16"
    assert r.told("written")[0] == {
        "type": "clip", "source": "mic", "time": "2025-03-14T12:00:00.000Z", "id": "0123456789abcdef",
        "label": "dog", "onset_time": "2025-03-14T12:00:10.000Z", "state": "written", "path": str(path), "reason": None,
    }  # fmt: skip
    assert r.counts == {"written": 1}


def test_at_the_beginning_there_is_less_before(rig):
    assert first_and_count(rig().clip(1.0, 2.0)) == (0, 4000)


def test_two_channels(rig):
    path = rig(channels=2).clip(5.0, 6.0)
    samples, _ = soundfile.read(path, dtype="int16")
    assert samples.shape == (6000, 2)
    assert np.array_equal(samples[:, 0], -samples[:, 1])


def test_a_long_event_is_cut_while_it_goes_on(rig):
    r = rig(max_seconds=8.0)
    path = r.recorder.begin(event(0.0))
    r.listen(8.1)
    r.told("written")  # though it has not ended
    assert first_and_count(path) == (0, 8000)
    r.listen(30.0)
    r.recorder.end(event(0.0, 38.0))
    r.listen(5.0)
    r.recorder.close()
    assert r.counts == {"written": 1}


def test_overlapping_events_have_a_clip_each(rig):
    r = rig()
    r.listen(5.0)
    paths = [r.recorder.begin(event(5.0, name=f"{i}" * 8, label=f"label {i}")) for i in range(3)]
    r.listen(2.0)
    for i in range(3):
        r.recorder.end(event(5.0, 5.5 + i / 2, name=f"{i}" * 8))
    r.listen(4.0)
    r.told("written", 3)
    assert [first_and_count(path) for path in paths] == [(2000, 5500), (2000, 6000), (2000, 6500)]


def test_too_many_at_once_are_dropped_and_counted(rig):
    r = rig()
    r.listen(1.0)
    paths = [r.recorder.begin(event(1.0, name=f"{i:08}")) for i in range(clips.MAX_OPEN + 2)]
    assert paths[-2:] == [None, None]
    assert len(r.told("dropped", 2)) == 2


def test_lost_samples_are_silence_and_positions_stay_true(rig):
    r = rig()
    r.listen(5.0)
    r.recorder.begin(event(4.0))
    r.position += 500
    r.listen(2.0)
    r.recorder.end(event(4.0, 5.0))
    r.listen(2.0)
    samples, _ = soundfile.read(Path(r.told("written")[0]["path"]), dtype="int16")
    expected = np.arange(1000, 7000)
    expected[4000:4500] = 0
    assert np.array_equal(samples, expected)


@pytest.mark.parametrize("jump", [1_000_000, -4000])
def test_after_a_jump_it_goes_on_and_mixes_nothing(rig, jump):
    r = rig()
    r.listen(6.0)
    r.recorder.begin(event(5.0, name="before-the-jump"))
    r.position += jump
    r.listen(1.0)
    here = r.position / RATE
    r.recorder.begin(event(here - 0.5, name="after-the-jump"))
    r.recorder.end(event(here - 0.5, here, name="after-the-jump"))
    r.listen(3.0)
    r.told("written", 2)
    before, after = [first_and_count(news["path"]) for news in r.told("written", 2)]
    assert before == (2000, 4000)
    assert after == ((6000 + jump) % 32768, 3000)  # nothing from before the jump


def test_close_writes_what_there_is(rig):
    r = rig()
    r.listen(4.0)
    going_on = r.recorder.begin(event(3.5, name="still going"))
    ended = r.recorder.begin(event(3.0, name="ended"))
    r.recorder.end(event(3.0, 3.9, name="ended"))
    r.recorder.close()
    assert first_and_count(going_on) == (500, 3500)
    assert first_and_count(ended) == (0, 4000)


def test_an_event_that_is_told_too_late_is_dropped(rig):
    r = rig(max_seconds=6.0)
    r.listen(60.0)
    r.recorder.begin(event(10.0))
    r.recorder.end(event(10.0, 11.0))
    assert r.told("dropped")[0]["reason"] == "nothing of it was recorded"


SLOW_DISK = """
import time
from pathlib import Path
from edge.cli.listen import main

def write_bytes(path, data):
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(data), 16_384):
            file.write(data[start : start + 16_384])
            time.sleep(0.02)

Path.write_bytes = write_bytes
main()
"""


def sounds(folder):
    """How often each is there, of the clips under their final names; each must be whole."""
    found = Counter()
    for path in folder.glob("*/*.flac"):
        samples, _ = soundfile.read(path, dtype="int16")
        assert len(samples) == soundfile.info(path).frames > 0
        found[samples.tobytes()] += 1
    return found


@pytest.mark.slow
def test_kill_9_while_a_clip_is_written(tmp_path, demo):
    """edge-listen on a slow disk: what bears its final name is whole, half a clip is gone with the next start."""
    config, whole, folder = tmp_path / "edge.toml", tmp_path / "whole", tmp_path / "clips"
    config.write_text(f'input = "{demo}"\nkeep-voices = true\noutput = "none"\n[clips]\nmin_free_bytes = 0\n')
    listen("--config", config, "--clips", whole)
    expected = sounds(whole)
    assert expected.total() >= 6
    there, halves = 0, 0
    for life, moment in enumerate(np.random.default_rng(0).uniform(0, 0.2, 6)):
        arguments = [sys.executable, "-c", SLOW_DISK, "--config", config, "--clips", folder]
        process = subprocess.Popen(arguments, cwd=ROOT, env=BASE)
        enough, mine = there + life % 3, f"*/*.{process.pid}.part"
        wait_until(lambda: len(list(folder.glob("*/*.flac"))) >= enough and list(folder.glob(mine)), 60)  # noqa: B023
        time.sleep(moment)  # a clip takes 0.15 to 0.4 s
        process.kill()
        process.wait()
        parts = list(folder.glob("*/*.part"))
        assert parts == list(folder.glob(mine))  # that of the life before is gone
        halves += len(parts)
        assert sounds(folder).keys() <= expected.keys()
        there = sounds(folder).total()
    assert halves > 0
    assert there >= 3
    before = sounds(folder)
    listen("--config", config, "--clips", folder)
    assert not list(folder.rglob("*.part"))
    assert sounds(folder) - before == expected


@pytest.mark.parametrize(
    "label",
    [
        "../../etc/passwd",
        "/",
        "",
        "..",
        "dog/bark",
        "a\0b",
        "日本語 の 犬",
        "ü" * 300,
        "\u202egnp",
        "हिन्दी",
        "CON",
        ".hidden",
    ],
)
def test_any_label_makes_a_name_inside_of_the_folder(tmp_path, label):
    path = clip_path(tmp_path, NOON, label, "0123456789")
    assert path.parent == tmp_path / "2025-03-14"
    assert len(path.name.encode()) < 200
    assert clip_folder.CLIP_NAME.fullmatch(path.name)
    path.parent.mkdir()
    path.touch()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert not re.search(r'[<>:"/\\|?*\0-\x1f\u202e]', path.name)


def test_scripts_stay_readable():
    assert safe("日本語 犬") == "日本語-犬"
    assert safe("हिन्दी") == "हिन्दी"


def test_the_bound_holds_before_every_clip_and_the_oldest_go(rig, tmp_path):
    r = rig(max_bytes=4_000)
    sizes = []
    writing = clip_folder.ClipFolder.save

    def save(self, path, data):
        on_disk = sum(p.stat().st_size for p in tmp_path.rglob("*.flac"))
        sizes.append(on_disk + len(data))
        writing(self, path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_folder.ClipFolder, "save", save)
        paths = [r.clip(10.0 * i + 4, 10.0 * i + 6, name=f"{i:08}") for i in range(12)]
    assert 3_000 < max(sizes) <= 4_000
    assert len(sizes) == 12
    left = sorted(p for p in tmp_path.rglob("*.flac"))
    assert 0 < len(left) < 5
    assert left == paths[-len(left) :]
    pruned = [news["path"] for news in r.told("pruned", 12 - len(left))]
    assert pruned == [str(p) for p in paths[: -len(left)]]


def test_a_clip_larger_than_everything_is_dropped_and_deletes_nothing(rig):
    r = rig(max_bytes=20_000)
    kept = r.clip(4.0, 5.0)
    r.listen(3.0)
    loud = np.random.default_rng(0).uniform(-1, 1, 20_000).astype(np.float32)
    r.recorder.push(loud, r.position)
    r.position += len(loud)
    now = r.position / RATE
    r.recorder.begin(event(now - 18.0, name="huge"))
    r.recorder.end(event(now - 18.0, now - 2.0, name="huge"))
    assert "more than all clips may have" in r.told("dropped")[0]["reason"]
    assert kept.exists()


def test_after_a_restart_the_clips_that_are_there_count(tmp_path):
    first = Rig(tmp_path, max_bytes=4_000)
    paths = [first.clip(10.0 * i + 4, 10.0 * i + 6, name=f"{i:08}") for i in range(3)]
    first.recorder.close()
    (tmp_path / "2025-03-14" / f"{paths[0].name}.99.part").write_bytes(b"half")
    mine = tmp_path / "2025-03-14" / "holiday.flac"
    mine.write_bytes(bytes(50_000))
    old = tmp_path / "2020-01-01" / "010203.004Z_cat_ffffffff.flac"
    old.parent.mkdir()
    old.write_bytes(bytes(100))
    most = sum(p.stat().st_size for p in paths) + 100
    second = Rig(tmp_path, max_bytes=most, max_days=365.0)
    second.listen(0.1)
    assert second.told("pruned")[0]["path"] == str(old)  # too old, at once
    second.clip(8.0, 10.0, name="new")
    second.recorder.close()
    assert not paths[0].exists()
    assert paths[2].exists()
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.flac") if p != mine) <= most
    assert mine.exists()  # no clip of ours: neither counted nor deleted
    assert not old.parent.exists()
    assert not list(tmp_path.rglob("*.part"))


def test_clips_that_others_have_deleted_do_no_harm(rig):
    r = rig(max_bytes=4_000)
    for i in range(12):
        r.clip(10.0 * i + 4, 10.0 * i + 6, name=f"{i:08}").unlink()
    assert (r.counts["written"], r.counts["dropped"]) == (12, 0)


def test_too_old_is_by_the_clock(tmp_path):
    now = [NOON]
    folder = ClipFolder(tmp_path, max_bytes=1000, max_days=1.0, min_free_bytes=0, clock=lambda: now[0])
    folder.scan()
    path = clip_path(tmp_path, NOON, "dog", "1")
    folder.save(path, b"x")
    gone = []
    for hours in (23.9, -100, 24.1):  # a clock that is set back deletes nothing
        now[0] = NOON + timedelta(hours=hours).total_seconds()
        folder.make_room(0, gone.append)
        assert path.exists() == (hours < 24)
    assert gone == [path]
    assert folder.bytes == 0


def test_below_the_floor_of_free_space_nothing_is_written(rig, tmp_path):
    r = rig(min_free_bytes=1 << 60)
    r.clip(4.0, 5.0, wait=False)
    assert "bytes of the disk are free" in r.told("dropped")[0]["reason"]
    assert not list(tmp_path.rglob("*.flac*"))


def test_the_floor_counts_the_clip_itself(small_disk):  # noqa: F811
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    folder = ClipFolder(small_disk, max_bytes=1 << 30, max_days=1.0, min_free_bytes=free - 1000)
    folder.make_room(1000, print)
    with pytest.raises(NoRoom):
        folder.make_room(1001, print)


def test_a_full_disk_drops_the_clip_and_leaves_no_half(small_disk, monkeypatch):  # noqa: F811
    plenty = shutil.disk_usage("/")._replace(free=1 << 40)  # another program takes it in between
    monkeypatch.setattr(shutil, "disk_usage", lambda _: plenty)
    r = Rig(small_disk / "clips", rate=16_000)
    r.recorder.push(np.zeros(0, np.float32), 0)
    (small_disk / "ballast").write_bytes(bytes((2 << 20) - 40_000))
    noise = np.random.default_rng(0).uniform(-1, 1, 16_000 * 8).astype(np.float32)
    for at in (0, 1):
        r.recorder.push(noise, at * len(noise))
        r.recorder.begin(event(8.0 * at + 3, name=f"{at}"))
        r.recorder.end(event(8.0 * at + 3, 8.0 * at + 5, name=f"{at}"))
        if at == 0:
            assert "No space left" in r.told("dropped")[0]["reason"]
            assert not list(small_disk.rglob("*.flac*"))
            (small_disk / "ballast").unlink()
    r.told("written")  # it goes on
    r.recorder.close()


def test_a_folder_that_cannot_be_written(small_disk, tmp_path):  # noqa: F811
    (tmp_path / "file").touch()
    with pytest.raises(EdgeError, match="clips cannot be written to"):
        Rig(tmp_path / "file")
    r = Rig(small_disk / "clips")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    r.clip(4.0, 5.0, wait=False)
    assert "Read-only" in r.told("dropped")[0]["reason"]
    r.recorder.close()
    with pytest.raises(EdgeError, match="Read-only file system"):
        Rig(small_disk / "other")


def test_a_hanging_disk_costs_clips_and_never_time(rig, monkeypatch):
    r = rig(max_seconds=6.0)
    released, stuck = threading.Event(), threading.Event()
    saving = ClipFolder.save

    def save(self, path, data):
        stuck.set()
        released.wait(30)
        saving(self, path, data)

    monkeypatch.setattr(ClipFolder, "save", save)
    r.clip(4.0, 5.0, name="stuck", wait=False)
    assert stuck.wait(10)
    ring = r.recorder._ring._data
    longest = 0.0
    for i in range(1, 40):
        began = time.thread_time()
        r.clip(10.0 * i + 4, 10.0 * i + 5, name=f"{i:08}", wait=False)
        longest = max(longest, time.thread_time() - began)
    assert longest < 0.5  # of the processor, for ten seconds of stream
    assert r.recorder._ring._data is ring  # the same memory
    assert r.counts == {"dropped": 39 - clips.MAX_WAITING}
    released.set()
    # What waited was overwritten meanwhile: that is told, and no other sound is written in its place.
    r.told("dropped", 39)
    assert r.counts == {"written": 1, "dropped": 39}
    r.clip(500.0, 501.0, name="after")


def test_a_recording_waits_for_the_disk(tmp_path, monkeypatch):
    saving = ClipFolder.save
    monkeypatch.setattr(ClipFolder, "save", lambda *of: (time.sleep(0.02), saving(*of)))
    r = Rig(tmp_path, patient=True, max_seconds=6.0)
    for i in range(20):
        r.clip(10.0 * i + 4, 10.0 * i + 5, name=f"{i:08}", wait=False)
    r.recorder.close()
    assert r.counts == {"written": 20}


def test_close_does_not_wait_for_ever(rig, monkeypatch):
    r = rig()
    released, stuck = threading.Event(), threading.Event()
    monkeypatch.setattr(ClipFolder, "save", lambda *_: (stuck.set(), released.wait(30)))
    r.clip(4.0, 5.0, name="stuck", wait=False)
    assert stuck.wait(10)
    r.clip(14.0, 15.0, name="waits", wait=False)
    began = time.monotonic()
    r.recorder.close(0.2)
    assert time.monotonic() - began < 5
    assert [news["id"] for news in r.told("dropped")] == ["waits"]
    released.set()


def test_what_the_voice_filter_withholds_is_never_on_the_disk(rig, tmp_path):
    heard = []

    def voice(samples, rate, onset, offset):
        heard.append((samples.shape, rate, onset, offset))
        return True

    r = rig(voice=voice)
    r.clip(10.0, 11.0, wait=False)
    assert r.told("withheld")[0]["reason"] == "a voice is heard"
    assert heard == [((6000, 1), RATE, 7.0, 13.0)]
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_voice_filter_that_fails_withholds(rig, caplog):
    def voice(*_):
        raise RuntimeError("broken")

    r = rig(voice=voice)
    r.clip(10.0, 11.0, wait=False)
    r.told("withheld")
    assert "broken" in caplog.text


def test_bad_samples_do_not_break_it(rig):
    r = rig()
    r.listen(5.0)
    r.recorder.push(np.array([np.nan, np.inf, -np.inf, 7.0] * 250, np.float32), r.position)
    r.position += 1000
    assert first_and_count(r.clip(5.5, 6.5))[1] == 6000


def test_clips_are_for_their_owner(rig, tmp_path):
    path = rig().clip(4.0, 5.0)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    assert (tmp_path / "clips").stat().st_mode & 0o077 == 0


def test_its_settings_come_from_json_and_are_checked():
    fields = {
        "folder": "/x", "pre_roll": 1, "post_roll": 0, "max_seconds": 5, "max_bytes": 1, "max_days": 1,
        "min_free_bytes": 0,
    }  # fmt: skip
    assert build(ClipsConfig, fields) == ClipsConfig("/x", 1.0, 0.0, 5.0, 1, 1.0, 0)
    for name, wrong in (
        ("pre_roll", -1.0),
        ("post_roll", 61.0),
        ("max_seconds", 5.0),
        ("max_bytes", 0),
        ("max_days", 0.0),
    ):
        with pytest.raises(EdgeError, match=name):
            ClipsConfig(**{name: wrong})
    with pytest.raises(EdgeError, match="folder"):
        ClipRecorder(ClipsConfig(), RATE)


def test_the_store_knows_what_became_of_every_clip(rig, tmp_path):
    r = rig(max_bytes=4_000)
    path = tmp_path / "events.db"
    sink = SqliteStore(StoreConfig(path=str(path), max_days=36_500.0))
    for i in range(5):
        name = f"{i:08}"
        clip = r.clip(10.0 * i + 4, 10.0 * i + 6, name=name)
        sink.write(event_record("mic", event(10.0 * i + 4, 10.0 * i + 6, name=name)) | {"clip": str(clip)})
    r.recorder.close()
    for news in r.news:
        sink.write(news)
    sink.close()
    with closing(open_to_read(path)) as db:
        found = list(find(db, Filter()))
    assert len(found) == 5
    assert [Path(e.clip).exists() for e in found] == [e.clip_pruned_at is None for e in found]
    assert found[0].clip_pruned_at == NOON


@pytest.mark.parametrize(("state", "least_free"), [("written", 0), ("dropped", 2**62), ("withheld", 0)])
def test_an_end_names_no_clip_that_is_known_not_to_come(tmp_path, classifier, demo, monkeypatch, state, least_free):
    monkeypatch.setattr("edge.privacy.VoiceFilter.__call__", lambda *_: state == "withheld")
    kept = ClipsConfig(str(tmp_path / "clips"), pre_roll=0.5, post_roll=0.5, max_seconds=2, min_free_bytes=least_free)
    store = SqliteStore(StoreConfig(path=str(tmp_path / "events.db"), max_days=36_500.0))
    fates, late = {}, 0
    for record in Session(SoundFile(demo), classifier, Plan(clips=kept)).records():
        store.write(record)
        if record["type"] == "clip":
            assert record["state"] == state
            fates[record["id"]] = record["path"]
        elif record["type"] == "event" and record["phase"] == "end" and record["id"] in fates:
            assert record.get("clip") == (fates[record["id"]] if state == "written" else None)
            late += 1
    store.close()
    assert late >= 3  # events that outlast two seconds
    with closing(open_to_read(tmp_path / "events.db")) as db:
        assert {e.id: e.clip for e in find(db, Filter())} == {
            name: path if state == "written" else None for name, path in fates.items()
        }


def test_an_encoder_that_fails_costs_one_clip(rig, monkeypatch):
    rig = rig()
    with monkeypatch.context() as broken:
        broken.setattr(clips, "as_flac", lambda *_: 1 / 0)
        rig.clip(5.0, 6.0, wait=False)
        assert "division" in rig.told("dropped")[0]["reason"]
    assert rig.clip(20.0, 21.0, name="b").exists()


def test_several_recorders_share_the_bounds_of_a_folder(tmp_path):
    """And none deletes what another one is writing."""
    bounds = ClipsConfig(folder=str(tmp_path), min_free_bytes=0, max_bytes=25_000, max_days=36_500.0)
    folder = clips.folder_of(bounds, lambda: NOON)
    sound = np.random.default_rng(0).uniform(-1, 1, 4 * RATE).astype(np.float32)
    news = []
    recorders = [ClipRecorder(bounds, RATE, folder=folder, clock=lambda: NOON, news=news.append) for _ in range(3)]
    for number, recorder in enumerate(recorders * 4):
        heard = event(recorder._ring.written / RATE, start=NOON + number, name=f"{number}", label=f"dog{number}")
        recorder.begin(heard)
        recorder.push(sound, recorder._ring.written)
    for recorder in recorders:
        recorder.close()
    counts = Counter(told["state"] for told in news)
    there = [path.stat().st_size for path in tmp_path.rglob("*.flac")]
    assert counts["written"] - counts["pruned"] == len(there) > 0
    assert counts["pruned"] > 0
    assert sum(there) <= 25_000


def test_one_that_hears_nothing_does_nothing(tmp_path):
    """It may have been made to see whether new settings can be."""
    before = set(threading.enumerate())
    rig = Rig(tmp_path)
    assert set(threading.enumerate()) == before
    rig.recorder.close()


def test_clips_bear_the_name_that_a_microphone_has_once_it_is_open(tmp_path, classifier, demo):
    from tests.test_listener import Blocks

    class Named(Blocks):
        name = "default microphone"

        def blocks(self, *arguments):
            self.name = "USB"
            return super().blocks(*arguments)

    plan = Plan(EventConfig(Rule(threshold=0.0, confirm=1)), clips=ClipsConfig(str(tmp_path), min_free_bytes=0))
    horn = SoundFile(demo).read(16_000)[9 * 16_000 : 14 * 16_000]  # silence would be unknown, and begin nothing
    told = list(Session(Named(horn), classifier, plan).records())
    assert {r["type"] for r in told} == {"start", "health", "window", "event", "clip", "end"}
    assert {r["source"] for r in told} == {"USB"}
