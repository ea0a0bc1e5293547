"""Which test files need no more than a device has: ``python -m tests.arm64`` prints them, ``--others`` the others,
``--alone`` those of them that start no other program, which takes half a minute under emulation each time.

Of a device: our wheel, its extras, and libraries for testing that have wheels for aarch64. Read by
deployment/raspberry_pi/check.sh, which runs these files in an arm64 root under emulation.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
LIBRARIES = ("hypothesis", "jsonschema", "onnx", "pytest")  # installed there beside the wheel
DEVICE = {
    *sys.stdlib_module_names, *LIBRARIES, "edge", "make_demo",
    "click", "httpx", "numpy", "onnxruntime", "paho", "prometheus_client", "rich", "sounddevice", "soundfile", "soxr",
}  # fmt: skip


def imported(path: Path, *, anywhere: bool) -> Iterator[str]:
    """Modules that a file imports: at its top, or ``anywhere``."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "tests":
            yield from (f"tests.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def missing(path: Path, *, anywhere: bool = True) -> set[str]:
    """What a test file needs, itself or through its helpers, that a device does not have."""
    found: set[str] = set()
    for module in imported(path, anywhere=anywhere):
        top, _, rest = module.partition(".")
        if top == "tests":
            helper = TESTS / f"{rest}.py"
            found |= missing(helper, anywhere=False) if helper != path and helper.exists() else set()
        elif top not in DEVICE:
            found.add(top)
    return found


def starts_programs(path: Path) -> bool:
    """Or uses a virtual microphone or machine."""
    return bool(re.search("subprocess|run_module|virtual_mic|tests.machine", path.read_text()))


def main() -> None:
    for path in sorted(TESTS.glob("test_*.py")):
        why = missing(path)
        if "--others" not in sys.argv and not why and not ("--alone" in sys.argv and starts_programs(path)):
            print(f"tests/{path.name}")
        if "--others" in sys.argv and why:
            print(f"tests/{path.name}: needs {', '.join(sorted(why))}")


if __name__ == "__main__":
    main()
