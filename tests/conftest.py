"""Shared fixtures. Nothing here needs sound hardware or ``../shared``; what needs them skips, and says so."""

from __future__ import annotations

import importlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# One thread for each test process, before numpy and torch start theirs: they would fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What edge-bench --tune has found on this machine is nothing that a test should depend on.
os.environ["XDG_STATE_HOME"] = os.devnull

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from edge.classifier import Classifier
from edge.models import BUNDLED
from tests.virtual_mic import VirtualMicrophone, missing

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("EDGE_LISTEN_SHARED", ROOT.parent / "shared"))
ESC50 = SHARED / "data" / "esc50"
# What is in it cannot be seen, for another reason than usual: root may enter every folder.
NOT_TO_BE_ENTERED = "/tmp/" + "x" * 300
FP32 = BUNDLED.with_name("edge-listen.onnx")


LONGEST = (  # begin first: the last one would run alone
    "test_machine_systemd", "test_soak", "test_machine_alsa", "test_microphone_real",
    "test_runs", "test_train", "test_export", "test_listen",
)  # fmt: skip

STAT = Path("/proc/self/stat")
# qemu's translation of a program: what memory it has is neither told nor limited.
EMULATED = STAT.exists() and STAT.read_text().rpartition(")")[2].split()[21] == "0"
not_emulated = pytest.mark.skipif(EMULATED, reason="an emulated processor, where memory is neither told nor limited")
needs_esc50 = pytest.mark.skipif(not ESC50.is_dir(), reason=f"real recordings are not there: {ESC50}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files as a whole, the longest first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def run_module(module, *arguments, code=0, timeout=300, **options):
    """``python -m module`` to its end; the exit code must be ``code``, and nothing may look like a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=timeout, **options,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def run_here(module, *arguments, code=0):
    """As :func:`run_module`, in this process: for the many mistakes, as torch takes seconds to start."""
    command = importlib.import_module(f"{module}.__main__").main
    done = CliRunner().invoke(command, [*map(str, arguments)], prog_name=f"python -m {module}")
    assert done.exit_code == code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def resident(pid):
    """Bytes of memory that another process has resident now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """The bundled int8 model."""
    return Classifier()


@pytest.fixture(scope="session")
def minute() -> np.ndarray:
    """A minute of synthesised scene at the model's rate, made here rather than decoded."""
    import make_demo

    samples, _ = make_demo.scene()
    return samples[::2].astype(np.float32)  # 32 to 16 kHz; aliasing does no harm here


@pytest.fixture(scope="session")
def demo() -> Path:
    """The bundled recording."""
    return ROOT / "examples" / "demo.ogg"


@pytest.fixture
def tone_wav(tmp_path: Path) -> Path:
    """Five seconds of a 1 kHz tone, 16 kHz mono."""
    path = tmp_path / "tone.wav"
    time = np.arange(80_000) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 1000 * time), 16_000)
    return path


@pytest.fixture(scope="module")
def virtual_mic() -> Iterator[VirtualMicrophone]:
    """A real PulseAudio source behind PortAudio."""
    if why := missing():
        pytest.skip(f"no virtual microphone: {why}")
    with VirtualMicrophone() as microphone:
        yield microphone
