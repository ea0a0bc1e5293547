"""A publisher and a device in a folder, with models that are only bytes; and what happens to a device that is killed.

``python -m tests.update_world kill COUNT SEED FOLDER`` kills an updater and a listener at random instants,
``… crash FOLDER`` ends the process at each of its calls that change the file system. Both print JSON.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from edge.update import keys as publisher_keys
from edge.update import state as states
from edge.update.errors import UpdateError
from edge.update.keys import Keys
from edge.update.release import Release
from edge.update.repository import Repository
from edge.update.updates import UpdateConfig, Updates
from edge.update.versions import STATE, Versions

CALLS = ("open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "ftruncate", "symlink", "remove")
FALLBACK = b"the bundled model"
MODELS_SEEN, STATES_SEEN = 3, 5  # or two processes that are killed have not got anywhere
PATIENCE = 240.0  # seconds that they have for it


@contextmanager
def in_memory():
    """A folder that does not wait for a disk, where there is such a thing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def content(number, size=100_000):
    """The bytes of a model."""
    return random.Random(number).randbytes(size)


class World:
    """One repository and one device."""

    def __init__(self, folder, *, proof=lambda path: None, **config):
        self.folder = Path(folder)
        self.keys = Keys(self.folder / "keys")
        if not self.keys.folder.exists():
            publisher_keys.new(self.keys)
        self.repository = Repository(self.folder / "repository", self.keys)
        self.state = self.folder / "state"
        self.fallback = self.folder / "bundled.onnx"
        self.fallback.write_bytes(FALLBACK)
        self.root = self.folder / "root.json"
        if not self.root.exists():
            shutil.copy(self.keys.folder / "root.json", self.root)
        self.proof = proof
        self.config = {"url": str(self.repository.folder), "root": str(self.root), "state": str(self.state)} | config

    def publish(self, model=1, *, days=30.0, **facts):
        """A release of the model of that number."""
        path = self.folder / "model.onnx"
        path.write_bytes(content(model) if isinstance(model, int) else model)
        facts = {"name": "noise", "version": str(model)[:8], **facts}
        return self.repository.publish(path, Release(1, "0" * 64, 1, **facts), days=days)

    def updates(self, **config):
        return Updates(UpdateConfig(**self.config | config), proof=self.proof)

    def fetch(self, **config):
        return self.updates(**config).fetch()

    def versions(self):
        return Versions(self.state, fallback=self.fallback)

    def current(self):
        """The bytes that run."""
        return self.versions().current().read_bytes()

    def promote(self):
        return self.versions().promote(self.candidate())

    def candidate(self):
        """The candidate, or an UpdateError."""
        if (candidate := self.versions().candidate()) is None:
            raise UpdateError("usage", "no candidate", remedy="fetch")
        return candidate

    def adopt(self):
        """Fetch and promote."""
        found = self.fetch()
        if self.versions().candidate():
            self.promote()
        return found


def whole(world, allowed):
    """The bytes of the current model, which must be what the state says and one of ``allowed``."""
    state = states.read(world.state / STATE)  # raises where it is broken
    versions = world.versions()
    current = versions.current()
    assert state.current is None or current == versions.path(state.current), "the current model was gone"
    assert state.candidate is None or versions.is_whole(state.candidate), "the candidate was gone"
    assert all(versions.is_whole(release) for release in state.former), "a former model was gone"
    found = current.read_bytes()
    assert found in allowed, f"{current} is neither the old model nor the new one"
    return found


@contextmanager
def failing(at, act, *, ever_after=False):
    """Within, the call number ``at`` of those that change the file system ends in ``act()``. Yields the count."""
    count, originals = [0], {name: getattr(os, name) for name in CALLS}

    def wrapped(name):
        def call(*arguments, **settings):
            if name == "open" and not arguments[1] & (os.O_CREAT | os.O_DIRECTORY):
                return originals[name](*arguments, **settings)  # only read
            count[0] += 1
            if count[0] == at or (ever_after and count[0] > at):
                act()
            return originals[name](*arguments, **settings)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name))
    try:
        yield count
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def disk_fails(code):
    def act():
        raise OSError(code, os.strerror(code))

    return act


# What a device does: the models before it and after it, what leads there, and the deed.
def _at(world, *adopted, then=None, fetched=False):
    for number in adopted:
        world.publish(number)
        world.adopt()
    if then is not None:
        world.publish(then)
    if fetched:
        world.fetch()


def _withdrawn(world):
    _at(world, 1, 2)
    world.repository.withdraw(None, "stable")


