"""Learning from what is none of the classes: which recordings, how many windows, and what comes of it."""

import contextlib
import logging
import os
import shutil
from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.unknown import Scores, row, strangers
from edge.bulk import FileResult
from edge.classifier import Classifier
from edge.config import coerce
from models.checkpoint import load_checkpoint
from models.mean import mean
from models.pretrained import BUNDLED
from models.spec import spec_of
from tests.conftest import SHARED, run_here
from tests.test_train import (  # noqa: F401  # a fixture
    RATE,
    Interrupted,
    folders,
    interrupt_after_one,
    quick,
    run,
    train,
    write_tone,
)
from train.augment import Augment, AugmentConfig
from train.clip import Clip
from train.config import TrainConfig, read_recipe
from train.dataset import WindowSampler, load_features
from train.folder import other_data
from train.frontend import log_scale
from train.initial import initialise, start_from
from train.loop import fit, make_model
from train.losses import EnergyHinge, Loss
from train.manifest import ManifestError, ReadOptions, read_manifest
from train.negatives import check_none_are_clips, halves, none_of, read_negatives, recordings
from train.parts import Parts, fill_cache

NEGATIVES = SHARED / "data" / "negatives"
LEARNT, KEPT = "c", "a"  # sources; their hashes put them into one half each


def write_noise(path, seed=0, seconds=2.5):
    """Hiss at a level of its own."""
    rng = np.random.default_rng([7, seed])
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, 10 ** rng.uniform(-2, -0.5) * rng.standard_normal(round(seconds * RATE)).clip(-3, 3) / 3, RATE
    )


@pytest.fixture
def hiss(tmp_path):
    """A folder of recordings that are none of the classes."""
    for i in range(6):
        write_noise(tmp_path / "hiss" / f"{i}.wav", seed=i)
    return tmp_path / "hiss"


