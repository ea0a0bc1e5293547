"""``python -m train outliers``: speech and music out of Debian's packages, here of ones that are made for it."""

import csv
import io
import re
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import soundfile

from edge.errors import InputError
from tests.conftest import run_here
from train.debian import CLIPS, PIECE_SECONDS, RATE, Package, collect, read_packages
from train.manifest import ReadOptions, read_manifest
from train.steady import SECONDS, write_steady

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here: this is not Debian")


def tone(hertz, seconds, rate=RATE, channels=1):
    sound = 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(sound[:, None], channels, axis=1)


@pytest.fixture
def debian(tmp_path, monkeypatch):
    """A folder of packages that ``apt-get download`` finds, and no others."""
    archive = tmp_path / "archive"
    archive.mkdir()
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(f"""#!/bin/sh
cp {archive}/"$2"_*.deb . 2>/dev/null && exit 0
echo "E: Unable to locate package $2" >&2
exit 100
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return archive


def package(archive, name, files):
    """A package with ``files``, and a licence."""
    tree = archive / name
    for path, content in (
        {"DEBIAN/control": control(name), f"usr/share/doc/{name}/copyright": b"CC0\n"} | files
    ).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
    subprocess.run(["dpkg-deb", "-b", tree, archive / f"{name}_1.0_all.deb"], check=True, capture_output=True)


def control(name):
    return f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n".encode()


def sound(samples, rate=RATE, kind="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


def test_files_of_a_package_become_recordings_of_a_minute(debian, tmp_path):
    files = {f"usr/share/a/voices/{n}.wav": sound(tone(300, 3, 8000, 2), 8000) for n in range(30)}
    package(debian, "a", files | {"usr/share/a/music/x.wav": sound(tone(1000, 2)), "usr/share/a/voices/README": b"x"})
    ((_, taken),) = collect(tmp_path / "out", [Package("a", "speech", "/voices/")])
    names = [name for recording in taken for name in recording.files]
    assert sorted(names) == sorted(files)  # each once, and no others
    assert [r.path.relative_to(tmp_path / "out").as_posix() for r in taken] == [
        "speech/a-00.flac",
        "speech/a-01.flac",
    ]
    lengths = [soundfile.info(r.path).duration for r in taken]
    assert 50 <= lengths[0] <= 60 + PIECE_SECONDS
    assert sum(lengths) == pytest.approx(30 * 3.3, abs=0.5)
    samples, rate = soundfile.read(taken[0].path)
    assert rate == RATE
    assert samples.ndim == 1
    assert np.abs(np.fft.rfft(samples[: 3 * RATE])).argmax() / 3 == pytest.approx(300, abs=1)
    assert (tmp_path / "out" / "a.licence").read_text() == "CC0\n"
    with (tmp_path / "out" / "sources.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [(row["filename"], row["version"]) for row in rows] == [
        ("speech/a-00.flac", "1.0"),
        ("speech/a-01.flac", "1.0"),
    ]
    assert ";".join(taken[0].files) == rows[0]["files"]


def test_long_files_give_their_middle_and_a_package_its_minutes(debian, tmp_path):
    tune = np.concatenate([tone(500, 30), tone(2000, 20), tone(500, 30)])[:, 0]
    package(debian, "m", {f"usr/m/{n}.flac": sound(tune, kind="FLAC") for n in range(9)})
    ((_, taken),) = collect(tmp_path / "out", [Package("m", "music", ".")], minutes=1)
    assert len([name for recording in taken for name in recording.files]) == 3  # 3 of 20 s
    samples, _ = soundfile.read(taken[0].path)
    assert np.abs(np.fft.rfft(samples[: 20 * RATE])).argmax() / 20 == pytest.approx(2000, abs=1)


def test_archives_of_games_are_looked_into(debian, tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("sound/talk/a.wav", sound(tone(700, 1)))
        archive.writestr("sound/shots/b.wav", sound(tone(900, 1)))
    package(debian, "g", {"usr/g/data.pk3": file.getvalue(), "usr/g/broken.zip": b"no archive"})
    ((_, taken),) = collect(tmp_path / "out", [Package("g", "speech", "/talk/")])
    assert [recording.files for recording in taken] == [("usr/g/data.pk3/sound/talk/a.wav",)]
    rows = [Package("g", "speech", "/talk/"), Package("g", "sounds", ".")]
    ((_, taken),) = collect(tmp_path / "both", rows)  # the second row does not find the first one's unpacked files
    assert [len(recording.files) for recording in taken] == [1, 2]


def test_what_cannot_be_read_is_left_out(debian, tmp_path):
    package(debian, "b", {"usr/b/0.wav": b"no sound", "usr/b/1.wav": sound(tone(700, 1)), "usr/b/2.wav": b""})
    ((_, taken),) = collect(tmp_path / "out", [Package("b", "speech", ".")])
    assert [recording.files for recording in taken] == [("usr/b/1.wav",)]


def test_an_interrupted_run_goes_on(debian, tmp_path):
    for name in "ab":
        package(debian, name, {"usr/x.wav": sound(tone(700, 1))})
    packages = [Package(name, "music", ".") for name in "ab"]
    next(collect(tmp_path / "out", packages))
    (debian / "a_1.0_all.deb").unlink()  # it is not asked for again
    assert [name for name, _ in collect(tmp_path / "out", packages)] == ["b"]
    assert list(collect(tmp_path / "out", packages)) == []
    (tmp_path / "out" / "b.licence").unlink()  # as where it was cut off before the last step
    assert [name for name, _ in collect(tmp_path / "out", packages)] == ["b"]
    assert len((tmp_path / "out" / "sources.csv").read_text().splitlines()) == 3  # and none twice


def test_another_kind_of_the_same_package_is_added(debian, tmp_path):
    package(debian, "a", {"usr/talk.wav": sound(tone(700, 1)), "usr/tune.wav": sound(tone(900, 1))})
    for kind, pattern in (("speech", "talk"), ("music", "tune"), ("music", "tune")):
        list(collect(tmp_path / "out", [Package("a", kind, pattern)]))
    lines = (tmp_path / "out" / "sources.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines] == ["kind", "speech", "music"]


def full(*arguments, **options):
    raise OSError(28, "No space left on device")


def test_mistakes_are_named_in_one_line(debian, tmp_path, monkeypatch):
    done = run_here("train", "outliers", tmp_path / "out", "--kind", "music", code=1)
    assert done.stderr.splitlines() == [
        "Error: apt-get download asc-music: E: Unable to locate package asc-music (apt-get update, or another mirror)"
    ]
    (tmp_path / "file").write_text("")
    assert "file" in run_here("train", "outliers", tmp_path / "file", code=2).stderr
    package(debian, "asc-music", {"x.wav": sound(tone(700, 1))})
    monkeypatch.setattr("train.debian.soundfile.write", full)
    done = run_here("train", "outliers", tmp_path / "out", "--kind", "music", code=1)
    assert done.stderr.strip().endswith(
        "out cannot be written: No space left on device; give another OUT, or free space"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"apt-get is not here \(run this on Debian, or in its container\)"):
        next(collect(tmp_path / "out", read_packages()))


def test_clips_of_classes_are_files_of_their_own(debian, tmp_path):
    files = {f"usr/a/dog{n}.wav": sound(tone(300, 1 + n)) for n in range(3)}
    files |= {f"usr/a/key{n}.wav": sound(tone(900, 0.2)) for n in range(5)}
    files |= {"usr/a/dog_short.wav": sound(tone(300, 0.05)), "usr/a/dog_silent.wav": sound(0.001 * tone(300, 1))}
    package(debian, "a", files)
    rows = [Package("a", "dog", r"/dog", 1), Package("a", "keyboard_typing", r"/key", 2)]
    ((name, taken),) = collect(tmp_path / "out", rows)
    assert name == "a"
    manifest = read_manifest(tmp_path / "out", ReadOptions(layout="folders", n_folds=1, strict=True))
    lengths = [soundfile.info(clip.path).duration for clip in manifest.clips]
    assert sorted(lengths[:3]) == pytest.approx([1, 2, 3])
    assert [clip.label for clip in manifest.clips] == ["dog"] * 3 + ["keyboard_typing"] * 3
    assert [len(recording.files) for recording in taken] == [1, 1, 1, 2, 2, 1]
    assert not any("dog_s" in file for recording in taken for file in recording.files)


def test_the_tables(classifier):
    others, clips = read_packages(), read_packages(CLIPS)
    assert len({(p.name, p.kind) for p in others}) == len(others)
    assert {p.kind for p in others} == {"speech", "music", "sounds"}
    assert all(p.joined for p in clips)
    assert {p.kind for p in clips} <= set(classifier.spec.labels)
    assert all(re.compile(p.pattern) for p in others + clips)


def test_steady_noise_stays_as_it_is(tmp_path):
    """Its spectrum in one half is that of the other; no two are alike; what is there is not written again."""
    paths = list(write_steady(tmp_path, 3))
    heard = [soundfile.read(path)[0] for path in paths]
    assert [len(samples) for samples in heard] == 3 * [SECONDS * RATE]
    for samples in heard:
        halves = [np.abs(np.fft.rfft(half)) ** 2 for half in np.split(samples, 2)]
        bands = [[band.mean() for band in np.array_split(half[: len(half) // 4], 20)] for half in halves]
        apart = 10 * np.log10(np.divide(*bands))
        assert np.ptp(apart) < 3  # dB; the level may wander
        assert 1e-3 < np.abs(samples).max() <= 1
    assert not np.allclose(heard[0], heard[1], atol=1e-3)
    paths[1].unlink()
    before = [path.stat().st_mtime_ns for path in (paths[0], paths[2])]
    assert list(write_steady(tmp_path, 3)) == paths
    assert [path.stat().st_mtime_ns for path in (paths[0], paths[2])] == before
    assert np.array_equal(soundfile.read(paths[1])[0], heard[1])


def test_the_command_writes_noise_without_any_package(tmp_path, monkeypatch):
    monkeypatch.setattr("train.steady.RECORDINGS", 2)
    done = run_here("train", "outliers", tmp_path / "out", "--kind", "noise")
    assert done.output.splitlines()[0] == "2 recordings of noise"
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.flac")} == {"noise"}
