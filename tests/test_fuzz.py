"""Thousands of damaged model files: each is proven or refused in one line; none crashes, hangs or writes anywhere."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tests import mutants
from tests.conftest import EMULATED, ROOT

# onnxruntime 1.31 ends the process where the shapes that it infers for a Slice are negative, as behind a convolution
# longer than its input: https://github.com/onnx/onnx/issues/8481. Only a graph that was signed to be wrong has such
# shapes, and nothing but inferring all shapes ourselves would find them. Every other death of a worker is a failure.
KNOWN_ABORT = re.compile(r"std::clamp.*Assertion '!\(__hi < __lo\)' failed")


def fuzz(folder, first, last, sabotage="pass"):
    """The outcome of each mutant from ``first`` to ``last`` - 1, by seed; workers run in ``folder``."""
    found, deaths = {}, []
    while first < last:
        code = f"import os, time; from tests import mutants; {sabotage}; mutants.main({first}, {last})"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=folder,
            timeout=mutants.SECONDS + last - first, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines, done.stderr
        found |= {line["seed"]: line for line in lines}
        if done.returncode == 0:
            assert not done.stderr
            break
        deaths.append(lines[-1] | {"code": done.returncode, "stderr": done.stderr.strip()})
        first = lines[-1]["seed"] + 1
    return found, deaths


def assert_harmless(folder, count):
    """Run the first ``count`` mutants. Returns how many signed ones came how far."""
    found, deaths = fuzz(folder, 0, count)
    assert sorted(found) == list(range(count))
    assert listing(folder) == [mutants.MUTANT]
    assert {line["kind"] for line in found.values()} == {kind.__name__ for kind in mutants.RAW + mutants.SIGNED}
    for death in deaths:
        assert death["kind"].startswith("signed_"), death
        assert death["code"] == -signal.SIGABRT, death
        assert KNOWN_ABORT.search(death["stderr"]), death
        del found[death["seed"]]
    assert len(deaths) <= count / 500
    wrong = [line for line in found.values() if not re.fullmatch(r"proven|refused: .{1,1000}", line["outcome"])]
    assert not wrong
    raw = [line for line in found.values() if not line["kind"].startswith("signed_")]
    whole = tuple(mutants.bundled(index)[0] for index in range(len(mutants.NAMES)))
    for line in raw:  # words of the contract may differ, the graph never
        assert line["outcome"] != "proven" or mutants.mutant(line["seed"])[1].startswith(whole), line
    stages = {"proven": "proven", "load": "model that can be loaded:", "self-test": "fails its self-test"}
    signed = [line["outcome"] for line in found.values() if line not in raw]
    return {stage: sum(words in outcome for outcome in signed) for stage, words in stages.items()}


def listing(folder):
    """The names in a folder."""
    return [path.name for path in folder.iterdir()]


def test_a_few_hundred_mutants(tmp_path):
    reached = assert_harmless(tmp_path, 400)
    assert min(reached.values()) >= 10  # onnxruntime itself was reached


@pytest.mark.slow
def test_ten_thousand_mutants(tmp_path):
    """About a minute and a half."""
    assert_harmless(tmp_path, 10_000)


def test_a_seed_is_a_mutant():
    for seed in range(12):
        assert mutants.mutant(seed) == mutants.mutant(seed)


def test_every_kind_of_harm_is_seen(tmp_path):
    """In place of loading: what must never come of a mutant."""
    faults = {
        "1 / 0": "raised ZeroDivisionError",
        "bytearray(mutants.MEMORY)": "raised MemoryError",
        "open('elsewhere', 'w')": "raised SystemExit: opened 'elsewhere' to write",
        "os.mkdir('elsewhere')": "raised SystemExit: os.mkdir",
        "open('mutant.onnx', 'wb')": "raised: the file was changed",
        "os.abort()": None,
    }
    if EMULATED:
        del faults["bytearray(mutants.MEMORY)"]
    calls = ", ".join(f"lambda: {fault}" for fault in faults)
    sabotage = f"calls = iter([{calls}]); mutants.Classifier = lambda path: next(calls)()"
    found, deaths = fuzz(tmp_path, 0, len(faults), sabotage)
    for line, expected in zip(found.values(), faults.values(), strict=True):
        assert line.get("outcome", "died").startswith(expected or "died")
    assert [(death["seed"], death["code"]) for death in deaths] == [(len(faults) - 1, -signal.SIGABRT)]
    assert listing(tmp_path) == [mutants.MUTANT]


def test_a_hang_is_seen(tmp_path):
    hang = "mutants.SECONDS = 0.2; mutants.Classifier = lambda path: time.sleep(60)"
    _, deaths = fuzz(tmp_path, 0, 1, hang)
    assert [(death["seed"], death["code"]) for death in deaths] == [(0, -signal.SIGALRM)]
