"""Thousands of repositories with something wrong in them: none brings a device anything that was not published."""

import copy
import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from edge.update import keys as publisher_keys
from edge.update.errors import REFUSALS, UpdateError
from edge.update.keys import Keys
from edge.update.repository import Repository
from tests.update_world import FALLBACK, World, content, in_memory

SIZE = 5_000  # bytes of a model


class Attack:
    """A publisher's repository after each of three releases, one of another publisher, and devices of two kinds."""

    def __init__(self, folder):
        self.world = World(folder / "world")
        self.times = []
        for number in (1, 2, 3):
            self.world.publish(content(number, SIZE), version=str(number))
            if number == 3:  # the newest comes with a new root
                publisher_keys.rotate(self.world.keys, ("root", "timestamp"))
                self.world.repository.refresh()
            self.times.append(shutil.copytree(self.world.repository.folder, folder / f"time {number}"))
            if number == 2:
                self.world.adopt()
        keys = Keys(folder / "other keys")
        publisher_keys.new(keys)
        other = Repository(folder / "other", keys)
        for number in (1, 2, 3):
            self.world.repository = other
            self.world.publish(content(number + 10, SIZE), version=str(number))
        self.other = other.folder
        self.truth = self.files(self.times[-1])
        self.seen = self.world.state
        self.folder = folder / "served"

    @staticmethod
    def files(folder):
        """Bytes by path."""
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    def used(self, old):
        """The files that the device reads."""
        root = [f"metadata/{n}.root.json" for n in (2,)]
        newest = [max(p for p in self.truth if p.endswith(f".{role}.json")) for role in ("targets", "snapshot")]
        model = next(path for path in self.truth if "/3/" in path)
        return [*root, "metadata/timestamp.json", *newest, model]

    def outcome(self, files, old):
        """What a device makes of ``files``: a refusal, or the bytes of its candidate. ``old``: it has release 2."""
        for folder in (self.folder, self.world.state):
            shutil.rmtree(folder, ignore_errors=True)
        if old:
            shutil.copytree(self.states, self.world.state, symlinks=True)
        for path, data in files.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(data)
        try:
            self.world.fetch(url=str(self.folder))
        except UpdateError as error:
            return error.refusal if "\n" not in str(error) else "more than one line"
        finally:
            assert self.world.current() == (content(2, SIZE) if old else FALLBACK)
        candidate = self.world.versions().candidate()
        return None if candidate is None else candidate.path.read_bytes()


@pytest.fixture(scope="module")
def attack():
    with in_memory() as folder:
        made = Attack(folder)
        made.states = shutil.copytree(made.seen, folder / "states", symlinks=True)
        yield made


def flipped(chance, attack, files, path):
    """One bit."""
    data = bytearray(files[path])
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    files[path] = bytes(data)


def cut(chance, attack, files, path):
    files[path] = files[path][: chance.randrange(len(files[path]))]


def longer(chance, attack, files, path):
    files[path] += chance.randbytes(chance.randrange(1, 2000))


def noise(chance, attack, files, path):
    files[path] = chance.randbytes(chance.randrange(3000))


def gone(chance, attack, files, path):
    del files[path]


def edited(chance, attack, files, path):
    """A field of the JSON has another value, or none."""
    if not path.endswith(".json"):
        return flipped(chance, attack, files, path)
    document = json.loads(files[path])
    places = list(leaves(document))
    parent, key = chance.choice(places)
    values = (0, 1, -1, 2**63, "", "x", None, [], {}, True, 1.5, "2100-01-01T00:00:00Z", [[[]]], "0" * 64, 3, 99)
    if chance.random() < 0.2:
        del parent[key]
    else:
        parent[key] = copy.deepcopy(chance.choice(values))
    files[path] = json.dumps(document).encode()
    return None


def leaves(node):
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(pairs):
        yield node, key
        yield from leaves(value)


def of_another_time(chance, attack, files, path):
    """The file of an older release in the place of the newest."""
    role = path.split(".")[-2] if path.endswith(".json") else "/2/"
    older = attack.files(chance.choice(attack.times[:2]))
    same = [p for p in older if f"{role}.json" in p or role in p]
    files[path] = older[chance.choice(same)] if same else b""


