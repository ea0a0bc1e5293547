"""Run by CI with the interpreter of a clean environment that has nothing but the built wheel.

python wheel_check.py DEMO.ogg DEMO.csv
"""

import json
import subprocess
import sys
import sysconfig
from importlib import metadata, util
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from scoring import named, read_truth


def main(demo: str, truth: str) -> None:
    for heavy in ("torch", "torchaudio", "scipy", "onnx", "sklearn", "train", "models", "export",
                  "matplotlib", "jinja2", "librosa", "ai_edge_litert"):  # fmt: skip
        assert util.find_spec(heavy) is None, f"{heavy} came with the wheel"
    files = {str(f) for f in metadata.files("edge-listen") or ()}
    tops = {f.split("/")[0] for f in files if not f.startswith("..")}
    assert all(top == "edge" or top.endswith(".dist-info") for top in tops), tops
    for asset in (
        "edge-listen.int8.onnx",
        "edge-listen.onnx",
        "edge-listen.md",
        "edge-listen-tiny.int8.onnx",
        "voice.npz",
    ):
        assert f"edge/assets/{asset}" in files, f"{asset} is not in the wheel"

    scripts = Path(sysconfig.get_path("scripts"))
    done = subprocess.run(
        [scripts / "edge-listen", "--input", demo, "--output", "jsonl"], capture_output=True, text=True, check=True
    )
    events = read_truth(Path(truth))
    found = named([json.loads(line) for line in done.stdout.splitlines()], events)
    assert len(found) >= 0.75 * len(events), f"named only {found}"
    for command in (
        "edge-listen",
        "edge-classify",
        "edge-bench",
        "edge-inspect",
        "edge-calibrate",
        "edge-events",
        "edge-doctor",
    ):
        subprocess.run([scripts / command, "--version"], check=True)
    bench = [scripts / "edge-bench", "--rounds", "10", "--seconds", "0", "--output", "json"]
    measured = json.loads(subprocess.run(bench, capture_output=True, text=True, check=True).stdout)
    assert set(measured["results"]) == {"edge-listen.int8", "edge-listen"}
    refused = subprocess.run([*bench[:-1], "html"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "pip install 'edge-listen[bench]'" in refused.stderr
    memory = subprocess.run(
        [sys.executable, "-c", MEMORY, demo], capture_output=True, text=True, check=True
    ).stderr.split()[-1]
    assert int(memory) < 110_000_000, f"{memory} bytes resident"
    print(f"wheel: {len(found)} of {len(events)} events named, {int(memory) / 1e6:.0f} MB resident")


MEMORY = """
import resource, sys
from edge.cli.listen import main
sys.argv = ["edge-listen", "--input", sys.argv[1], "--output", "jsonl"]
try:
    main()
except SystemExit as end:
    assert not end.code
assert not {"torch", "scipy"} & set(sys.modules)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)
"""

if __name__ == "__main__":
    main(*sys.argv[1:])
