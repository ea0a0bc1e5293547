"""Models by name: files, folders, and a hub that a local server plays."""

import json
import os
import re
import shutil
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.bulk import classify_files
from edge.classifier import Classifier
from edge.errors import ContractError
from edge.models import BUNDLED, BUNDLED_NAMES, resolve
from tests.conftest import FP32, run_module

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BASE = {
    k: v for k, v in os.environ.items() if not k.startswith(("HF_", "EDGE_", "HUGGING", "http_proxy", "HTTP_PROXY"))
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks, of the repositories that are folders of ``root``, OWNER/NAME.

    They have the revisions main, refs/pr/1 and COMMIT; those of the owner "gated" are gated.
    """

    protocol_version = "HTTP/1.1"
    root: Path
    fetched: list[str]

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        path = self.path.split("?")[0].strip("/")
        if found := re.fullmatch(r"api/models/(\w+)/([\w-]+)(?:/(revision|tree)/([^/]+))?", path):
            owner, name, kind, revision = found.groups()
            answer, inside = self.tree if kind == "tree" else self.commit, []
        elif found := re.fullmatch(r"(\w+)/([\w-]+)/resolve/([^/]+)/(.+)", path):
            owner, name, revision, *inside = found.groups()
            answer = self.file
        else:  # what a version of the client asks besides
            return self.refuse(404, "NotFound")
        repository = self.root / owner / name
        if not repository.is_dir():
            return self.refuse(401, "RepoNotFound")
        if revision not in (None, "main", "refs%2Fpr%2F1", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if owner == "gated" and answer == self.file:
            return self.refuse(403, "GatedRepo")
        path = repository.joinpath(*inside)
        if inside and not path.is_file():
            return self.refuse(404, "EntryNotFound")
        content = answer(path)
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{zlib.crc32(content)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)
        return None

    def commit(self, repository):
        owner, name = repository.parts[-2:]
        return json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": self.files(repository)}).encode()

    def tree(self, repository):
        return json.dumps(self.files(repository)).encode()

    def files(self, repository):
        return [
            {
                "type": "file",
                "path": name,
                "rfilename": name,
                "size": p.stat().st_size,
                "oid": str(zlib.crc32(p.read_bytes())),
            }
            for p in repository.rglob("*.onnx")
            for name in [p.relative_to(repository).as_posix()]
        ]

    def file(self, path):
        if self.command == "GET":
            self.fetched.append(path.name)
        return path.read_bytes()

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with a package, one in a folder, one of fp32 alone, and a repository without any."""
    pytest.importorskip("huggingface_hub", reason="the extra edge-listen[hub] is not installed")
    root = tmp_path_factory.mktemp("hub")
    for folder, models in {
        "me/both": {BUNDLED: "model.int8.onnx", FP32: "model.onnx"},
        "me/both/small": {BUNDLED_NAMES["tiny"]: "model.int8.onnx"},
        "me/fp32": {FP32: "model.onnx"},
        "me/none": {},
        "gated/model": {BUNDLED: "model.int8.onnx"},
    }.items():
        (root / folder).mkdir(parents=True)
        for source, name in models.items():
            shutil.copy(source, root / folder / name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (Hub,), {"root": root, "fetched": (fetched := [])}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", fetched=fetched)
    server.shutdown()
    server.server_close()


@pytest.fixture
def inspect(hub, tmp_path):
    """``edge-inspect``, a process of its own with a cache of its own, at that hub."""

    def run(model, code=0, **env):
        hub.fetched.clear()
        env = BASE | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"} | env
        return run_module("edge.cli.inspect", model, code=code, env=env)

    return run


def test_a_repository_is_loaded_once_and_no_more_of_it_than_needed(inspect, hub):
    done = inspect("hf://me/both")
    assert "edge-listen, int8" in done.stdout
    assert not done.stderr
    assert hub.fetched == ["model.int8.onnx"]
    inspect("hf://me/both")
    assert not hub.fetched


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("hf://me/fp32", "edge-listen, fp32"),
        ("hf://me/both/small", "edge-listen-tiny, int8"),
        ("hf://me/both@refs%2Fpr%2F1/small/", "edge-listen-tiny, int8"),
        (f"hf://me/both@{COMMIT}", "edge-listen, int8"),
    ],
)
def test_folders_and_revisions(inspect, model, shown):
    assert shown in inspect(model).stdout


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("hf://me/nothing", "hf://me/nothing does not exist, or is private (check the name"),
        ("hf://gated/model", "hf://gated/model is gated: its owners choose who may load it (ask them"),
        ("hf://me/both@v9", "hf://me/both@v9 does not exist in that revision"),
        ("hf://me/none", "hf://me/none has neither model.int8.onnx nor model.onnx"),
        ("hf://me/both/large", "hf://me/both/large has neither"),
        ("hf://me/a--b", "hf://me/a--b cannot be loaded: "),
        ("hf://me", "hf://me names no model (write hf://owner/name[@revision][/folder])"),
        ("hf://", "hf:// names no model"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(inspect, model, reason):
    lines = inspect(model, code=3).stderr.splitlines()
    assert reason in lines[-1]
    assert len(lines) == 1


def test_without_a_network_the_cache_serves_and_the_error_says_what_to_do(inspect):
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    carry = "download its folder, copy it here, and give --model FOLDER"
    unreachable = inspect("hf://me/both", code=3, **nobody).stderr
    assert "hf://me/both is not in the cache, and the hub cannot be reached (check the network, or" in unreachable
    assert carry in unreachable
    offline = inspect("hf://me/both", code=3, HF_HUB_OFFLINE="1").stderr
    assert "hf://me/both is not in the cache, and HF_HUB_OFFLINE is set (unset it, or" in offline
    assert carry in offline
    for model in ("hf://me/both", "hf://me/fp32"):
        online = inspect(model).stdout
        assert inspect(model, **nobody).stdout == online
        assert inspect(model, HF_HUB_OFFLINE="1").stdout == online


def test_every_command_takes_a_repository(hub, tmp_path, tone_wav):
    env = BASE | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "EDGE_LISTEN_MODEL": "hf://me/both/small"}
    heard = run_module("edge.cli.listen", "--input", tone_wav, "--output", "text", env=env)
    assert "with edge-listen-tiny int8" in heard.stdout
    config = tmp_path / "x.toml"
    config.write_text('model = "hf://me/both/small"\nworkers = 2\n')
    assert "tone.wav" in run_module("edge.cli.classify", tone_wav, tone_wav, "--config", config, env=env).stdout
    arguments = ("--model", "hf://me/both/small", "--rounds", 10, "--seconds", 0)
    assert "# model.int8 on" in run_module("edge.cli.bench", *arguments, env=env).stdout


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ContractError, match=r"needs huggingface_hub.*pip install 'edge-listen\[hub\]'"):
        resolve("hf://me/both")


def test_a_folder_is_its_int8_file_or_else_its_other_one(tmp_path):
    with pytest.raises(ContractError, match=r"folder .* has neither model\.int8\.onnx nor model\.onnx"):
        resolve(tmp_path)
    shutil.copy(FP32, tmp_path / "model.onnx")
    assert Classifier(tmp_path).spec.provenance.precision == "fp32"
    shutil.copy(BUNDLED, tmp_path / "model.int8.onnx")
    assert Classifier(str(tmp_path)).spec.provenance.precision == "int8"


def test_a_folder_for_many_files(tmp_path, tone_wav):
    shutil.copy(BUNDLED, tmp_path / "model.int8.onnx")
    (result,) = classify_files([tone_wav], tmp_path)
    assert result.error is None


def test_names_that_are_files():
    assert resolve(None) == BUNDLED
    assert resolve("tiny") == resolve(Path("tiny")) == BUNDLED_NAMES["tiny"]
    assert resolve("no.onnx") == Path("no.onnx")
    assert resolve("x" * 5000) == Path("x" * 5000)  # no file system has it: who reads it will say so