def of_another_publisher(chance, attack, files, path):
    theirs = attack.files(attack.other)
    role = path.split(".")[-2] if path.endswith(".json") else "/3/"
    files[path] = theirs[max(p for p in theirs if f"{role}.json" in p or role in p)]


def swapped(chance, attack, files, path):
    other = chance.choice([p for p in files if files[p] != files[path]])
    files[path], files[other] = files[other], files[path]


def replayed(chance, attack, files, path):
    """The whole repository as it was before."""
    files.clear()
    files.update(attack.files(chance.choice(attack.times[:2])))


def signed_again(chance, attack, files, path):
    """The newest metadata, with the signature of another publisher's key under the right key's name."""
    path = chance.choice([p for p in attack.used(True) if p.endswith(".json")])
    metadata = Metadata.from_bytes(files[path])
    if chance.random() < 0.7:
        metadata.signed.version += chance.randrange(3)
    role = path.split(".")[-2].rpartition("/")[2]
    signer = Keys(attack.other.parent / "other keys").signers(role)[0]
    keyids = list(metadata.signatures)
    metadata.sign(signer)
    (signature,) = metadata.signatures.values()
    metadata.signatures.clear()
    for keyid in keyids:
        signature.keyid = keyid
        metadata.signatures[keyid] = copy.copy(signature)
    files[path] = metadata.to_bytes()


KINDS = (
    flipped, cut, longer, noise, gone, edited, edited, of_another_time, of_another_publisher, swapped, replayed,
    signed_again,
)  # fmt: skip


def says_the_same(attack, files):
    """Whether what is signed is what was published: a digit of a signature may be A or a, a number of it not."""
    for path in attack.used(True):
        if files.get(path) == attack.truth[path]:
            continue
        try:
            found, truth = Metadata.from_bytes(files[path]), Metadata.from_bytes(attack.truth[path])
        except Exception:
            return False
        if found.signed_bytes != truth.signed_bytes:
            return False
    return True


def run(attack, seeds):
    """The outcomes, by kind."""
    found = Counter()
    for seed in seeds:
        chance = random.Random(seed)
        kind, old = KINDS[seed % len(KINDS)], chance.random() < 0.6
        # To a device that has seen nothing, an old copy that has not expired is as good as new.
        old = old or kind is replayed
        files = dict(attack.truth)
        kind(chance, attack, files, chance.choice(attack.used(old)))
        outcome = attack.outcome(files, old)
        if outcome is None:  # a device whose root is not renewed sees nothing new, and says nothing
            found["nothing new"] += 1
            assert kind in (replayed, gone, swapped), (seed, kind)
        elif outcome in REFUSALS:
            found[outcome] += 1
        else:
            assert outcome == content(3, SIZE), (seed, kind)
            assert says_the_same(attack, files), (seed, kind)
            found["the same"] += 1
    return found


def test_the_truth_is_taken(attack):
    for old in (True, False):
        assert attack.outcome(attack.truth, old) == content(3, SIZE)


def test_a_few_hundred(attack):
    found = run(attack, range(300))
    print(found)
    assert {"wrong key", "mixed", "tampered", "damaged", "unreachable", "rollback"} <= found.keys()
    assert found["the same"] + found["nothing new"] < 60


@pytest.mark.slow
def test_three_thousand(attack):
    found = run(attack, range(1000, 4000))
    print(found)
    assert sum(found.values()) == 3000


def test_a_tampered_state_of_the_device_is_begun_anew_or_refused(attack):
    """What a card has done to the metadata that the device had seen."""
    names = [str(p.relative_to(attack.states)) for p in Path(attack.states, "metadata").rglob("*.json")]
    for seed in range(60):
        chance = random.Random(seed)
        shutil.rmtree(attack.world.state, ignore_errors=True)
        shutil.copytree(attack.states, attack.world.state, symlinks=True)
        path = attack.world.state / chance.choice(names)
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data)) :] = b"" if seed % 2 else b"\x00" * 100
        path.write_bytes(data)
        attack.world.fetch(url=str(attack.times[-1]))
        assert attack.world.versions().candidate().path.read_bytes() == content(3, SIZE)