@pytest.fixture
def table(tmp_path):
    """The same with a table: two halves, two recordings in which a class is heard, one in which it may be."""
    rows = (
        ("plain.wav", "speech", "", "", LEARNT),
        ("kept.wav", "speech", "", "", KEPT),
        ("high.wav", "ambience", "high", "", LEARNT),
        ("perhaps.wav", "ambience", "", "low; bell", LEARNT),
        ("bell.wav", "ambience", "bell", "", LEARNT),
    )
    lines = ["filename,kind,esc50_overlap,esc50_partial,source,licence"]
    for i, cells in enumerate(rows):
        write_noise(tmp_path / "table" / cells[0], seed=i)
        lines.append(",".join((*cells, "CC0")))
    (tmp_path / "table" / "negatives.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "table"


def names(paths):
    return [path.name for path in paths]


def learnt(*arguments, **options):
    return names(n.path for n in recordings(*arguments, **options))


# Which recordings


def test_what_may_be_a_class_is_no_negative_of_it(table):
    negatives = read_negatives(table)
    assert [n.half for n in negatives] == ["develop", "report", "develop", "develop", "develop"]
    assert negatives[3].partial == ("low", "bell")
    labels = ("high", "low", "middle")
    assert names(n.path for n in none_of(labels, negatives)) == ["plain.wav", "kept.wav", "bell.wav"]
    assert learnt([table], labels) == ["plain.wav", "bell.wav"]
    assert learnt([table], labels, faint=True) == ["plain.wav", "perhaps.wav", "bell.wav"]
    assert learnt([table], ("bell",)) == ["plain.wav", "high.wav"]
    text = (table / "negatives.csv").read_bytes()
    (table / "negatives.csv").write_bytes(b"\xef\xbb\xbf" + text)  # as spreadsheets save it
    assert read_negatives(table) == negatives
    (table / "negatives.csv").unlink()
    assert len(recordings([table], labels)) == 5  # nothing is known of them


def test_folders_are_read_as_data_sets_are(folders, hiss, tmp_path, caplog):  # noqa: F811
    """Links are followed, hidden files passed over, and what is not read is said."""
    for name in ("linked", "hidden"):
        write_noise(tmp_path / "elsewhere" / f"{name}.wav")
    (hiss / "there").symlink_to(tmp_path / "elsewhere")
    (hiss / "alias.wav").symlink_to(tmp_path / "elsewhere" / "linked.wav")
    write_noise(hiss / ".hidden.wav")
    write_noise(hiss / ".trash" / "old.wav")
    (hiss / "talk.m4a").touch()
    assert learnt([hiss], ("a",)) == [*(f"{i}.wav" for i in range(6)), "alias.wav", "hidden.wav", "linked.wav"]
    assert learnt([hiss / "0.wav"], ("a",)) == ["0.wav"]
    Parts(quick(outliers=(str(hiss),)), read_manifest(folders), 40, None, "cpu")
    assert [r.getMessage() for r in caplog.records] == [
        f"left out: {hiss / 'talk.m4a'}: .m4a is not read; convert it to WAV or FLAC"
    ]
    with pytest.raises(ManifestError, match=r"typo does not exist; give a folder of recordings"):
        recordings([tmp_path / "typo"], ("a",))


def test_clips_of_the_data_set_are_no_outliers(folders, hiss, tmp_path):  # noqa: F811
    """Neither the data set itself, nor one in it or around it, nor by a link."""
    (hiss / "link").symlink_to(folders / "low")
    fit_with = partial(run_here, "train", "fit", folders, "--set", "views=0", "--out", tmp_path / "out")
    for given, count in ((folders, 30), (folders / "low", 10), (tmp_path, 30), (hiss, 10)):
        done = fit_with("--outliers", given, code=1)
        assert f"Error: {count} of the outliers are clips of data, the first: {given}" in done.stderr
        assert "give --outliers a folder without them" in done.stderr
    others = read_manifest(folders, ReadOptions(classes=("high", "middle")))
    check_none_are_clips(recordings([folders / "low"], others.labels), others)  # a class that is left out


def test_every_kind_is_drawn_as_often(folders, table, tmp_path, monkeypatch):  # noqa: F811
    """Those of a folder without a table are named by the folder that they lie in."""
    for i in range(6):
        write_noise(tmp_path / "more" / "speech" / f"{i}.wav", seed=i)
    write_noise(tmp_path / "more" / "music" / "0.wav")
    found = recordings([table, tmp_path / "more"], ("high", "low"))
    assert [n.kind for n in found] == ["speech", "ambience", "music", *["speech"] * 6]
    monkeypatch.setattr(WindowSampler, "windows", lambda sampler, clips, stretch, rng: torch.from_numpy(clips))
    others = (str(table), str(tmp_path / "more"))
    parts = Parts(quick(outliers=others), read_manifest(folders), 40, tmp_path / "cache", "cpu")
    drawn = np.bincount(parts.outliers(3000, np.random.default_rng(0)))
    assert all(900 < count < 1100 for count in drawn[1:3])  # the only ones of their kinds
    assert all(100 < count < 190 for count in (drawn[0], *drawn[3:]))


def test_a_source_stays_in_its_half():
    """Those who report rely on it: the rule may not change."""
    of = halves(("speech", source) for source in "abcdefaaa")
    assert of == {"d": "develop", "f": "report", "c": "develop", "b": "report", "e": "develop", "a": "report"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,kind\nx.wav,speech\n", "negatives.csv has no column 'esc50_overlap'; it needs filename, kind"),
        ("", "has no column 'filename'"),
        ("filename,kind,esc50_overlap,esc50_partial,source\n,speech,,,x\n", "a row has no filename"),
        (b"filename,kind\n\xff\xfe\n", "cannot be read: .*; it is a table of filename, kind"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path, text, message):
    (tmp_path / "negatives.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ManifestError, match=message):
        recordings([tmp_path], ("a",))


def test_no_table_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"negatives\.csv cannot be read: .*No such file"):
        read_negatives(tmp_path)


@pytest.mark.skipif(not NEGATIVES.is_dir(), reason=f"real recordings are not there: {NEGATIVES}")
def test_the_real_table_names_classes_of_the_model(classifier: Classifier):
    negatives = read_negatives(NEGATIVES)
    assert {label for n in negatives for label in n.overlap + n.partial} <= set(classifier.spec.labels)
    assert all(n.path.is_file() for n in negatives)
    for half in ("develop", "report"):
        there = {n.kind for n in none_of(classifier.spec.labels, negatives) if n.half == half}
        assert there == {"speech", "music", "ambience"}
    split = [{n.source for n in negatives if n.half == half} for half in ("develop", "report")]
    assert not split[0] & split[1]


# What is learnt


def heard(checkpoint, paths, tmp_path):
    """Logits of the first window of each recording."""
    model, frontend = checkpoint.model().eval(), checkpoint.frontend
    features = load_features([Clip(path, (), 0) for path in paths], frontend, tmp_path / "cache")
    power = torch.stack([features.clip(n)[: model.window_frames] for n in range(len(paths))])
    with torch.inference_mode():
        return model(log_scale(power.transpose(1, 2), frontend).transpose(2, 3))


def test_outliers_end_with_less_energy_and_less_certain(folders, hiss, tmp_path):  # noqa: F811
    augment = AugmentConfig(mix=0.0, noise=0.0, shift=0.03, time_masks=0, mel_masks=0)
    for i in range(6):
        write_noise(tmp_path / "new" / f"{i}.wav", seed=100 + i)
    strange, known = sorted((tmp_path / "new").iterdir()), sorted((folders / "middle").iterdir())
    gaps, certain = [], []
    for outliers in ((), (str(hiss),)):
        config = quick(epochs=25, learning_rate=0.01, augment=augment, outliers=outliers)
        checkpoint, _ = run(config, folders, tmp_path / f"open-{bool(outliers)}", tmp_path)
        none, classes = (heard(checkpoint, paths, tmp_path) for paths in (strange, known))
        assert (classes.argmax(1) == checkpoint.labels.index("middle")).float().mean() >= 0.9
        gaps.append(float(classes.logsumexp(1).min() - none.logsumexp(1).max()))
        certain.append(float(none.softmax(1).amax(1).max()))
    assert gaps[1] > gaps[0] + 2  # seen: 5.6 and 0.9
    assert certain[1] < 0.6 < certain[0]  # seen: 0.41, little more than a third, and 0.84


def test_what_else_was_learnt_from_is_known(folders, hiss, tmp_path):  # noqa: F811
    """Also by the weights that a run goes on from, of this data set or another, and by a mean of several."""
    first = quick(outliers=(str(hiss),), backgrounds=(str(hiss), str(folders / "low")))
    checkpoint, _ = run(first, folders, tmp_path / "first", tmp_path)
    said = ["hiss (none of its classes)", "low (in the background)"]
    assert checkpoint.provenance["other_data"] == said
    assert spec_of(checkpoint, checkpoint.model(), name="x", precision="fp32").provenance.other_data == tuple(said)
    again = quick(init=str(tmp_path / "first" / "checkpoint.pt"))
    assert run(again, folders, tmp_path / "again", tmp_path)[0].provenance["other_data"] == said
    shutil.copytree(folders, folders.with_name("others"))
    taught = quick(teachers=(str(tmp_path / "first" / "checkpoint.pt"),))
    other, _ = run(taught, folders.with_name("others"), tmp_path / "taught", tmp_path)
    assert other.provenance["other_data"] == ["data (a teacher)", *said]
    nothing, _ = run(quick(), folders, tmp_path / "nothing", tmp_path)
    assert nothing.provenance["other_data"] == []
    assert mean([checkpoint, nothing]).provenance["other_data"] == said


def test_a_contract_holds_the_name_of_any_folder(folders, tmp_path):  # noqa: F811
    odd = (str(tmp_path / "a\nb"), str(tmp_path / os.fsdecode(b"caf\xe9")))
    said = other_data(quick(outliers=odd), read_manifest(folders), {})
    assert said == ["a?b (none of its classes)", "caf\\udce9 (none of its classes)"]
    assert coerce(tuple[str, ...], said, "provenance.other_data") == tuple(said)


def test_independent_scores_of_outliers_are_all_low(hiss, tmp_path):
    for i in range(16):
        write_tone(tmp_path / f"{i}.wav", 200 if i % 2 else 4000, seed=i)
    lines = [f"{i}.wav,{'low' if i % 2 else 'high'}" for i in range(16)]
    (tmp_path / "clips.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    manifest = read_manifest(tmp_path / "clips.csv", ReadOptions(separator="|"))
    config = quick(epochs=30, outliers=(str(hiss),), augment=AugmentConfig(mix=0.0, noise=0.0))
    path = fit(config, manifest, tmp_path / "out", tmp_path / "cache", lambda _: None, device="cpu")
    write_noise(tmp_path / "new.wav", seed=100)
    logits = heard(load_checkpoint(path), [tmp_path / "new.wav", tmp_path / "0.wav"], tmp_path)
    assert manifest.multi_label
    assert logits[0].max() < 0 < logits[1].max()


@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_the_share_of_a_batch_holds(folders, hiss, tmp_path, monkeypatch, mix):  # noqa: F811
    """Also where clips are mixed: never with what is none of the classes."""
    batches = []

    class Counted(Loss):
        def __call__(self, logits, targets, opinion=None):
            batches.append(targets.sum(1).round(decimals=4).tolist())
            return super().__call__(logits, targets, opinion)

    monkeypatch.setattr("train.loop.Loss", Counted)
    config = quick(epochs=2, batch_size=8, outliers=(str(hiss),), outlier_share=0.4, augment=AugmentConfig(mix=mix))
    run(config, folders, tmp_path / "out", tmp_path)
    in_training = [batch for batch in batches if len(batch) == 8]
    assert len(in_training) == 2 * (24 // 5)  # an epoch is still each clip once
    assert all(sorted(batch) == [0.0] * 3 + [1.0] * 5 for batch in in_training)


def test_outliers_and_backgrounds_are_as_of_other_places(folders, hiss, tmp_path, monkeypatch):  # noqa: F811
    sizes, real = [], Augment.elsewhere

    def counted(augment, power):
        sizes.append(len(power))
        return real(augment, power)

    monkeypatch.setattr(Augment, "elsewhere", counted)
    others = {"outliers": (str(hiss),), "backgrounds": (str(hiss),), "outlier_share": 0.25}
    config = quick(epochs=1, batch_size=8, augment=AugmentConfig(elsewhere=0.25), **others)
    run(config, folders, tmp_path / "out", tmp_path)
    steps = 24 // 6
    assert sorted(sizes) == steps * [2, 2] + steps * [6]  # outliers, their backgrounds; the backgrounds of clips


def test_a_run_with_outliers_is_repeated_when_resumed(folders, table, tmp_path):  # noqa: F811
    config = quick(epochs=4, views=1, view_share=0.5, outliers=(str(table),), backgrounds=(str(table),))
    whole, _ = run(config, folders, tmp_path / "whole", tmp_path)
    with contextlib.suppress(Interrupted):
        fit(config, read_manifest(folders), tmp_path / "cut", tmp_path / "cache", interrupt_after_one(), device="cpu")
    resumed, rest = run(config, folders, tmp_path / "cut", tmp_path)
    assert len(rest) == 3
    assert all(torch.equal(whole.state[key], resumed.state[key]) for key in whole.state)
    without, _ = run(quick(epochs=4, views=1, view_share=0.5), folders, tmp_path / "without", tmp_path)
    assert any(not torch.equal(whole.state[key], without.state[key]) for key in whole.state)


def test_what_a_run_asks_for_can_be_computed_before(folders, table, tmp_path):  # noqa: F811
    """So that the folds of a cross-validation, trained at once, need not each."""
    config = quick(epochs=1, views=1, outliers=(str(table),), backgrounds=(str(table),))
    fill_cache(config, read_manifest(folders), tmp_path / "cache")
    there = sorted((tmp_path / "cache").iterdir())
    run(config, folders, tmp_path / "out", tmp_path)
    assert sorted((tmp_path / "cache").iterdir()) == there
    assert len(there) == 2 + 2 + 1  # clips, outliers, and how another microphone hears them; backgrounds


def test_outliers_that_cannot_be_read_are_named_and_left_out(folders, hiss, tmp_path, caplog):  # noqa: F811
    (hiss / "3.wav").write_text("no sound")
    with caplog.at_level(logging.WARNING):
        run(quick(epochs=1, outliers=(str(hiss),)), folders, tmp_path / "out", tmp_path)
    assert "3.wav cannot be read" in caplog.text
    for path in hiss.iterdir():
        path.write_text("no sound")
    with pytest.raises(ManifestError, match="hiss has no recording that can be read and is none of the classes"):
        run(quick(epochs=1, outliers=(str(hiss),)), folders, tmp_path / "none", tmp_path)


def test_mistakes_are_named_in_one_line(folders, table, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match=r"outlier_share is 1.5; allowed: 0 to 1"):
        TrainConfig(outlier_share=1.5)
    with pytest.raises(ValueError, match=r"energy_loss is -1; allowed: 0 or more"):
        TrainConfig(energy_loss=-1)
    with pytest.raises(ValueError, match=r"energy_margins is \(3.0, 1.0\); allowed: .*, the lower first"):
        TrainConfig(energy_margins=(3.0, 1.0))
    few = r"outlier_share is 0.02: 0 windows of a batch of 16; allowed: what makes 1 to 15"
    with pytest.raises(ValueError, match=few):
        TrainConfig(outlier_share=0.02, batch_size=16, outliers=(str(table),))
    with pytest.raises(ValueError, match=r"1 windows of a batch of 1; allowed: what makes 1 to 0"):
        TrainConfig(outlier_share=0.9, outliers=(str(table),)).outliers_in(1)
    (table / "negatives.csv").write_text("name\n")
    done = run_here("train", "fit", folders, "--recipe", "open", "--outliers", table, "--out", tmp_path / "bad", code=1)
    assert done.stderr.splitlines()[-1].startswith(f"Error: {table / 'negatives.csv'} has no column 'filename'")


def test_the_loss_of_outliers_is_least_where_all_classes_are_alike():
    loss, hinge = Loss(), EnergyHinge(1.0, low=-2.0, high=5.0)
    nothing, label = torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]])
    alike, sure = torch.full((1, 3), -4.0), torch.tensor([[-4.0, 6.0, -4.0]])
    assert loss(alike, nothing) < loss(sure, nothing)
    assert loss(alike, nothing) == pytest.approx(np.log(3))
    assert hinge(alike, nothing) == 0  # its energy is -2.9
    assert hinge(alike, label) == pytest.approx((5 - (np.log(3) - 4)) ** 2, rel=1e-5)
    assert hinge(sure, label) == 0
    both = hinge(torch.cat([sure, alike]), torch.cat([nothing, nothing]))
    assert both == pytest.approx((sure.logsumexp(1).item() + 2) ** 2 / 2, rel=1e-5)


def test_the_last_layer_stays_where_the_classes_are_the_same():
    """What `--recipe open --init bundled` begins with is the bundled network, to the bit."""
    bundled = load_checkpoint(BUNDLED)
    config = start_from(read_recipe("open"), "bundled")
    model = make_model(config, len(bundled.labels)).eval()
    initialise(model, config, bundled.labels)
    frames = torch.randn(2, 1, 64, model.window_frames, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(model(frames), bundled.model().float().eval()(frames))


# What is reported


def test_the_halves_are_reported_apart(table):
    labels = ("high", "low")
    assert {k: names(v) for k, v in strangers(table, labels, "report").items()} == {"speech": ["kept.wav"]}
    both = strangers(table, labels, "all")
    assert {k: names(v) for k, v in both.items()} == {"ambience": ["bell.wav"], "speech": ["plain.wav", "kept.wav"]}


def test_a_row_counts_what_a_listener_names(classifier: Classifier, tmp_path):
    spec = classifier.spec
    probs = np.zeros((4, len(spec.labels)), np.float32)
    probs[:, 0] = (1.0, 1.0, 0.05, 0.05)
    unknown = (True, False, False, True)
    result = FileResult(tmp_path, probs[0], probs, np.array([0, 9, 9, 0], np.float32), unknown)
    scores = Scores.of(spec, [result, FileResult(tmp_path, None, None, error="broken")])
    assert row("music", scores) == "| music | 1 | 4 |  |  | 50% | 25% |"
    assert row("music", scores, scores).split("|")[4:6] == [" 0.500 ", " 0.500 "]
    with pytest.raises(ManifestError, match="none of the recordings can be read"):
        Scores.of(spec, [FileResult(tmp_path, None, None, error="broken")])
