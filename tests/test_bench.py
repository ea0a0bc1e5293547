"""``edge-bench``: what it measures is there, and adds up."""

import json
from functools import partial

from edge.bench import STAGES, bench, resident_bytes, synthetic_audio
from tests.conftest import run_module

run = partial(run_module, "edge.cli.bench")


def test_json_has_every_stage_of_both_precisions():
    report = json.loads(run("--rounds", 40, "--seconds", 1, "--json").stdout)
    assert report["machine"]["cores"] >= 1
    int8, fp32 = report["results"]
    assert (int8["precision"], fp32["precision"]) == ("int8", "fp32")
    for result in report["results"]:
        for mode in ("hot", "cold"):
            assert set(result[mode]) == set(STAGES)
            for p in result[mode].values():
                assert 0 < p["p50"] <= p["p95"] <= p["p99"]
        assert set(result["paced"]) == {"hop"}
        assert 0 < result["paced_cpu"] < 1
        assert 0 < result["start_ms"] < result["process_ms"]
        assert 20 < result["memory_mb"] < 110


def test_table_names_the_stages(demo):
    out = run("--rounds", 10, "--seconds", 0, "--input", demo).stdout
    for text in ("front end, whole window, hot", "network, hop, cold", "a streamed hop costs", "resident memory"):
        assert text in out


def test_a_streamed_hop_costs_at_most_a_third_of_its_window():
    """Front end and network, in the same interleaved run; the best of three, for machines that do other things."""
    shares = []
    for _ in range(3):
        (result,) = bench([None], synthetic_audio(16_000), rounds=100, paced_seconds=0)
        shares.append(result.hop_over_window)
    assert min(shares) <= 1 / 3


def test_memory_is_read():
    assert 10e6 < resident_bytes() < 10e9


def test_mistakes(tmp_path):
    assert "error: model no.onnx does not exist" in run("--model", "no.onnx", code=3).stderr
    assert "does not exist" in run("--input", tmp_path / "no.wav", code=5).stderr
    assert "no cuda provider" in run("--provider", "cuda", code=6).stderr