DEEDS = {
    "first fetch": (None, None, lambda w: _at(w, then=1), lambda w: w.fetch()),
    "fetch": (1, 1, lambda w: _at(w, 1, then=2), lambda w: w.fetch()),
    "promote": (1, 2, lambda w: _at(w, 1, then=2, fetched=True), lambda w: w.promote()),
    "reject": (
        1, 1, lambda w: _at(w, 1, then=2, fetched=True),
        lambda w: w.versions().reject(w.candidate(), "test"),
    ),
    "rollback": (2, 1, lambda w: _at(w, 1, 2), lambda w: w.versions().rollback()),
    "prune": (4, 5, lambda w: _at(w, 1, 2, 3, 4, then=5, fetched=True), lambda w: w.promote()),
    "withdraw": (2, 1, _withdrawn, lambda w: w.fetch()),
}  # fmt: skip


def bytes_of(model):
    return FALLBACK if model is None else content(model)


def prepared(folder, deed):
    """A world before the deed, to be copied."""
    world = World(folder)
    DEEDS[deed][2](world)
    return world


def copy_of(world, folder):
    """Another world in the same state."""
    shutil.copytree(world.folder, folder, symlinks=True)
    return World(folder)


def crash(folder):
    """End the process at every call of every deed. Returns how many calls each has."""
    counts = {}
    for deed, (before, after, _, do) in DEEDS.items():
        template, at = prepared(folder / f"{deed} template", deed), 0
        while True:
            at += 1
            world = copy_of(template, folder / f"{deed} {at}")
            if (child := os.fork()) == 0:
                with failing(at, lambda: os._exit(9)):
                    do(world)
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert code in (0, 9), (deed, at, code)
            with suppress(FileNotFoundError):
                whole(world, (bytes_of(before), bytes_of(after)))
            with suppress(UpdateError):  # it had happened
                do(world)
            assert whole(world, [bytes_of(after), *([FALLBACK] if deed == "rollback" else [])]) is not None
            shutil.rmtree(world.folder)
            if code == 0:
                break
        counts[deed] = at - 1
    return counts


def live(world, seed, role):
    """What an updater or a listener does, for ever, in random order."""
    chance = random.Random(seed)
    updates, versions = world.updates(), world.versions()
    while True:
        with suppress(UpdateError):
            if role == "updater":
                updates.fetch()
                if chance.random() < 0.3:
                    versions.forget_rejections()
            elif (candidate := versions.candidate()) and chance.random() < 0.8:
                versions.promote(candidate)
            elif candidate:
                versions.reject(candidate, "by chance")
            elif chance.random() < 0.5:
                versions.rollback()
            versions.current()


def kill(count, seed, folder):
    """Kill an updater and a listener at ``count`` random instants, and at more where a machine is too busy for the two
    to get anywhere in between. Returns what was seen.
    """
    chance, world = random.Random(seed), World(folder)
    allowed, seen, numbers, kills = [FALLBACK], set(), set(), 0
    until = time.monotonic() + PATIENCE
    for i in itertools.count():
        if i >= count and ((len(seen) >= MODELS_SEEN and len(numbers) >= STATES_SEEN) or time.monotonic() > until):
            break
        if i % 10 == 0:
            world.publish(i)
            allowed.append(content(i))
        children = []
        for role in ("updater", "listener"):
            if (child := os.fork()) == 0:
                with suppress(BaseException):
                    live(world, chance.random() + i, role)
                os._exit(1)
            children.append(child)
        time.sleep(chance.uniform(0, 0.3))
        for child in chance.sample(children, 2):
            os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert code == -signal.SIGKILL, f"a process ended by itself, {code}"
            kills += 1
        with suppress(FileNotFoundError):
            found = whole(world, allowed)
            seen.add(hashlib.sha256(found).hexdigest())
            state = world.versions().state()
            numbers.add((state.current and state.current.number, state.candidate and state.candidate.number))
    versions = world.versions()
    versions.forget_rejections()
    world.adopt()
    assert whole(world, allowed) == allowed[-1]
    files = sorted(path.name for path in (world.state / "models").iterdir())
    assert files == sorted({f"{release.sha256}.onnx" for release in versions.state().releases()}), "files are left over"
    assert not list((world.state / "metadata").glob("tmp*")), "temporary files are left over"
    return {"kills": kills, "models seen": len(seen), "states seen": len(numbers)}


def main(what, *arguments):
    """See the module."""
    if what == "crash":
        print(json.dumps(crash(Path(arguments[0]))))
    else:
        count, seed, folder = arguments
        print(json.dumps(kill(int(count), int(seed), Path(folder))))


if __name__ == "__main__":
    main(*sys.argv[1:])
