"""System calls of a program, as strace saw them: what was opened, connected and written, and with which bytes."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

STRACE = shutil.which("strace")
# Everything by which bytes can leave a process. A question mark: not on every processor.
OUTPUT = [
    "write", "writev", "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg", "sendmmsg", "sendfile", "splice",
    "vmsplice", "tee", "copy_file_range", "process_vm_writev",
]  # fmt: skip
CHANGES = [
    "?open", "openat", "openat2", "?creat", "?rename", "renameat", "renameat2", "?link", "linkat", "?symlink",
    "symlinkat", "?mknod", "mknodat", "?mkdir", "mkdirat", "truncate", "ftruncate", "fallocate", "fsync",
    "fdatasync", "sync_file_range", "connect", "mmap", "io_uring_setup", "memfd_create", "shmat",
]  # fmt: skip
CALL = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>.*)", re.DOTALL)
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Call:
    """One system call that has succeeded."""

    name: str
    arguments: str
    result: str

    @property
    def target(self) -> str:
        """What its first file descriptor is: a path, or strace's name of a pipe or socket."""
        found = re.match(r"\d+<(.*?)>(?:,|$)", self.arguments) if self.name != "mmap" else None
        return found.group(1) if found else ""

    @property
    def payload(self) -> bytes:
        """The bytes that went out."""
        return b"".join(ast.literal_eval(f'b"{text}"') for text in TEXT.findall(self.arguments))


def command(trace: Path, program: list[str], *, calls: list[str], payload: int = 1 << 20) -> list[str]:
    """``program`` under strace, with all its threads and children."""
    return [
        STRACE, "-f", "-yy", "--seccomp-bpf", "-s", str(payload), "-e", "signal=none",
        "-e", f"trace={','.join(calls)}", "-o", str(trace), *program,
    ]  # fmt: skip


def works() -> bool:
    """Whether strace is here, and may trace."""
    if STRACE is None:
        return False
    return subprocess.run([STRACE, "-o", "/dev/null", "true"], capture_output=True).returncode == 0


def read(trace: Path) -> list[Call]:
    """The calls that succeeded."""
    calls, begun = [], {}
    for line in trace.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        pid = line.split(" ", 1)[0]
        if line.endswith("<unfinished ...>"):
            begun[pid] = line.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"\d+ +<\.\.\. \w+ resumed>(.*)", line):
            whole = begun.pop(pid) + resumed.group(1)
        else:
            whole = line
        if (found := CALL.match(whole)) and not found["result"].startswith("-1 "):
            calls.append(Call(found["name"], found["arguments"], found["result"]))
    return calls


def opened_for_writing(calls: list[Call]) -> set[str]:
    """The paths of files that were opened to be written, or created."""
    flags = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND")
    found = set()
    for call in calls:
        if call.name in ("open", "openat", "openat2", "creat") and (
            call.name == "creat" or flags.search(call.arguments)
        ):
            found.add(re.match(r"\d+<(.*)>", call.result).group(1))
    return {path for path in found if not path.startswith("/dev/null")}


def shared_mappings(calls: list[Call]) -> set[str]:
    """Files that were mapped so that writing to memory writes to them."""
    maps = [
        c.arguments for c in calls if c.name == "mmap" and "MAP_SHARED" in c.arguments and "PROT_WRITE" in c.arguments
    ]
    return {found.group(1) for a in maps if (found := re.search(r"\d+<(.*)>", a))}


def written(calls: list[Call]) -> Counter[str]:
    """How many calls have written to each target."""
    return Counter(call.target for call in calls if call.name in OUTPUT)


def is_file(target: str) -> bool:
    """Whether a target lies on a disk."""
    return target.startswith("/") and not target.startswith(
        ("/dev/null", "/dev/pts", "/dev/tty", "/memfd:", "/dev/shm/")
    )
